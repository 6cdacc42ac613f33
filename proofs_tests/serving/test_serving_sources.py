"""A schedule under load takes retrieval and grown trees where a plan's replay finds them faster, within its limits."""

from __future__ import annotations

from typing import Any

import pytest

from optimizer.plan import make_plan
from optimizer.serving_schedule import serving_schedule
from proofs_tests.plans.plan_examples import cost, fit
from proofs_tests.plans.test_grown_plans import priced, with_grown
from reader_theory.acceptance import simulated_trace
from reader_theory.documents import Grown, Trace
from reader_theory.documents.serving_schedule import ServingSchedule

BATCHES = (1, 4, 16, 64)


@pytest.fixture(scope="module")
def copying() -> Trace:
    """Long copied stretches: retrieval is right inside them."""
    return simulated_trace(prompts=12, tokens=64, copying=0.15, copy_decay=0.95, seed=3)


def made(trace: Trace, costs: Any = None, **changes: Any) -> ServingSchedule:
    asked: dict[str, Any] = {"rate_per_s": 1.0, "max_nodes": 8, "max_depth": 4, "batches": BATCHES, "contexts": (64,)}
    return serving_schedule(fit(trace), costs or cost(), trace, **{**asked, **changes})


@pytest.fixture(scope="module")
def free(copying: Trace) -> ServingSchedule:
    """Without a limit."""
    return made(copying)


@pytest.mark.slow
def test_a_cell_drafts_what_a_plan_would_where_that_beats_the_tree(copying: Trace, free: ServingSchedule) -> None:
    told, trees = free, made(without_matches(copying))
    assert all(cell.policy is not None and cell.policy.retrieved is None for cell in trees.cells)
    taken = 0
    for cell, tree in zip(told.cells, trees.cells, strict=True):
        assert cell.tokens_per_s >= tree.tokens_per_s * (1 - 1e-12) and cell.policy is not None
        planned = make_plan(
            fit(copying), cost(), copying, batches=(cell.batch,), contexts=(64,), max_nodes=8, max_depth=4,
            resamples=100,
        ).entries[0]  # fmt: skip
        if cell.policy.retrieved is not None:
            taken += 1
            assert cell.policy == planned.policy and cell.tokens_per_s > tree.tokens_per_s
            assert cell.step_s == pytest.approx(sum(planned.prediction.terms_s.values()))
            assert cell.nodes_per_step == planned.prediction.nodes_per_step
    assert taken > 0
    assert told.points[0].capacity_per_s > trees.points[0].capacity_per_s
    assert [entry.policy for entry in told.plan(64).entries] == [cell.policy for cell in told.cells]


def without_matches(trace: Trace) -> Trace:
    columns = dict(trace.columns)
    for name in ("retrieval_match", "retrieval_count", "retrieval_offered", "retrieval_run"):
        columns[name] = 0 * columns[name]
    fields = {name: getattr(trace, name) for name in ("stamp", "target", "temperature", "drafters")}
    return Trace.in_memory(columns, prompts=trace.prompts, **fields)


@pytest.mark.slow
def test_another_source_keeps_the_limits_of_latency_and_memory(copying: Trace, free: ServingSchedule) -> None:
    fast = min(cell.step_s / cell.tokens_per_step.value for cell in free.cells)  # type: ignore[operator,union-attr]
    slow = made(copying, slo_s=1.2 * fast)
    kept = [cell for cell in slow.cells if cell.policy is not None]
    assert 0 < len(kept) < len(slow.cells)
    assert all(cell.step_s / cell.tokens_per_step.value <= 1.2 * fast for cell in kept)  # type: ignore[operator,union-attr]
    widest = [cell.policy.retrieved.max_tokens for cell in free.cells if cell.policy and cell.policy.retrieved]
    tight = made(copying, kv_tokens=64 * (65 + 2))
    last = tight.cell("simulated", 64, 64)
    assert max(widest) > 2 and (last.policy is None or last.policy.retrieved is None)


def test_a_grown_policy_is_scheduled_where_it_wins(copying: Trace) -> None:
    grown = with_grown(copying, 9, Grown(nodes=8))
    told = made(grown, priced())
    assert any(cell.policy is not None and cell.policy.kind == "grown" for cell in told.cells)
    assert told.solver.endswith("and replay")
