"""Statement. A certificate is valid only if the answer is feasible, is worth what it says, and hides no better one.

With lambda* = tau*/C*, an answer is optimal iff max over T of tau(T) - lambda* C(T) is 0. The check bounds tau by
breadth-first sums (attained) or by the Lagrangian dual (attained at its corners), never by a solver's code.
"""

from __future__ import annotations

import ast
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import optimizer
from optimizer import Solution, Status, TabulatedCost, TreeProblem, UncertifiedError, certify, solve
from optimizer.battery import KINDS, random_problem
from optimizer.bounds import exact_first_rank_tokens, most_tokens
from optimizer.solvers import best_first, dynamic, exhaustive, ratio
from optimizer.solvers.tokens import TokensTable
from reader_theory.acceptance import RankTable
from reader_theory.trees.tree import TokenTree

LAW = RankTable.stationary([0.5, 0.3, 0.1], 5)
RISING = RankTable.stationary([0.1, 0.2, 0.6], 5)
PROBLEM = TreeProblem(LAW, TabulatedCost(1 + 0.02 * np.arange(25)), 24)


def _certify_random(count: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    for i in range(count):
        problem = random_problem(KINDS[i % len(KINDS)], generator)
        assert solve(problem).certificate.valid  # type: ignore[union-attr]


def test_random_problems_of_every_kind_are_certified() -> None:
    _certify_random(250, seed=1)


@pytest.mark.slow
def test_ten_thousand_random_problems_are_certified() -> None:
    _certify_random(10_000, seed=2)


def test_certificate_shares_no_code_with_solvers() -> None:
    for name in ("certificates.py", "bounds.py"):
        tree = ast.parse((Path(optimizer.__file__).parent / name).read_text())
        imported = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
        assert not [module for module in imported if module.startswith("optimizer.solvers")]


def test_every_answer_of_the_planner_carries_its_certificate() -> None:
    certificate = solve(PROBLEM).certificate
    assert certificate is not None and certificate.proves_optimal()


def test_bound_is_attained_for_any_ranks_and_never_undercut_for_first_ranks() -> None:
    bound, attained = most_tokens(LAW, "any", 60, 5)
    assert attained
    np.testing.assert_allclose(bound, best_first.tokens_table(LAW, 60, 5).values, atol=1e-12)
    bound, attained = most_tokens(RISING, "first", 60, 5)
    exact = exact_first_rank_tokens(RISING, 60, 5)
    assert not attained and bool((bound[1:] >= exact[1:] - 1e-12).all())
    corners = np.isclose(bound[5], exact[5], atol=1e-12)
    assert corners.sum() >= 5 and corners[-1:].size


def _off_by_one(table: TokensTable) -> TokensTable:
    """A solver that never considers the last size."""
    values = table.values.copy()
    values[:, -1] = -np.inf
    return replace(table, values=values)


def _dropped_sibling(table: TokensTable, law: RankTable) -> TokensTable:
    """A solver that forgets the last rank."""
    short = RankTable(law.conditionals[:, :-1])
    return best_first.tokens_table(short, table.values.shape[1] - 1, table.values.shape[0] - 1)


def _shallow(table: TokensTable) -> TokensTable:
    """A solver whose depth loop ends one level early."""
    values = table.values.copy()
    values[-1] = values[-2]
    return replace(table, values=values)


@pytest.mark.parametrize("bug", [_off_by_one, lambda table: _dropped_sibling(table, LAW)])
def test_planted_bugs_of_size_and_closure_are_caught(bug) -> None:  # type: ignore[no-untyped-def]
    problem = replace(PROBLEM, cost=TabulatedCost(np.ones(25)))
    good = best_first.tokens_table(LAW, 24, 5)
    assert certify(problem, ratio.solve(problem, good)).valid
    certificate = certify(problem, ratio.solve(problem, bug(good)))
    assert any("better answers exist" in fault for fault in certificate.violations)


def test_planted_bug_of_depth_is_caught() -> None:
    law = RankTable.stationary([0.95, 0.01], 5)
    problem = TreeProblem(law, TabulatedCost(np.ones(11)), 10)
    bug = _shallow(best_first.tokens_table(law, 10, 5))
    bug.values[5] = bug.values[4]
    shallow = replace(bug, build=lambda depth, nodes: best_first.best_first_order(law, nodes, min(depth, 4))[0])
    assert not certify(problem, ratio.solve(problem, shallow)).valid


def test_planted_bug_in_the_dynamic_program_is_caught_by_the_thorough_certificate() -> None:
    problem = TreeProblem(RISING, TabulatedCost(np.ones(18)), 17, rule="first")
    good = dynamic.tokens_table(RISING, 17, 5)
    assert certify(problem, ratio.solve(problem, good), thorough=True).proves_optimal()
    assert not certify(problem, ratio.solve(problem, _off_by_one(good)), thorough=True).valid


def test_children_that_skip_a_rank_are_caught_under_rule_first() -> None:
    problem = TreeProblem(RISING, PROBLEM.cost, 24, rule="first")
    tree = TokenTree([-1, 0, 0], [0, 0, 2])
    answer = _claim(problem, tree)
    assert any("ranks 0..b-1" in fault for fault in certify(problem, answer).violations)
    assert not any("ranks" in fault for fault in certify(replace(problem, rule="any"), answer).violations)


def _claim(problem: TreeProblem, tree: TokenTree) -> Solution:
    tokens = float(problem.acceptance.path_probability(tree).sum())  # type: ignore[union-attr]
    step_s = problem.cost.step_s(tree.nodes, tree.depth)  # type: ignore[call-arg]
    value = problem.batch * tokens / step_s
    return Solution((tree,), tree.depth, problem.batch, tokens, step_s, value, value, 0.0, Status.FEASIBLE, "claimed")


def test_a_false_value_is_caught() -> None:
    answer = solve(PROBLEM)
    lies = [replace(answer, **{name: getattr(answer, name) * 1.001}) for name in ("value", "tokens_per_step", "step_s")]
    assert not any(certify(PROBLEM, lie).valid for lie in lies)


def test_a_tree_that_is_too_large_too_deep_or_unknown_is_caught() -> None:
    small = replace(PROBLEM, max_nodes=3)
    assert not certify(small, _claim(PROBLEM, TokenTree.chain(5))).valid
    assert not certify(replace(PROBLEM, max_depth=2), _claim(PROBLEM, TokenTree.chain(3))).valid
    stranger = replace(solve(PROBLEM), trees=(TokenTree([-1, 0], [0, 7]),))
    assert any("beyond" in fault for fault in certify(PROBLEM, stranger).violations)


def test_giving_up_on_a_feasible_problem_is_caught() -> None:
    assert not certify(PROBLEM, Solution.infeasible("lazy", "no")).valid


def test_planner_refuses_the_answer_of_a_broken_solver() -> None:
    def broken(problem):  # type: ignore[no-untyped-def]
        answer = exhaustive.solve(replace(problem, max_nodes=3))
        return replace(answer, value=answer.value * 2, upper_bound=answer.value * 2)

    with pytest.raises(UncertifiedError, match="is said to be"):
        solve(PROBLEM, broken)
