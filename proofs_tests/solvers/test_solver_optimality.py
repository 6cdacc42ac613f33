"""Statement. For every tree problem the planner's value is the maximum over all trees of B tau(T) / C(T).

Under rule "any", or where ranks never rise, the N largest path probabilities are closed under parents, so best-first
is optimal for every N. Under rule "first" the optimum is the fixed point of

    g_r(n) = max_m p_r f(m) + g_{r+1}(n - m),  f(m) = 1 + g_0(m - 1),

for any ranks. Both are compared with a search over all trees, and with the plain recurrence where trees are too many.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimizer import Status, TabulatedCost, TreeProblem, solve
from optimizer.battery import BatteryError, check_solver, random_problem
from optimizer.bounds import exact_first_rank_tokens
from optimizer.solvers import best_first, dynamic, exhaustive, ratio
from reader_theory.acceptance import RankTable
from reader_theory.trees.tree import TokenTree

seeds = st.integers(0, 2**32 - 1)


@pytest.mark.parametrize("kind", ["tree", "levels"])
@given(seed=seeds)
def test_value_equals_exhaustive_search_to_eight_nodes(kind: str, seed: int) -> None:
    problem = random_problem(kind, np.random.default_rng(seed))
    answer, truth = solve(problem), exhaustive.solve(problem)
    assert answer.status is truth.status
    assert answer.value == pytest.approx(truth.value, rel=1e-11)


@pytest.mark.parametrize("kind", ["tree", "levels", "batch", "joint", "robust"])
def test_planner_passes_the_public_battery(kind: str) -> None:
    assert check_solver(solve, kinds=(kind,), trials=15, seed=7) >= 15


@given(seeds)
def test_dynamic_program_equals_the_plain_recurrence_for_any_ranks(seed: int) -> None:
    generator = np.random.default_rng(seed)
    ranks, depth, nodes = (int(generator.integers(1, top)) for top in (9, 6, 200))
    table = generator.dirichlet(np.full(ranks + 1, generator.choice([0.1, 1.0])), size=depth)[:, :ranks]
    if generator.random() < 0.7:
        table = np.tile(table[:1], (depth, 1))
    if generator.random() < 0.3:
        table = np.round(table, 1) * 0.9
    law = RankTable(table * 0.999)
    found = dynamic.tokens_table(law, nodes, depth).values
    np.testing.assert_allclose(found, exact_first_rank_tokens(law, nodes, depth), rtol=0, atol=1e-11)


@given(seeds)
def test_best_first_equals_the_dynamic_program_where_ranks_never_rise(seed: int) -> None:
    generator = np.random.default_rng(seed)
    ranks = -np.sort(-generator.dirichlet(np.full(6, 0.5))[:5])
    law = RankTable.stationary(ranks, 7)
    heap, program = best_first.tokens_table(law, 150, 7).values, dynamic.tokens_table(law, 150, 7).values
    np.testing.assert_allclose(heap, program, rtol=0, atol=1e-11)


@given(seeds)
def test_every_size_and_depth_of_a_table_has_its_tree(seed: int) -> None:
    generator = np.random.default_rng(seed)
    law = RankTable.stationary(generator.dirichlet(np.ones(5))[:4], 5)
    for table in (best_first.tokens_table(law, 40, 5), dynamic.tokens_table(law, 40, 5)):
        depth, nodes = int(generator.integers(1, 6)), int(generator.integers(1, 41))
        if not np.isfinite(table.values[depth, nodes]):
            continue
        tree = table.build(depth, nodes)
        assert tree.nodes == nodes and tree.depth <= depth
        assert law.path_probability(tree).sum() == pytest.approx(table.values[depth, nodes], abs=1e-11)


def test_frontier_heap_falls_short_on_ranks_that_rise() -> None:
    """A heap that may open a sibling only after those before it is what rule "first" tempts one to write."""
    law = RankTable.stationary([0.2, 1e-9, 0.79], 12)
    optimum = dynamic.tokens_table(law, 12, 12).values[12, 12]
    assert _frontier_value(law, 12) < 0.5 * optimum


def _frontier_value(law: RankTable, nodes: int) -> float:
    c = law.conditionals
    frontier, total = [(c[0, 0], (0,))], 1.0
    for _ in range(nodes):
        frontier.sort()
        gain, path = frontier.pop()
        total += gain
        above = gain / c[len(path) - 1, path[-1]]
        if path[-1] + 1 < c.shape[1]:
            frontier.append((above * c[len(path) - 1, path[-1] + 1], (*path[:-1], path[-1] + 1)))
        if len(path) < law.depth:
            frontier.append((gain * c[len(path), 0], (*path, 0)))
    return total


def test_stopping_at_the_first_decrease_misses_what_lies_behind_a_stair() -> None:
    law = RankTable.stationary([0.8, 0.1], 8)
    seconds = 1 + 0.6 * np.ceil(np.arange(9) / 8)
    problem = TreeProblem(law, TabulatedCost(seconds), 8)
    answer = solve(problem)
    rates = ratio.rates(problem, best_first.tokens_table(law, 8, 8).values)[8]
    first_decrease = rates[: 1 + int(np.argmax(np.diff(rates) < 0))].max()
    assert answer.value == rates.max() > 1.5 * first_decrease


def test_chain_or_off_are_answers_when_they_are_best() -> None:
    chain = solve(TreeProblem(RankTable.stationary([0.9, 0.01], 6), TabulatedCost(1 + 0.05 * np.arange(7)), 6))
    off = solve(TreeProblem(RankTable.stationary([0.1, 0.01], 6), TabulatedCost(1 + 0.5 * np.arange(7)), 6))
    assert chain.shape == "chain" and off.shape == "off" and off.tokens_per_step == 1
    assert "decode plainly" in off.advice


def test_price_tells_the_tree_apart_from_what_was_left_out() -> None:
    law = RankTable.stationary([0.6, 0.2, 0.1], 6)
    answer = solve(TreeProblem(law, TabulatedCost(1 + 0.03 * np.arange(65)), 64))
    path = law.path_probability(best_first.best_first_order(law, 64, 6)[0])
    assert path[answer.tree.nodes] >= answer.price >= path[answer.tree.nodes + 1]


def test_deeper_is_free_only_until_the_cost_says_otherwise() -> None:
    law = RankTable.stationary([0.7, 0.2], 10)
    by_nodes = 1 + 0.01 * np.arange(21)
    shallow = solve(TreeProblem(law, TabulatedCost(by_nodes + 0.3 * np.arange(11)[:, None]), 20))
    deep = solve(TreeProblem(law, TabulatedCost(by_nodes + 0.01 * np.arange(11)[:, None]), 20))
    assert shallow.depth < deep.depth


def test_battery_catches_a_solver_that_forgets_a_node() -> None:
    def forgetful(problem):  # type: ignore[no-untyped-def]
        tree = TokenTree.chain(min(1, problem.nodes_limit))
        answer = exhaustive.solve(problem)
        return answer if answer.status is Status.INFEASIBLE else _with_tree(problem, answer, tree)

    with pytest.raises(BatteryError, match="optimal"):
        check_solver(forgetful, kinds=("tree",), trials=2)


def _with_tree(problem, answer, tree):  # type: ignore[no-untyped-def]
    from dataclasses import replace

    tokens = float(problem.acceptance.path_probability(tree).sum())
    step_s = problem.cost.step_s(tree.nodes, tree.depth)
    value = problem.batch * tokens / step_s
    return replace(
        answer, trees=(tree,), depth=tree.depth, tokens_per_step=tokens, step_s=step_s, value=value, upper_bound=value
    )
