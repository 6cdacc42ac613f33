"""Statement. The optimum of sum tau / C(total nodes) takes all requests' candidates by falling probability.

Tokens are a sum over nodes, so for each total the most probable candidates are best wherever they hang; every total is
scanned. And under memory, (batch, tree) is scanned jointly; a byte is worth the steepest slope of value over capacity.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimizer import BatchProblem, JointProblem, Memory, TabulatedCost, solve
from optimizer.battery import random_problem
from optimizer.solvers import exhaustive, memory
from optimizer.solvers.allocation import allocate
from optimizer.solvers.best_first import best_first_order
from reader_theory.acceptance import RankTable

seeds = st.integers(0, 2**32 - 1)


@given(seeds)
def test_allocation_equals_exhaustive_search(seed: int) -> None:
    problem = random_problem("batch", np.random.default_rng(seed))
    assert solve(problem).value == pytest.approx(exhaustive.solve(problem).value, rel=1e-11)


@given(seeds)
def test_allocated_candidates_are_closed_and_cut_at_one_price(seed: int) -> None:
    generator = np.random.default_rng(seed)
    chains = np.cumprod(generator.choice([0.5, 1.0, 0.9], size=(16, 12)) * generator.random((16, 1)) ** 0.2, axis=1)
    seconds = 1 + 0.5 * np.ceil(np.arange(16 * 12 + 1) / 32)
    found = allocate(chains, seconds, 16)
    assert found is not None
    chosen = found.chosen.reshape(chains.shape)
    assert bool((np.diff(chosen.astype(int), axis=1) <= 0).all())
    assert chains[chosen].min(initial=1) >= found.price >= chains[~chosen].max(initial=0)
    assert found.nodes == chosen.sum()
    assert found.tokens == pytest.approx(16 + chains[chosen].sum())


def test_water_level_beats_every_uniform_budget_when_requests_differ() -> None:
    copies, prose = np.cumprod(np.full((8, 32), 0.98), axis=1), np.cumprod(np.full((24, 32), 0.5), axis=1)
    path = np.concatenate([copies, prose])
    seconds = 1 + 0.01 * np.arange(path.size + 1)
    found = allocate(path, seconds, 32)
    uniform = max((32 + path[:, :k].sum()) / seconds[32 * k] for k in range(33))
    assert found is not None and found.value > 1.25 * uniform


def test_one_request_is_the_tree_problem() -> None:
    from optimizer import ForestAcceptance, TreeProblem

    law = RankTable.stationary([0.6, 0.25], 6)
    tree, path = best_first_order(law, 30, 6)
    cost = TabulatedCost(1 + 0.05 * np.arange(31))
    batch = solve(BatchProblem((ForestAcceptance(tree, path),), cost, 30))
    assert batch.value == pytest.approx(solve(TreeProblem(law, cost, 30)).value)


LAW = RankTable.stationary([0.6, 0.2, 0.1], 5)
COSTS = {b: TabulatedCost(1 + 0.02 * b * np.arange(33)) for b in (1, 2, 4, 8, 16, 32)}


def _joint(capacity: float) -> JointProblem:
    return JointProblem(LAW, COSTS, Memory(capacity, 1.0, 0.25), 40.0, 32)


def test_joint_answer_is_the_best_over_batches_that_fit() -> None:
    problem = _joint(700.0)
    answer = solve(problem)
    assert answer.value == max(solve(problem.at_batch(b)).value for b in COSTS)
    assert answer.statistics["used_bytes"] <= 700


def test_blindness_to_memory_costs_what_the_joint_answer_wins() -> None:
    """Blind: the largest batch that fits plain decoding, with whatever nodes still fit."""
    costs = {b: TabulatedCost(1 + 0.1 * b + 0.002 * b * np.arange(33)) for b in (1, 2, 4, 8, 16)}
    problem = JointProblem(LAW, costs, Memory(16 * 41.5, 1.0, 0.25), 40.0, 32)
    blind = solve(problem.at_batch(16))
    assert solve(problem).value > 1.5 * blind.value


def test_shadow_price_is_the_slope_of_value_over_capacity() -> None:
    problem = _joint(500.0)
    price, ahead = memory.shadow_price(problem)
    capacity, value = memory.value_by_capacity(problem)
    assert bool((np.diff(value) > 0).all() and (np.diff(capacity) > 0).all())
    here = solve(problem).value
    for more in (ahead, 3 * ahead, 400.0):
        assert solve(_joint(500.0 + more)).value <= here + price * more * (1 + 1e-9)
    assert solve(_joint(500.0 + ahead * 0.99)).value == here
    assert solve(_joint(500.0 + ahead)).value > here


def test_memory_that_holds_nothing_is_said_with_what_it_takes() -> None:
    answer = solve(_joint(30.0))
    assert not answer.trees and "41" in answer.advice
