r"""Little's law with speculation: L = C1 / (1 - rate C2), against its fixed point, a replay and its turning point."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proofs_tests.benchmarks.serving_model import closed_form
from reader_theory.errors import InvalidInputError
from reader_theory.estimate import Estimate
from reader_theory.serving.capacity import speculation_stops_paying
from reader_theory.serving.depths import best_schedule
from reader_theory.serving.load import AffineLoad, fixed_point_load

LOAD = AffineLoad(
    prefill_s=4e-3, target_fixed_s=0.02, target_load_s=6e-4, drafter_fixed_s=1e-3, drafter_load_s=1e-4, output_tokens=60
)


@given(used=st.floats(0.01, 0.95), drafts=st.integers(0, 6), share=st.floats(0, 1))
def test_closed_form_is_the_fixed_point_of_affine_costs(used: float, drafts: int, share: float) -> None:
    emitted = 1 + share * drafts
    rate = used * LOAD.capacity_per_s(drafts, emitted)
    fixed, each = (
        LOAD.target_fixed_s + drafts * LOAD.drafter_fixed_s,
        LOAD.target_load_s + drafts * LOAD.drafter_load_s,
    )
    point = fixed_point_load(
        rate, lambda b: fixed + each * (b - 1), output_tokens=60, tokens_per_step=emitted, prefill_s=LOAD.prefill_s
    )
    closed = LOAD.at_rate(rate, drafts, emitted)
    assert point.latency_s == pytest.approx(closed.latency_s, rel=1e-6)
    assert closed.batch == pytest.approx(rate * closed.latency_s)


@pytest.mark.parametrize("law", [(1.0,), (0.3, 0.3, 0.2, 0.2)], ids=["plain", "three drafts"])
@pytest.mark.parametrize("used", [0.2, 0.5])
def test_closed_form_is_within_three_per_cent_of_the_replay(law: tuple[float, ...], used: float) -> None:
    assert abs(closed_form(LOAD, law, used, count=2500, seed=3)) < 0.03


@pytest.mark.slow
@pytest.mark.parametrize("law", [(1.0,), (0.3, 0.3, 0.2, 0.2)], ids=["plain", "three drafts"])
def test_closed_form_is_within_three_per_cent_of_the_replay_at_seventy_per_cent_of_capacity(
    law: tuple[float, ...],
) -> None:
    off = [closed_form(LOAD, law, 0.7, seed=seed) for seed in range(5)]
    assert abs(sum(off) / len(off)) < 0.03


def test_an_idle_engine_is_not_waited_for() -> None:
    short = LOAD.model_copy(update={"output_tokens": 8.0})
    alone = short.prefill_s + 7 * short.target_fixed_s
    assert short.at_rate(1e-6).latency_s == pytest.approx(alone, rel=1e-4)
    assert short.at_rate(0.5 * short.capacity_per_s()).latency_s > alone / 0.5


def test_beyond_capacity_latency_is_infinite() -> None:
    assert not LOAD.at_rate(1.01 * LOAD.capacity_per_s()).stable
    assert fixed_point_load(1e3, lambda b: 0.02 + 1e-3 * b, output_tokens=60).latency_s == math.inf


def test_the_kv_cap_makes_a_stable_rate_unstable() -> None:
    def step(batch: float) -> float:
        return 0.02 + 1e-4 * batch

    free = fixed_point_load(20.0, step, output_tokens=200)
    assert free.stable and free.batch > 80
    assert not fixed_point_load(20.0, step, output_tokens=200, largest_batch=50).stable


def test_speculation_pays_exactly_below_its_turning_rate() -> None:
    heavy = LOAD.model_copy(update={"drafter_load_s": 6e-4})
    turn = heavy.rate_where_equal((3, 2.3), (0, 1.0))
    assert 0 < turn < heavy.capacity_per_s(3, 2.3)
    for factor, faster in ((0.9, True), (1.02, False)):
        on, off = heavy.at_rate(turn * factor, 3, 2.3).latency_s, heavy.at_rate(turn * factor).latency_s
        assert (on < off) is faster


def test_the_turning_rate_has_an_interval_that_widens_with_the_acceptance() -> None:
    heavy = LOAD.model_copy(update={"target_load_s": 1.6e-3, "drafter_load_s": 2e-4})
    narrow, wide = (
        speculation_stops_paying(
            heavy, 3, Estimate(value=2.3, low=2.3 - h, high=2.3 + h, origin="fitted"), cost_spread=0.02
        )
        for h in (0.02, 0.3)
    )
    assert narrow.rate_per_s is not None and wide.rate_per_s is not None
    assert narrow.rate_per_s.covers(wide.rate_per_s.value)
    assert wide.rate_per_s.high - wide.rate_per_s.low > narrow.rate_per_s.high - narrow.rate_per_s.low
    never = speculation_stops_paying(heavy, 3, Estimate.exact(1.0, "measured"))
    assert never.rate_per_s is None and never.never > 0.99


def test_depth_falls_with_batch_and_memory_is_part_of_the_choice() -> None:
    def step_s(batch: float, context: float, depth: int) -> float:
        return 0.02 + 1.5e-4 * batch * (depth + 1) + depth * 1e-3

    def emitted(depth: int) -> float:
        return sum(0.7**i for i in range(depth + 1))

    found = best_schedule(step_s, emitted, batches=(1, 8, 64, 256), contexts=(512,), depths=range(1, 8))
    depths = [choice.depth for choice in found.choices]
    assert depths == sorted(depths, reverse=True) and depths[0] > depths[-1]
    tight = best_schedule(
        step_s, emitted, batches=(256,), contexts=(512,), depths=(1,), largest_batch=lambda c, k: 40 if k else 250
    )
    assert tight.choices[0].depth == 0 and found.at(100, 500).batch == 64


def test_more_tokens_a_step_than_drafts_allow_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="between 1 and"):
        LOAD.at_rate(1.0, 2, 3.5)
