"""A step is the sum of its named terms; calibration moves it onto what was measured, and says what it cannot know."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reader_theory.cost.corrections import calibrate, confounded_terms, next_point
from reader_theory.cost.device import find_device
from reader_theory.cost.head import DrafterHead
from reader_theory.cost.known import known_shape
from reader_theory.cost.padding import padded_tokens
from reader_theory.cost.step import STEP_TERMS, StepCost
from reader_theory.cost.terms import StepConditions
from reader_theory.errors import InvalidInputError

STEP = StepCost(known_shape("Qwen3-32B"), find_device("H100-PCIe"), drafter=known_shape("Qwen3-1.7B"))
CHAIN = StepConditions.of_levels(context=246, level_widths=(1, 1, 1))


def test_a_step_is_the_sum_of_its_named_terms() -> None:
    terms = STEP.model.estimates(CHAIN)
    assert tuple(terms) == STEP_TERMS
    total = STEP.model.estimate(CHAIN)
    assert total.value == pytest.approx(sum(term.value for term in terms.values()))
    assert total.low < total.value < total.high
    assert all(term.low <= term.value <= term.high for term in terms.values())


@given(batch=st.integers(1, 256), context=st.integers(16, 8192), depth=st.integers(0, 6))
def test_more_work_never_costs_less_without_padding(batch: int, context: int, depth: int) -> None:
    cost = StepCost(STEP.target, STEP.device, drafter=STEP.drafter, graphs=False)
    base = cost.model.estimate(StepConditions.of_levels(batch=batch, context=context, level_widths=(1,) * depth)).value
    assert (
        cost.model.estimate(
            StepConditions.of_levels(batch=batch, context=context, level_widths=(1,) * (depth + 1))
        ).value
        > base
    )
    assert (
        cost.model.estimate(
            StepConditions.of_levels(batch=batch, context=context + 512, level_widths=(1,) * depth)
        ).value
        > base
    )
    assert (
        cost.model.estimate(StepConditions.of_levels(batch=batch + 1, context=context, level_widths=(1,) * depth)).value
        >= base
    )


def test_padding_is_a_staircase_up_to_the_largest_graph() -> None:
    got = padded_tokens([1, 3, 5, 9, 250, 512, 513])
    assert got.tolist() == [1, 4, 8, 16, 256, 512, 513]


def test_a_wide_level_costs_the_drafter_more_than_a_narrow_one_at_a_large_batch() -> None:
    narrow, wide = (
        STEP.model.estimates(StepConditions.of_levels(batch=256, context=64, level_widths=(w, w)))["drafter"].value
        for w in (1, 8)
    )
    assert wide > 1.5 * narrow


def test_attention_without_split_kv_dominates_a_tree_at_long_context() -> None:
    asked = StepConditions.of_levels(context=32768, level_widths=(8, 8))
    whole = StepCost(STEP.target, STEP.device, split_kv=False).model.estimates(asked)["target attention"].value
    assert whole > 3 * STEP.model.estimates(asked)["target attention"].value


def test_without_graphs_every_launch_is_paid() -> None:
    eager = StepCost(STEP.target, STEP.device, graphs=False)
    assert (
        eager.model.estimates(StepConditions())["launch"].value
        > 2 * STEP.model.estimates(StepConditions())["launch"].value
    )


def test_tensor_parallelism_trades_weights_for_all_reduce() -> None:
    four = StepCost(STEP.target, find_device("H100-SXM"), tensor_parallel=4).model.estimates(StepConditions())
    one = StepCost(STEP.target, find_device("H100-SXM")).model.estimates(StepConditions())
    assert four["target linear"].value < 0.3 * one["target linear"].value
    assert one["all-reduce"].value == 0 < four["all-reduce"].value


def test_a_low_rank_head_reads_r_times_d_plus_v() -> None:
    head = DrafterHead(hidden=2048, vocabulary=150000, kind="low rank", rank=128)
    assert head.weights == 128 * (2048 + 150000) and head.flops(3) == 6 * head.weights
    with pytest.raises(ValueError, match="rank"):
        DrafterHead(hidden=8, vocabulary=8, kind="low rank")


def test_one_measured_step_is_met_and_others_come_nearer() -> None:
    truth = StepCost(STEP.target, STEP.device, drafter=STEP.drafter, scale={"target linear": 1.12, "drafter": 1.12})
    points = [
        StepConditions(context=246),
        CHAIN,
        StepConditions.of_levels(batch=32, context=246, level_widths=(1,) * 5),
    ]
    measured = [truth.model.estimate(point).value for point in points]
    found = calibrate(STEP, points[:1], measured[:1])
    assert abs(found.residuals[0]) < 0.02
    assert abs(found.step.model.estimate(points[1]).value - measured[1]) < abs(
        STEP.model.estimate(points[1]).value - measured[1]
    )


@pytest.mark.parametrize("slower", [0.8, 1.2, 1.7, 2.5])
def test_calibration_believes_what_was_measured(slower: float) -> None:
    step = StepCost(known_shape("Llama-3.1-70B"), find_device("H100-SXM"), tensor_parallel=2)
    points = [StepConditions(batch=b, context=245.0) for b in (1.0, 8.0, 64.0)]
    measured = [slower * step.model.estimate(point).value for point in points]
    one, three = calibrate(step, points[:1], measured[:1]), calibrate(step, points, measured)
    assert abs(one.residuals[0]) < 0.02 and np.abs(three.residuals).max() < 0.03
    for found in (one, three):
        assert all(found.step.model.estimate(p).covers(s) for p, s in zip(points, measured, strict=True))
    widths = [(e.high - e.low) / e.value for e in (f.step.model.estimate(points[2]) for f in (one, three))]
    assert widths[1] < widths[0], "more points, less doubt"


def test_enough_points_recover_the_factors_in_spite_of_an_outlier() -> None:
    truth = StepCost(STEP.target, STEP.device, drafter=STEP.drafter, scale={"target linear": 0.9, "drafter": 1.3})
    points = [
        StepConditions.of_levels(batch=b, context=c, level_widths=(1,) * k)
        for b in (1, 16, 128)
        for c in (100, 4000)
        for k in (0, 2, 5)
    ]
    measured = np.array([truth.model.estimate(point).value for point in points])
    measured[4] *= 1.6
    found = calibrate(STEP, points, measured)
    assert found.factors["target linear"].value == pytest.approx(0.9, abs=0.03)
    assert found.factors["drafter"].value == pytest.approx(1.3, abs=0.1)
    good = np.delete(found.residuals, 4)
    assert float(np.abs(good).max()) < 0.03


def test_terms_that_always_move_together_are_named() -> None:
    rows = np.array([[1.0, 2.0, 0.5], [2.0, 4.0, 0.1], [3.0, 6.0, 0.9]])
    assert confounded_terms(rows, ("a", "b", "c")) == (("a", "b"),)


def test_the_next_point_is_the_one_that_shows_what_is_unknown() -> None:
    seen = [StepConditions(batch=b, context=100) for b in (1, 2, 4)]
    found = calibrate(STEP, seen, [STEP.model.estimate(point).value for point in seen])
    candidates = [
        StepConditions(batch=2, context=100),
        StepConditions.of_levels(batch=64, context=100, level_widths=(1,) * 5),
    ]
    index, gain = next_point(found, candidates)
    assert index == 1 and gain > 1


def test_an_unknown_term_and_an_empty_calibration_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="terms of a step"):
        StepCost(STEP.target, STEP.device, scale={"magic": 1.0})
    with pytest.raises(InvalidInputError, match="at least one"):
        calibrate(STEP, [], [])
