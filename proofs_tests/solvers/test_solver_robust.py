"""Statement. For several workloads, max over T of min over w of s_w tau_w(T) / C(T) lies between answer and bound.

The bound is the dual, min over weights of a best mixed tree, and equals the linear relaxation. Tokens never fall when
a conditional rises, so against the interval of a fit the worst law is the lower corner.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimizer import RobustProblem, TabulatedCost, TreeProblem, solve
from optimizer.battery import random_problem
from optimizer.solvers import exhaustive, relaxation
from optimizer.solvers.best_first import best_first_order
from optimizer.solvers.robust import least_regret
from reader_theory.acceptance import RankTable

seeds = st.integers(0, 2**32 - 1)
CODE = RankTable.stationary([0.8, 0.05, 0.03, 0.02], 8)
CHAT = RankTable.stationary([0.4, 0.2, 0.1, 0.08], 8)
PROSE = RankTable.stationary([0.2, 0.2, 0.15, 0.15], 8)
COST = TabulatedCost(1 + 0.01 * np.arange(65))


@given(seeds)
def test_optimum_lies_between_the_answer_and_its_bound(seed: int) -> None:
    problem = random_problem("robust", np.random.default_rng(seed))
    answer, truth = solve(problem), exhaustive.solve(problem)
    assert answer.value <= truth.value * (1 + 1e-9) <= answer.upper_bound * (1 + 2e-9)


def test_dual_bound_equals_the_linear_relaxation_where_cost_is_one_number() -> None:
    generator = np.random.default_rng(5)
    for _ in range(4):
        laws = tuple(RankTable(generator.dirichlet(np.ones(3), size=3)[:, :2]) for _ in range(2))
        seconds = np.full(6, 1e9)
        seconds[5] = 1.0  # five nodes or nothing
        problem = RobustProblem(laws, TabulatedCost(seconds), 5)
        assert solve(problem).upper_bound == pytest.approx(relaxation.linear_bound(problem).value, rel=1e-6)


def test_one_workload_is_the_tree_problem() -> None:
    alone = solve(RobustProblem((CHAT,), COST, 64))
    assert alone.value == pytest.approx(solve(TreeProblem(CHAT, COST, 64)).value)


def test_one_tree_for_three_workloads_beats_each_one_s_own_tree_in_the_worst_case() -> None:
    problem = RobustProblem((CODE, CHAT, PROSE), COST, 64)
    answer = solve(problem)
    for workload in problem.workloads:
        own = solve(TreeProblem(workload, COST, 64))
        worst = min(law.path_probability(own.tree).sum() for law in problem.workloads) / own.step_s
        assert answer.value >= worst - 1e-9
    assert answer.gap < 0.01


def test_least_regret_is_the_worst_share_of_each_workload_s_own_optimum() -> None:
    answer = solve(least_regret(RobustProblem((CODE, CHAT, PROSE), COST, 64)))
    own = [solve(TreeProblem(law, COST, 64)).value for law in (CODE, CHAT, PROSE)]
    shares = [
        law.path_probability(answer.tree).sum() / answer.step_s / best
        for law, best in zip((CODE, CHAT, PROSE), own, strict=True)
    ]
    assert answer.value == pytest.approx(min(shares)) and 0.8 < answer.value < 1


@given(seeds)
def test_worst_law_of_an_interval_is_its_lower_corner(seed: int) -> None:
    generator = np.random.default_rng(seed)
    low = generator.dirichlet(np.ones(5), size=4)[:, :4] * 0.8
    inside = low + generator.random(low.shape) * (1 - low.sum(axis=1, keepdims=True)) / 4
    tree, path = best_first_order(RankTable(low), 20, 4)
    assert RankTable(inside).path_probability(tree).sum() >= path.sum() - 1e-12
