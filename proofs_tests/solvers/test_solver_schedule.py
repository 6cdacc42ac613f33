"""Statement. Each cell of a schedule is the answer of its own tree problem; memory and load decide how deep."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from optimizer import Memory, Objective, ScheduleProblem, UncertifiedError, solve, solve_schedule
from optimizer.certificates import certify_schedule
from optimizer.problem import Rule
from reader_theory.acceptance import RankTable


def _problem(rule: Rule = "any", ranks: tuple[float, ...] = (0.6, 0.2, 0.05)) -> ScheduleProblem:
    batches, contexts, nodes, depth = (1, 4, 16, 64), (512.0, 4096.0), 24, 6
    tokens = np.array(batches)[:, None] * (np.arange(nodes + 1) + 1)
    verify_s = 0.01 + np.ceil(tokens / 64)[:, None, :] * 1e-3 + np.array(contexts)[:, None] * 1e-7
    draft_s = np.broadcast_to(np.arange(depth + 1) * 8e-4, (4, 2, depth + 1))
    laws = tuple(RankTable.stationary(np.array(ranks) * share, depth) for share in (1.0, 0.8))
    return ScheduleProblem(laws, batches, contexts, verify_s, draft_s, Memory(80_000, 1.0, 0.5), rule)


@pytest.mark.parametrize(("rule", "ranks"), [("any", (0.6, 0.2, 0.05)), ("first", (0.1, 0.5, 0.2))])
def test_every_cell_is_the_answer_of_its_own_problem(rule: Rule, ranks: tuple[float, ...]) -> None:
    problem = _problem(rule, ranks)
    schedule = solve_schedule(problem)
    for b, c in np.ndindex(schedule.nodes.shape):
        alone = solve(problem.cell(b, c))
        assert schedule.value[b, c] == pytest.approx(alone.value, rel=1e-12)
        if schedule.nodes[b, c] >= 0:
            assert schedule.tree(b, c).nodes == schedule.nodes[b, c]
            assert schedule.tree(b, c).depth <= schedule.depth[b, c]
    assert schedule.gap.max() < 1e-9


def test_trees_shrink_as_the_batch_grows() -> None:
    schedule = solve_schedule(_problem())
    assert bool((np.diff(schedule.nodes[:, 0]) <= 0).all()) and schedule.nodes[0, 0] > schedule.nodes[-1, 0]
    assert bool((schedule.value >= schedule.off_value - 1e-9).all())


def test_cells_that_do_not_fit_memory_are_infeasible_and_said_so() -> None:
    schedule = solve_schedule(_problem())
    assert schedule.nodes[3, 1] == -1 and schedule.value[3, 1] == 0
    assert schedule.feasible_batches(1) == (1, 4, 16)
    with pytest.raises(ValueError, match="feasible_batches"):
        schedule.tree(3, 1)


def test_latency_target_forbids_batches_and_trees() -> None:
    target = Objective("goodput", latency_target_s=0.008)
    schedule = solve_schedule(replace(_problem(), objective=target))
    good = schedule.nodes >= 0
    assert bool((schedule.step_s[good] / schedule.tokens_per_step[good] <= 0.008).all()) and not good.all()


def test_a_schedule_with_a_planted_wrong_cell_is_caught() -> None:
    schedule = solve_schedule(_problem())
    value = schedule.value.copy()
    value[0, 0] *= 1.01
    found, _ = certify_schedule(replace(schedule, value=value))
    assert found and "cell 0, 0" in found[0]
    nodes = schedule.nodes.copy()
    nodes[0, 0], nodes[2, 1] = nodes[2, 1], nodes[0, 0]
    trees = {
        **schedule.trees,
        **{(c, int(schedule.depth[b, c]), int(nodes[b, c])): schedule.tree(0, 0) for b, c in [(0, 0), (2, 1)]},
    }
    assert certify_schedule(replace(schedule, nodes=nodes, trees=trees))[0]
    assert issubclass(UncertifiedError, Exception)
