"""Six coefficients come back from runs of the model that has them; what runs cannot tell is said."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from reader_theory.errors import InvalidInputError
from reader_theory.serving.latency import COEFFICIENTS, LatencyRun, fit_latency
from runtime.cli import latency
from runtime.cli._shared import guarded
from runtime.importers.latency import read_latency_runs

TRUTH = np.array([0.05, 0.02, 0.001, 0.004, 2e-4, 3e-5])


def run(rate: float, tokens: float, drafted: float, noise: float = 1.0) -> LatencyRun:
    per_step = 1.0 if drafted == 0 else 1 + 0.5 * drafted**0.5
    steps = tokens / per_step
    first, second = (float(np.array([1, steps, steps * drafted]) @ part) for part in (TRUTH[:3], TRUTH[3:]))
    return LatencyRun(rate, noise * first / (1 - rate * second), tokens, per_step, drafted)


def grid(noise: float = 0.0, seed: int = 0) -> list[LatencyRun]:
    rng = np.random.default_rng(seed)
    cells = product((1.0, 4.0, 10.0, 16.0), (64.0, 128.0), (0.0, 2.0, 5.0))
    return [run(*cell, noise=1 + noise * rng.standard_normal()) for cell in cells]


def test_the_coefficients_come_back_exactly() -> None:
    found = fit_latency(grid(), resamples=50)
    np.testing.assert_allclose([found.coefficients[name].value for name in COEFFICIENTS], TRUTH, rtol=1e-6)
    assert max(map(abs, found.errors)) < 1e-9
    held_out = run(7.0, 96.0, 3.0)
    assert found.latency_s(7.0, 96.0, held_out.tokens_per_step, 3.0) == pytest.approx(held_out.latency_s)


def test_noise_stays_within_the_intervals_of_most_runs() -> None:
    """2 % noise: each of 20 draws predicts a held-out latency within 5 %, and intervals cover in most."""
    covered = 0
    for seed in range(20):
        found = fit_latency(grid(0.02, seed), resamples=100, seed=seed)
        held_out = run(7.0, 96.0, 3.0)
        assert found.latency_s(7.0, 96.0, held_out.tokens_per_step, 3.0) == pytest.approx(held_out.latency_s, rel=0.05)
        covered += found.coefficients["c1v"].covers(TRUTH[1])
    assert covered >= 15


def test_rates_past_saturation_are_refused() -> None:
    found = fit_latency(grid(), resamples=20)
    with pytest.raises(InvalidInputError, match="below saturation"):
        found.latency_s(1000.0, 128.0)


def test_what_runs_cannot_tell_is_left_out_or_refused() -> None:
    plain = [run(rate, 128.0, 0.0) for rate in (1.0, 4.0, 10.0, 16.0)]
    assert set(fit_latency(plain, resamples=20).coefficients) == {"c1v", "c2v"}
    for few in (plain[:1], plain[:2], [plain[0]] * 5):
        with pytest.raises(InvalidInputError, match="more runs"):
            fit_latency(few)
    with pytest.raises(InvalidInputError, match="a run must have"):
        LatencyRun(0.0, 1.0, 1.0)


def as_vllm(told: LatencyRun) -> str:
    spec = {"spec_decode_acceptance_length": told.tokens_per_step, "spec_decode_num_drafts": 100,
            "spec_decode_draft_tokens": 100 * told.drafted} if told.drafted else {}  # fmt: skip
    return json.dumps({"completed": 50, "request_throughput": told.rate_per_s, "mean_e2el_ms": 1e3 * told.latency_s,
                       "total_output_tokens": 50 * told.tokens} | spec)  # fmt: skip


def as_guidellm(told: LatencyRun) -> str:
    values = {
        "requests_per_second": told.rate_per_s,
        "request_latency": told.latency_s,
        "output_token_count": told.tokens,
    }
    metrics = {name: {"successful": {"mean": value, "median": 0.5 * value}} for name, value in values.items()}
    return json.dumps({"benchmarks": [{"metrics": metrics}]})


def as_aiperf(told: LatencyRun) -> str:
    return json.dumps({
        "request_throughput": {"unit": "requests/sec", "avg": told.rate_per_s},
        "request_latency": {"unit": "ms", "avg": 1e3 * told.latency_s, "p50": 1.0},
        "output_sequence_length": {"unit": "tokens", "avg": told.tokens},
    })  # fmt: skip


@pytest.mark.parametrize("form", [as_vllm, as_guidellm, as_aiperf])
def test_every_load_generator_tells_its_means(tmp_path: Path, form: object) -> None:
    assert callable(form)
    told = run(4.0, 128.0, 0.0)
    (tmp_path / "a.json").write_text(form(told))
    (found,) = read_latency_runs([tmp_path / "a.json"])
    assert (found.rate_per_s, found.tokens) == (4.0, 128.0)
    assert found.latency_s == pytest.approx(told.latency_s)


@pytest.mark.parametrize("load", [{"request_rate": "inf"}, {"request_rate": 8.0}])
def test_a_run_past_saturation_is_refused(tmp_path: Path, load: dict[str, object]) -> None:
    """4 requests a second were served of all at once, or of 8 offered: latency grows with the run's length."""
    told = json.loads(as_vllm(run(4.0, 128.0, 0.0)))
    (tmp_path / "a.json").write_text(json.dumps(told | load))
    with pytest.raises(InvalidInputError, match="past saturation"):
        read_latency_runs([tmp_path / "a.json"])
    (tmp_path / "a.json").write_text(json.dumps(told | load | {"max_concurrency": 16}))
    assert len(read_latency_runs([tmp_path / "a.json"])) == 1, "a closed loop is steady"


def test_the_command_fits_predicts_and_refuses(tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(guarded(latency.command))
    files = [tmp_path / f"{i}.json" for i in range(24)]
    for path, told in zip(files, grid(), strict=True):
        path.write_text(as_vllm(told))
    done = CliRunner().invoke(app, [*map(str, files), "--rate", "7", "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.output)
    assert len(found["rows"]) == 6 and found["predicted"][0]["rate_per_s"] == 7
    assert CliRunner().invoke(app, [*map(str, files), "--rate", "1e6"]).exit_code == 2
    (tmp_path / "empty.json").write_text("{}")
    assert CliRunner().invoke(app, [str(tmp_path / "empty.json")]).exit_code == 2
