"""Statement. The mixed-integer programs have the same optimum as the special solvers, and the linear ones bound it.

Two formulations that share no line: variables and constraints solved by HiGHS against heaps, recurrences and sorting.
"""

from __future__ import annotations

import numpy as np
import pytest

from optimizer import BatchProblem, ForestAcceptance, SideConstraints, Status, TabulatedCost, solve
from optimizer.battery import random_problem
from optimizer.solvers import exhaustive, relaxation
from reader_theory.trees import TokenTree


@pytest.mark.parametrize("kind", ["tree", "levels", "batch", "robust"])
def test_special_solvers_equal_the_mixed_integer_optimum(kind: str) -> None:
    generator = np.random.default_rng(3)
    for _ in range(6):
        problem = random_problem(kind, generator)
        program = solve(problem, "relaxation")
        truth = exhaustive.solve(problem)
        assert program.status is truth.status
        assert program.value == pytest.approx(truth.value, rel=1e-7)
        if kind != "robust":
            assert solve(problem).value == pytest.approx(program.value, rel=1e-7)


def test_linear_relaxation_is_an_upper_bound() -> None:
    generator = np.random.default_rng(4)
    for _ in range(6):
        problem = random_problem("tree", generator)
        bound = relaxation.linear_bound(problem).value  # type: ignore[arg-type]
        assert bound >= solve(problem).value * (1 - 1e-7)


STRONG = ForestAcceptance(TokenTree.chain(4), [1, 0.9, 0.8, 0.7, 0.6])
WEAK = ForestAcceptance(TokenTree([-1, 0, 1, 0]), [1, 0.4, 0.2, 0.1])
FLAT = TabulatedCost(1 + 0.1 * np.arange(8))


def test_service_classes_get_what_they_are_promised_at_a_price() -> None:
    free = solve(BatchProblem((STRONG, WEAK), FLAT, 7))
    promised = SideConstraints((0, 1), (np.inf, np.inf), (1.0, 1.6))
    bound = solve(BatchProblem((STRONG, WEAK), FLAT, 7, side=promised))
    assert bound.value < free.value and bound.value == pytest.approx(
        exhaustive.solve(BatchProblem((STRONG, WEAK), FLAT, 7, side=promised)).value
    )
    assert WEAK.path_probability[: len(bound.trees[1])].sum() >= 1.6 - 1e-9


def test_shared_budget_has_a_shadow_price_and_binds() -> None:
    tight = BatchProblem((STRONG, WEAK), FLAT, 7, side=SideConstraints((0, 0), (2.0,), (1.0,)))
    answer = solve(tight)
    assert sum(tree.nodes for tree in answer.trees) == 2
    assert relaxation.linear_bound(tight).budget_prices[0] > 0


def test_promise_that_cannot_be_kept_is_infeasible_with_advice() -> None:
    never = BatchProblem((STRONG, WEAK), FLAT, 7, side=SideConstraints((0, 1), (9.0, 9.0), (1.0, 5.0)))
    answer = solve(never)
    assert answer.status is Status.INFEASIBLE and "promise" in answer.advice
