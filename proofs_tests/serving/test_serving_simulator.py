"""The replay keeps every request and page, repeats itself, and meets what real serving runs logged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proofs_tests.benchmarks.serving_model import served
from reader_theory.errors import InvalidInputError
from reader_theory.serving.result import SimulationResult
from reader_theory.serving.simulator import EngineLimits, Workload, simulate
from reader_theory.serving.traces import closed_loop, poisson_arrivals, read_trace

DATA = Path(__file__).parents[1] / "data"
ROOMY = EngineLimits(kv_tokens=10**6, max_requests=1000)


def step_s(decoding: int, cached: float, prefill: float) -> float:
    return 0.01 + 1e-4 * decoding + 1e-5 * prefill


def same(first: SimulationResult, second: SimulationResult) -> bool:
    return all(
        np.array_equal(getattr(first, n), getattr(second, n)) for n in ("first_s", "finished_s", "gaps_s", "running")
    )


@settings(max_examples=25)
@given(
    seed=st.integers(0, 1000), kv=st.sampled_from([600, 1500, 10**6]), cached=st.booleans(), drafts=st.integers(0, 3)
)
def test_every_request_gets_all_its_tokens_and_pages_are_never_overdrawn(
    seed: int, kv: int, cached: bool, drafts: int
) -> None:
    generator = np.random.default_rng(seed)
    work = poisson_arrivals(30.0, 40, generator.integers(5, 200, 30), generator.integers(1, 120, 30), seed=seed)
    limits = EngineLimits(kv_tokens=kv, max_requests=16, max_step_tokens=64, lookahead=drafts, prefix_cache=cached)
    law = np.full(drafts + 1, 1 / (drafts + 1))
    result = simulate(work, step_s, limits, emitted=law, seed=seed)
    assert result.emitted.sum() == pytest.approx(work.output_tokens.sum())
    assert np.all(result.kv_used <= 1) and np.all(result.kv_used >= 0)
    assert np.all(result.arrived_s <= result.scheduled_s) and np.all(result.first_s <= result.finished_s)
    assert result.running.max() <= 16


def test_a_lone_request_takes_its_prefill_and_its_steps() -> None:
    work = Workload(np.zeros(1), np.array([100.0]), np.array([11.0]))
    result = simulate(work, step_s, ROOMY)
    assert result.first_s[0] == pytest.approx(0.01 + 100e-5)
    assert result.latency_s() == pytest.approx(0.011 + 10 * 0.0101)
    assert result.gap_s(0.99) == pytest.approx(0.0101)


def test_littles_law_holds_on_every_replay() -> None:
    work = poisson_arrivals(8.0, 400, 50, 40, seed=1)
    result = simulate(work, step_s, ROOMY)
    busy = np.sum((result.running + result.waiting) * result.step_s) / result.end_s
    assert busy == pytest.approx(result.mean_in_system(), rel=0.03)


def test_a_seed_repeats_a_replay_and_another_does_not() -> None:
    work = poisson_arrivals(8.0, 50, 50, 40)
    first, again, other = (simulate(work, step_s, ROOMY, emitted=(0.5, 0.5), seed=s) for s in (0, 0, 1))
    assert same(first, again) and not same(first, other)


def test_clients_keep_their_concurrency_and_no_more() -> None:
    result = simulate(closed_loop(7, 60, 20, 30), step_s, ROOMY)
    assert result.running.max() == 7 and np.median(result.running) == 7


def test_a_full_cache_preempts_and_the_effective_batch_counts_who_waits() -> None:
    work = closed_loop(64, 300, 100, 100)
    limits = EngineLimits(kv_tokens=4000)
    result = simulate(work, step_s, limits, emitted=(0.4, 0.6))
    assert result.preemptions > 20
    assert result.effective_batch() > np.average(result.decoding, weights=result.step_s)
    assert result.effective_batch() > result.mean_running() * 0.98
    assert result.gap_s(0.999) > 5 * result.gap_s(0.5)


def test_prompts_are_cut_into_chunks_of_the_token_budget() -> None:
    work = Workload(np.zeros(1), np.array([1000.0]), np.array([1.0]))
    result = simulate(work, step_s, EngineLimits(kv_tokens=5000, max_step_tokens=256))
    assert len(result.step_s) == 4


@pytest.mark.parametrize("gpu", ["RTX4090", "RTXPRO6000"])
@pytest.mark.slow
def test_a_real_serving_run_is_replayed_within_eight_per_cent_of_its_running_requests(gpu: str) -> None:
    assert abs(served(gpu, DATA)["error"]) < 8


@pytest.mark.parametrize("name", ["azure2023_conv.csv.gz", "azure2023_code.csv.gz", "mooncake_conversation.csv.gz"])
def test_public_traces_are_read_in_order(name: str) -> None:
    work = read_trace(DATA / name, first=200)
    assert len(work.arrivals_s) == 200 and work.arrivals_s[0] == 0
    assert np.all(np.diff(work.arrivals_s) >= 0) and work.prompt_tokens.min() >= 1
    twice = read_trace(DATA / name, first=200, rate_scale=2.0)
    assert twice.arrivals_s[-1] == pytest.approx(work.arrivals_s[-1] / 2)


def test_what_cannot_be_served_is_refused(tmp_path: Path) -> None:
    work = Workload(np.zeros(1), np.array([1000.0]), np.array([10.0]))
    with pytest.raises(InvalidInputError, match="fit in `kv_tokens`"):
        simulate(work, step_s, EngineLimits(kv_tokens=512))
    with pytest.raises(InvalidInputError, match="law over"):
        simulate(work, step_s, ROOMY, emitted=(0.5, 0.2))
    with pytest.raises(InvalidInputError, match="non-decreasing"):
        Workload(np.array([1.0, 0.0]), np.ones(2), np.ones(2))
    path = tmp_path / "bad.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(InvalidInputError, match="columns of a known format"):
        read_trace(path)
