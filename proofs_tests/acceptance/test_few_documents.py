"""Intervals cover from three documents on, and below four a fit says how many more it takes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

from optimizer.forecast import occupancy
from optimizer.plan import Study, make_plan
from proofs_tests.plans.plan_examples import cost
from proofs_tests.plans.scenarios import Scenario, step_cost, trace_of
from reader_theory.acceptance import bootstrap_prompts, fit_acceptance, ratio_of_sums, simulated_trace
from reader_theory.documents import Static, Trace
from reader_theory.documents.fit import ENOUGH
from reader_theory.serving.rounds import requests_to_run
from reader_theory.trees import TokenTree
from runtime.cli.main import app

Effects = Callable[[np.random.Generator, int], NDArray[np.float64]]


def normal(g: np.random.Generator, count: int) -> NDArray[np.float64]:
    return 3 + 0.5 * g.standard_normal(count)


def lognormal(g: np.random.Generator, count: int) -> NDArray[np.float64]:
    return 3 * np.exp(0.3 * g.standard_normal(count) - 0.045)


@pytest.mark.parametrize("effects", [normal, lognormal])
@pytest.mark.parametrize("documents", [3, 4, 8])
def test_an_interval_covers_what_documents_differ_by(documents: int, effects: Effects) -> None:
    """400 intervals of 95 %: 372 to 389 of them hold the mean at the true 95 %, in 95 of 100 runs; 92 % at least."""
    g, hits = np.random.default_rng(documents), 0
    for seed in range(400):
        sums = np.stack([300 * effects(g, documents), np.full(documents, 300.0)], axis=1)
        found = bootstrap_prompts(sums, ratio_of_sums, resamples=200, seed=seed)
        hits += bool(found.low <= 3 <= found.high)
    assert 0.92 <= hits / 400 <= 0.98


def test_an_interval_keeps_within_what_there_can_be() -> None:
    found = bootstrap_prompts(np.array([[9.0, 10], [2, 10]]), ratio_of_sums, within=(0, 1))
    assert (found.low, found.high) == (0, 1)


@pytest.mark.parametrize("documents", [1, 2, 3, 4, 6])
def test_too_few_documents_are_said_with_how_many_more_it_takes(documents: int) -> None:
    recorded = trace_of(Scenario(), 3 * documents, 1, by_document=3)
    fitted = fit_acceptance(recorded, depth=2, resamples=100)
    told = fitted.workload("w").warning
    assert fitted.workload("w").sources == documents
    if documents >= ENOUGH:
        assert told == ""
    else:
        assert f"{documents} documents are too few to tell, {ENOUGH - documents} more" in told
    plan = make_plan(fitted, step_cost(Scenario()), recorded, batches=(1,), resamples=100, evaluations=20)
    assert plan.notes == tuple(filter(None, [told]))


def test_prompts_without_a_source_are_said_to_be_taken_as_documents() -> None:
    fitted = fit_acceptance(simulated_trace(prompts=6, tokens=24), depth=2, resamples=100)
    assert "no source is given" in fitted.workload("simulated").warning


def test_a_batch_above_the_number_of_prompts_is_predicted_full() -> None:
    recorded = simulated_trace(prompts=12, tokens=48, seed=5)
    fitted = fit_acceptance(recorded, depth=4, resamples=100)
    rates = [
        make_plan(
            fitted, cost(), recorded, batches=(32,), prompts_per_workload=prompts, resamples=100, evaluations=200
        ).entries[0].prediction.tokens_per_s.value
        for prompts in (4, 400)
    ]  # fmt: skip
    assert rates[0] == pytest.approx(rates[1], rel=0.08)
    assert requests_to_run(4, 32) == 128 and requests_to_run(400, 32) == 400


def test_a_run_of_fewer_prompts_than_were_measured_is_predicted_with_its_own_end() -> None:
    """Rows that have come to their end idle: many prompts measured and few run were predicted too fast."""
    recorded = simulated_trace(prompts=96, tokens=64, seed=3)
    fitted = fit_acceptance(recorded, depth=4, resamples=100)
    study = Study(fitted, cost(), recorded, "simulated", test_prompts=16, resamples=200)
    weighed = study.weighed(Static.of(TokenTree.chain(4)))
    told, result = study.prediction(weighed.policy, 8), weighed.result
    seconds = [study.step(weighed, rows, study.mean_context).step_s for rows in range(1, 9)]
    drawn, tokens, spent = np.random.default_rng(1), 0, 0.0
    for _ in range(400):
        some = drawn.permutation(96)[:16]
        tokens, spent = tokens + int(result.tokens[some].sum()), spent + occupancy(result.steps[some], 8)[1:] @ seconds
    assert told.tokens_per_s.value == pytest.approx(tokens / spent, rel=0.01)
    whole = result.tokens.sum() / float(occupancy(result.steps, 8)[1:] @ seconds)
    assert told.tokens_per_s.value < 0.985 * whole
    one = Study(fitted, cost(), recorded, "simulated", test_prompts=1, resamples=200).prediction(weighed.policy, 1)
    alone = float(occupancy(result.steps, 1)[1:] @ seconds[:1])
    assert one.tokens_per_s.value == pytest.approx(result.tokens.sum() / alone, rel=0.05), "a mean of rates is above it"


def test_reader_fit_warns_where_documents_are_too_few(tmp_path: Path) -> None:
    recorded = trace_of(Scenario(), 6, 1, by_document=3)
    fields = {name: getattr(recorded, name) for name in ("stamp", "target", "temperature", "drafters", "prompts")}
    Trace.create(tmp_path / "trace.json", recorded.columns, **fields)
    asked = ["fit", str(tmp_path / "trace.json"), "-o", str(tmp_path / "fit.json"), "--resamples", "100"]
    done = CliRunner().invoke(app, asked)
    assert done.exit_code == 0 and "2 documents are too few to tell, 2 more are needed" in done.output
