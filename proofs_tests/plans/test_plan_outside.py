"""Outside of what was measured a plan says so: its intervals widen with the distance, and nothing is certified."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimizer.plan import make_plan
from optimizer.serving_schedule import serving_schedule
from proofs_tests.plans.plan_examples import cost, fit, trace
from reader_theory.cost.terms import Forwards, StepConditions
from reader_theory.documents import Plan, PlanEntry
from reader_theory.documents.policy import DRAFT

COST = cost()
TABLE = COST.target_forward


@given(st.integers(1, 64), st.integers(1, 32), st.integers(0, 1024))
def test_a_point_within_the_grid_is_not_beyond_it(batch: int, tokens: int, context: int) -> None:
    assert TABLE.beyond(batch, tokens, context) == {}


@given(st.floats(1.01, 1e3))
def test_a_point_outside_says_on_which_axes_and_how_far(factor: float) -> None:
    assert TABLE.beyond(64 * factor, 8, 512) == pytest.approx({"batch": factor})
    assert TABLE.beyond([1, 4], [1, 32 * factor], 1024 * factor) == pytest.approx({"tokens": factor, "context": factor})


def test_a_batch_below_the_least_measured_is_outside_and_a_shorter_context_is_not() -> None:
    part = TABLE.model_copy(update={"batch": (4, 16)})
    assert part.beyond(1, 8, 0) == {"batch": 4.0}


def test_a_step_is_outside_where_its_drafter_is() -> None:
    narrow = COST.drafters[DRAFT].forward.model_copy(update={"tokens": (1, 2)})  # type: ignore[union-attr]
    drafter = COST.drafters[DRAFT].model_copy(update={"forward": narrow})
    less = COST.model_copy(update={"drafters": COST.drafters | {DRAFT: drafter}})
    asked = StepConditions(batch=2, context=100, tokens=9, forwards={DRAFT: Forwards([1, 8], [1.0, 0.5])})
    assert COST.beyond(asked) == {} and less.beyond(asked) == {"tokens": 4.0}
    never = StepConditions(batch=2, context=100, tokens=9, forwards={DRAFT: Forwards([1, 8], [1.0, 0.0])})
    assert less.beyond(never) == {}


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    recorded = trace(tmp_path_factory.mktemp("outside") / "trace.npz")
    return make_plan(
        fit(recorded), COST, recorded, batches=(1, 128), contexts=(512, 4096, 100_000), max_nodes=8, max_depth=4,
        new_tokens=48, resamples=200,
    )  # fmt: skip


def _wide(entry: PlanEntry) -> float:
    return entry.prediction.tokens_per_s.high / entry.prediction.tokens_per_s.low


def test_nothing_is_certified_outside_and_the_entry_says_why(planned: Plan) -> None:
    inside, far = planned.entry("simulated", 1, 512), planned.entry("simulated", 128, 100_000)
    assert inside.certified and inside.extrapolated == {}
    assert not far.certified and far.extrapolated == pytest.approx({"batch": 2.0, "context": 100_000 / 1024})


def test_intervals_widen_with_the_distance(planned: Plan) -> None:
    widths = [_wide(planned.entry("simulated", 1, context)) for context in (512, 4096, 100_000)]
    assert widths[0] * 3 < widths[1] and widths[1] * 10 < widths[2]
    far = planned.entry("simulated", 128, 100_000).prediction.tokens_per_s
    assert far.low < far.value / 50 and far.high > far.value * 50


def test_a_schedule_is_not_certified_outside_either(tmp_path: Path) -> None:
    recorded = trace(tmp_path / "trace.npz")
    found = serving_schedule(
        fit(recorded), COST, recorded, rate_per_s=1.0, batches=(1, 128), contexts=(512,), max_nodes=16
    )
    cells = {cell.batch: cell for cell in found.cells}
    assert cells[1].extrapolated == {} and cells[128].extrapolated == {"batch": 2.0}
    assert [entry.certified for entry in found.plan(512).entries] == [True, False]
