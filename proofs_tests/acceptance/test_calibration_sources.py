"""A calibrated score is a probability of acceptance; a drift test calls drift where it is, and rarely elsewhere."""

from __future__ import annotations

import numpy as np
import pytest

from reader_theory.acceptance import (
    calibrate,
    drift_test,
    expected_calibration_error,
    fit_acceptance,
    simulated_trace,
)
from reader_theory.acceptance.calibration import Scored, draft_scores, retrieval_scores
from reader_theory.errors import InvalidInputError

SIZE = 40_000


def scored(bend: float, seed: int = 0) -> Scored:
    """Scores that are right with chance ``score ** bend``."""
    generator = np.random.default_rng(seed)
    score = generator.random(SIZE)
    return Scored(score, generator.random(SIZE) < score**bend, np.arange(SIZE) // 100, is_probability=True)


def test_an_honest_score_has_no_calibration_error() -> None:
    found = calibrate(scored(1.0))
    assert found.raw_error is not None and found.raw_error < 0.012 and found.error < 0.015


def test_a_boastful_score_is_mapped_to_what_it_is_worth() -> None:
    found = calibrate(scored(3.0))
    grid = np.linspace(0.05, 0.95, 19)
    assert found.raw_error is not None and found.raw_error > 0.2
    assert found.error < 0.015 and np.abs(found(grid) - grid**3).max() < 0.04


def test_the_map_never_falls() -> None:
    generator = np.random.default_rng(5)
    noise = Scored(generator.random(400), generator.random(400) < 0.5, np.arange(400), is_probability=True)
    assert (np.diff(calibrate(noise)(np.linspace(0, 1, 101))) >= -1e-12).all()


def test_a_falling_score_is_caught_by_its_error() -> None:
    falling = scored(1.0)
    planted = Scored(1 - falling.score, falling.right, falling.document, is_probability=True)
    assert calibrate(planted).raw_error == pytest.approx(0.5, abs=0.02)


def test_expected_calibration_error_of_a_constant_is_its_distance_from_the_share() -> None:
    right = np.arange(1000) % 4 == 0
    assert expected_calibration_error(np.full(1000, 0.75), right) == pytest.approx(0.5)


def test_both_sources_of_a_trace_come_out_on_one_scale() -> None:
    trace = simulated_trace(prompts=60, spread=0.3, copying=0.05)
    draft, retrieval = calibrate(draft_scores(trace)), calibrate(retrieval_scores(trace))
    assert draft.error < 0.02 and retrieval.error < 0.05 and retrieval.raw_error is None
    assert retrieval(8.0) > retrieval(1.0)


def test_a_score_that_is_no_number_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="finite raw score"):
        calibrate(Scored(np.array([0.5, np.nan]), np.array([True, False]), np.array([0, 1]), is_probability=True))


def test_drift_is_rarely_called_between_traces_of_one_law() -> None:
    """Null: both traces are of one law. 20 tests at level 0.05: more than 3 calls have probability 0.016."""
    traces = [simulated_trace(prompts=16, tokens=80, spread=0.5, seed=seed) for seed in range(40)]
    calls = [
        drift_test(fit_acceptance(old, depth=1, resamples=100), new)[0].drifted
        for old, new in zip(traces[:20], traces[20:], strict=True)
    ]
    assert sum(calls) <= 3


def test_drift_that_the_report_calls_detectable_is_found() -> None:
    fit = fit_acceptance(simulated_trace((0.6, 0.1), prompts=40), resamples=200)
    same, moved = (drift_test(fit, simulated_trace(law, prompts=40, seed=9))[0] for law in ((0.6, 0.1), (0.52, 0.1)))
    assert not same.drifted and "No drift found" in same.advice
    assert moved.drifted and "plan again" in moved.advice
    assert all(abs(f.seen - f.fitted) > f.detectable for f in moved.findings)


def test_a_lost_source_is_drift() -> None:
    fit = fit_acceptance(simulated_trace(prompts=20, copying=0.05), resamples=100)
    report = drift_test(fit, simulated_trace(prompts=20))[0]
    assert report.drifted and "retrieval chain 4" in report.advice


def test_traces_without_a_common_workload_are_refused() -> None:
    fit = fit_acceptance(simulated_trace(prompts=4), resamples=100)
    with pytest.raises(InvalidInputError, match="share"):
        drift_test(fit, simulated_trace(prompts=4, workload="chat"))


def test_a_map_of_few_tokens_stays_near_a_score_that_is_a_probability() -> None:
    few = Scored(np.array([0.1, 0.5, 0.9]), np.array([True, False, True]), np.arange(3), is_probability=True)
    free, held = calibrate(few), calibrate(few, trust=20)
    assert np.abs(held(few.score) - few.score).max() < 0.06 < np.abs(free(few.score) - few.score).max()
    many = scored(1.0)
    assert np.allclose(calibrate(many)(many.score), calibrate(many, trust=20)(many.score), atol=0.02)
    matches = Scored(np.array([1.0, 4.0]), np.array([False, True]), np.arange(2), is_probability=False)
    assert calibrate(matches, trust=20)(np.array([1.0, 4.0])).tolist() == [0, 1]
