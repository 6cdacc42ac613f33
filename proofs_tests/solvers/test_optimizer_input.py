"""Bad input gets the rule, the evidence and the way out."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from optimizer import (
    BatchProblem,
    ForestAcceptance,
    LevelCost,
    Memory,
    Objective,
    RobustProblem,
    ScheduleProblem,
    SideConstraints,
    TabulatedCost,
    TreeProblem,
    solve,
)
from reader_theory.acceptance import RankTable
from reader_theory.errors import InvalidInputError
from reader_theory.trees import TokenTree

LAW = RankTable([[0.5, 0.3]])
COST = TabulatedCost([1.0, 1.1, 1.2])
FOREST = ForestAcceptance(TokenTree.chain(1), [1, 0.5])
CASES: dict[str, tuple[Callable[[], object], str]] = {
    "NaN": (lambda: RankTable([[0.5, np.nan]]), r"nan.*\(0, 1\)"),
    "negative": (lambda: RankTable([[0.5, -0.1]]), r"-0\.1"),
    "above one": (lambda: RankTable([[1.5]]), r"1\.5"),
    "ranks summing above 1": (lambda: RankTable([[0.5, 0.2], [0.7, 0.5]]), r"rows \[1\] summing to \[1\.2\]"),
    "empty": (lambda: RankTable(np.zeros((0, 3))), r"shape \(0, 3\)"),
    "a vector where a table is meant": (lambda: RankTable([0.5, 0.2]), "stationary"),
    "depth 0": (lambda: RankTable.stationary([0.5], 0), "depth"),
    "cyclic parents": (lambda: TokenTree([-1, 2, 1]), "cycle"),
    "child above its parent": (
        lambda: ForestAcceptance(TokenTree.chain(2), [1, 0.4, 0.5]),
        r"0\.5.*0\.4.*running minimum",
    ),
    "siblings above their parent": (lambda: ForestAcceptance(TokenTree([-1, 0, 0]), [1, 0.7, 0.6]), r"1\.3"),
    "probabilities missing": (lambda: ForestAcceptance(TokenTree.chain(2), [1, 0.5]), "2 candidates"),
    "cost of 0": (lambda: TabulatedCost([1.0, 0.0]), r"\[0, 1\]"),
    "cost of infinity": (lambda: TabulatedCost([1.0, np.inf]), "inf"),
    "cost NaN": (lambda: TabulatedCost([np.nan]), "nan"),
    "no cost": (lambda: TabulatedCost(np.zeros((1, 0))), "shape"),
    "negative drafting": (lambda: LevelCost([[0.0, -1.0]], [1.0]), "-1"),
    "budget 0": (lambda: TreeProblem(LAW, COST, 0), "max_nodes 0"),
    "unknown rule": (lambda: TreeProblem(LAW, COST, 2, rule="some"), "some"),  # type: ignore[arg-type]
    "batch 0": (lambda: TreeProblem(LAW, COST, 2, batch=0), "batch 0"),
    "max_depth 0": (lambda: TreeProblem(LAW, COST, 2, max_depth=0), "max_depth"),
    "candidates under rule first": (lambda: TreeProblem(FOREST, COST, 2, rule="first"), "RankTable"),
    "no requests": (lambda: BatchProblem((), COST, 2), "batch 0"),
    "classes missing": (lambda: BatchProblem((FOREST,), COST, 2, side=SideConstraints((), (), ())), "class"),
    "class unknown": (lambda: SideConstraints((3,), (1.0,), (1.0,)), "up to 3"),
    "no workloads": (lambda: RobustProblem((), COST, 2), "0 workloads"),
    "no memory": (lambda: Memory(0, 1), "capacity_bytes"),
    "unknown objective": (lambda: Objective("speed"), "speed"),  # type: ignore[arg-type]
    "cap of 0": (lambda: Objective("latency", step_cap_s=0), "above 0"),
    "schedule of the wrong shape": (
        lambda: ScheduleProblem((LAW,), (1, 2), (8.0,), np.ones((1, 1, 3)), np.zeros((2, 1, 2))),
        r"\(1, 1, 3\)",
    ),
    "unknown solver": (lambda: solve(TreeProblem(LAW, COST, 2), "magic"), "magic.*Leave it out"),
}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_bad_input_is_named_shown_and_mended(case: str) -> None:
    make, evidence = CASES[case]
    with pytest.raises(InvalidInputError, match=evidence) as caught:
        make()
    assert "must" in caught.value.rule and str(caught.value.fix).endswith(".")


def test_inputs_are_kept_read_only_and_are_not_the_caller_s() -> None:
    table = np.array([[0.5, 0.3]])
    law, cost = RankTable(table), TabulatedCost(table + 1)
    table[:] = 0
    assert law.conditionals[0, 0] == 0.5
    for array in (law.conditionals, cost.seconds):
        with pytest.raises(ValueError, match="read-only"):
            array[0, 0] = 1


def test_rounding_is_not_an_error() -> None:
    forest = ForestAcceptance(TokenTree.chain(2), [1, 0.3, 0.3 + 1e-12])
    assert forest.path_probability[2] <= forest.path_probability[1]
    assert RankTable([[0.1] * 10]).depth == 1
