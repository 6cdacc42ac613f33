"""The planner picks the solver by what the problem is, says which, and keeps the order chain and off set."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from optimizer import (
    BatchProblem,
    ForestAcceptance,
    JointProblem,
    LevelCost,
    Memory,
    Objective,
    RobustProblem,
    SideConstraints,
    Status,
    TabulatedCost,
    TreeProblem,
    baselines,
    choose,
    solve,
)
from reader_theory.acceptance import RankTable
from reader_theory.trees import TokenTree

FALLING, RISING = RankTable([[0.5, 0.3], [0.5, 0.3]]), RankTable([[0.3, 0.5], [0.3, 0.5]])
COST = TabulatedCost(1 + 0.02 * np.arange(9))
LEVELS = LevelCost(0.01 * np.ones((2, 5)), COST.seconds[0])
FOREST = ForestAcceptance(TokenTree([-1, 0, 1, 0]), [1, 0.6, 0.5, 0.2])


@pytest.mark.parametrize(
    ("problem", "solver"),
    [
        (TreeProblem(FALLING, COST, 8), "best_first"),
        (TreeProblem(RISING, COST, 8), "best_first"),
        (TreeProblem(FALLING, COST, 8, rule="first"), "best_first"),
        (TreeProblem(RISING, COST, 8, rule="first"), "dynamic"),
        (TreeProblem(FOREST, COST, 3), "best_first"),
        (TreeProblem(FALLING, LEVELS, 8), "levels"),
        (TreeProblem(RISING, LEVELS, 4, rule="first"), "relaxation"),
        (TreeProblem(FOREST, LEVELS, 3), "relaxation"),
        (BatchProblem((FOREST, FOREST), COST, 6), "allocation"),
        (BatchProblem((FOREST, FOREST), COST, 6, side=SideConstraints((0, 1), (1, 3), (1, 1.5))), "relaxation"),
        (JointProblem(FALLING, {1: COST, 2: COST}, Memory(100, 1), 10, 8), "memory"),
        (RobustProblem((FALLING, RISING), COST, 8), "robust"),
    ],
)
def test_planner_picks_the_solver_that_fits_and_says_which(problem, solver: str) -> None:  # type: ignore[no-untyped-def]
    answer = solve(problem)
    assert choose(problem) == answer.solver == solver
    assert answer.certificate is not None and answer.certificate.valid
    assert answer.upper_bound >= answer.value * (1 - 1e-12)


def test_planner_never_falls_below_chain_or_off_whatever_the_solver() -> None:
    from optimizer.solvers import exhaustive

    problem = TreeProblem(FALLING, COST, 8)
    poor = exhaustive.solve(TreeProblem(RankTable([[0.5, 0.3]]), COST, 1))
    plain = baselines(problem)

    def cautious(_):  # type: ignore[no-untyped-def]
        from dataclasses import replace

        return replace(poor, status=Status.FEASIBLE, upper_bound=10.0)

    answer = solve(problem, cautious)
    assert answer.value >= max(plain["chain"].value, plain["off"].value) and answer.solver == "chain"


def test_objective_decides_what_is_feasible_and_how_it_is_reported() -> None:
    free = solve(TreeProblem(FALLING, COST, 8))
    capped = solve(TreeProblem(FALLING, COST, 8, objective=Objective("latency", step_cap_s=1.05)))
    late = solve(TreeProblem(FALLING, COST, 8, objective=Objective("goodput", latency_target_s=0.1)))
    assert capped.step_s <= 1.05 < free.step_s and capped.value < free.value
    assert late.status is Status.INFEASIBLE and late.advice
    priced = Objective("cost_per_token", price_per_s=2.0)
    assert priced.reported(free.value, 1) == pytest.approx(2.0 / free.value)
    assert Objective("latency").reported(free.value, 4) == pytest.approx(4 / free.value)


def test_memory_takes_nodes_away_and_then_everything() -> None:
    def plan(capacity: float) -> int:
        memory = Memory(capacity_bytes=capacity, kv_bytes_per_token=1.0)
        answer = solve(TreeProblem(FALLING, COST, 8, batch=2, context_tokens=9, memory=memory))
        return answer.tree.nodes if answer.trees else -1

    sizes = [plan(capacity) for capacity in (19, 20, 22, 24, 26, 100)]
    assert sizes[:3] == [-1, 0, 1] and sizes == sorted(sizes) and sizes[-1] == sizes[-2] + sizes[-1] - sizes[-2]


def test_importing_the_optimizer_loads_no_heavy_library() -> None:
    heavy = ("numba", "cvxpy", "scipy", "joblib", "distributed")
    code = f"import sys, optimizer; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
