"""A certificate says what it certifies: a claim of optimality without a proof leaves its gap in sight."""

from __future__ import annotations

import numpy as np
import pytest

from optimizer import (
    BatchProblem,
    ForestAcceptance,
    LevelCost,
    RobustProblem,
    SideConstraints,
    Solution,
    Status,
    TabulatedCost,
    TreeProblem,
    solve,
)
from optimizer.problem import Problem
from optimizer.solvers import levels
from reader_theory.acceptance import RankTable
from reader_theory.trees import TokenTree

LAW, COST = RankTable([[0.5, 0.3]] * 3), TabulatedCost(1 + 0.05 * np.arange(9))
FOREST = ForestAcceptance(TokenTree([-1, 0, 1, 0]), [1, 0.6, 0.5, 0.3])
SIDES = SideConstraints((0, 1), (np.inf, np.inf), (1.0, 1.0))
LEVELS = TreeProblem(LAW, LevelCost(np.full((3, 9), 0.02), 1 + 0.02 * np.arange(9)), 8)
PROBLEMS: dict[str, Problem] = {
    "levels": LEVELS,
    "ranks 0..b-1 that rise": TreeProblem(RankTable([[0.2, 0.6, 0.1]] * 3), COST, 8, rule="first"),
    "robust": RobustProblem((LAW, RankTable([[0.3, 0.4]] * 3)), COST, 8),
    "side constraints": BatchProblem((FOREST, FOREST), COST, 6, side=SIDES),
}


def off_is_best(problem: Problem) -> Solution:
    """Off, said to be optimal, with a bound to match."""
    batch = problem.batch if isinstance(problem, BatchProblem | TreeProblem) else 1
    trees = (TokenTree.empty(),) * (batch if isinstance(problem, BatchProblem) else 1)
    value = float(batch)
    return Solution(trees, 0, batch, 1.0, 1.0, value, value, 0.0, Status.OPTIMAL, "planted")


@pytest.mark.parametrize("name", PROBLEMS)
def test_off_that_is_not_proved_best_has_a_gap(name: str) -> None:
    best = solve(PROBLEMS[name])
    claimed = solve(PROBLEMS[name], off_is_best)
    assert best.value > claimed.value * 1.01
    assert claimed.gap >= 1 - claimed.value / best.value - 1e-9
    assert claimed.certificate is not None and not claimed.certificate.proves_optimal()
    assert "not known" in claimed.certificate.says


def test_a_search_that_stopped_early_has_a_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    law = RankTable([[0.4, 0.35, 0.2], [0.5, 0.1, 0.3], [0.3, 0.3, 0.3]])
    problem = TreeProblem(law, LevelCost(np.full((3, 9), 0.02), 1 + 0.02 * np.arange(9)), 8)
    whole = solve(problem)
    monkeypatch.setattr(levels, "MOST_PREFIXES", 1)
    cut = solve(problem)
    assert cut.value < whole.value and cut.gap >= 1 - cut.value / whole.value - 1e-9


def test_a_proof_closes_the_gap() -> None:
    proved = solve(TreeProblem(LAW, COST, 8))
    assert proved.gap <= 1e-9 and proved.certificate is not None
    assert proved.certificate.says == "No answer to this problem gives more."


def test_an_answer_names_the_limits_that_it_stops_at() -> None:
    free = TabulatedCost(np.ones(33))
    deep = RankTable.stationary([0.9], 8)
    assert solve(TreeProblem(deep, free, 32)).binding == ("depth of acceptance",)
    assert solve(TreeProblem(deep, free, 32, max_depth=4)).binding == ("max_depth",)
    assert solve(TreeProblem(deep, free, 5)).binding == ("max_nodes",)
    assert solve(TreeProblem(deep, TabulatedCost(1 + 10.0 * np.arange(33)), 32)).binding == ()
