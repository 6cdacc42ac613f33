"""Never take a solver's word: feasibility, value and gap of an answer, checked without the solvers' code."""

from __future__ import annotations

from itertools import product

import numpy as np
from numpy.typing import NDArray

from optimizer.acceptance import Acceptance, ForestAcceptance
from optimizer.bounds import (
    exact_first_rank_tokens,
    most_mean_tokens,
    most_tokens,
    most_weighted_tokens,
    rate_bound_by_levels,
)  # fmt: skip
from optimizer.cost import LevelCost, TabulatedCost
from optimizer.problem import BatchProblem, JointProblem, Problem, RobustProblem, TreeProblem
from optimizer.schedule_problem import Schedule
from optimizer.solution import TOLERANCE, Certificate, Solution
from reader_theory.acceptance.rank_table import RankTable
from reader_theory.errors import ReaderTheoryError
from reader_theory.trees.tree import TokenTree

__all__ = ["UncertifiedError", "certify", "certify_schedule"]

Floats = NDArray[np.float64]
MOST_SUMS = 20_000
"""Rows that the plain recurrence may add to prove an answer without being asked to."""


class UncertifiedError(ReaderTheoryError):
    """A solver's answer did not stand: a bug of the solver, never of the user."""


def certify(problem: Problem, solution: Solution, *, thorough: bool = False) -> Certificate:
    r"""Check an answer against its problem.

    With :math:`\lambda^* = \tau^* / C^*` the answer is optimal iff :math:`\max_T \tau(T) - \lambda^* C(T) \le 0`; the
    maximum is bounded over every size and depth by what no tree of that size can exceed. O(n) for feasibility and
    value, and one sweep of the candidates for the bound.

    Parameters
    ----------
    problem : Problem
    solution : Solution
    thorough : bool
        Close the gap that the dual leaves when children must be ranks 0..b-1 and ranks rise, by the plain recurrence
        in O(D^2 R N^2).

    Returns
    -------
    Certificate
    """
    if isinstance(problem, TreeProblem):
        return _certify_tree(problem, solution, thorough)
    if isinstance(problem, BatchProblem):
        return _certify_batch(problem, solution)
    if isinstance(problem, RobustProblem):
        return _certify_robust(problem, solution)
    return _certify_joint(problem, solution)


def _certify_tree(problem: TreeProblem, solution: Solution, thorough: bool = False) -> Certificate:
    found: list[str] = []
    value = 0.0
    if solution.trees:
        tree = solution.tree
        found += _shape_faults(problem, tree, solution.depth)
        tokens, faults = _tokens(problem.acceptance, tree)
        found += faults
        step_s = float("inf") if found else _step_s(problem, tree, solution.depth)
        value = problem.batch * tokens / step_s
        found += _limit_faults(problem, tokens, step_s) + _claims(solution, tokens, step_s, value)
    acceptance, nodes, depth = problem.acceptance, problem.nodes_limit, problem.depth_limit
    known = None
    if thorough and problem.rule == "first" and isinstance(acceptance, RankTable) and nodes >= 0:
        known = exact_first_rank_tokens(acceptance, nodes, depth), True
    bound, attained = tree_bound(problem, value, known)
    return _verdict(solution, found, value, bound, attained)


def _is_small(law: RankTable, nodes: int, depth: int) -> bool:
    """Whether the plain recurrence takes milliseconds, so that the dual's bound need not leave a gap."""
    passes = 1 if law.is_stationary else depth
    return not law.is_monotone and passes * depth * law.conditionals.shape[1] * nodes <= MOST_SUMS


def _shape_faults(problem: TreeProblem | RobustProblem, tree: TokenTree, depth: int) -> list[str]:
    faults: list[str] = []
    if tree.nodes > problem.nodes_limit:
        faults.append(f"{tree.nodes} nodes exceed the limit {problem.nodes_limit}")
    if tree.depth > depth or depth > problem.depth_limit:
        faults.append(f"the tree is {tree.depth} deep, {depth} levels are drafted, {problem.depth_limit} are allowed")
    if isinstance(problem, TreeProblem):
        if isinstance(problem.cost, LevelCost) and tree.level_widths.max(initial=0) > problem.cost.width:
            faults.append(
                f"a level of {tree.level_widths.max()} nodes is wider than the cost table, {problem.cost.width}"
            )
        if problem.rule == "first" and not _first_ranks(tree):
            faults.append('under rule "first" the children of a node must be ranks 0..b-1')
    return faults


def _first_ranks(tree: TokenTree) -> bool:
    """Whether the largest rank below every node is its number of children less one; siblings differ by construction."""
    children = np.bincount(tree.parents[1:], minlength=len(tree))
    largest = np.full(len(tree), -1)
    np.maximum.at(largest, tree.parents[1:], tree.ranks[1:])
    return bool((largest + 1 == children).all())


def _tokens(acceptance: Acceptance, tree: TokenTree) -> tuple[float, list[str]]:
    """Tokens a step of a tree, one product a node, and what of it the acceptance does not know."""
    if isinstance(acceptance, ForestAcceptance):
        return _forest_tokens(acceptance, tree)
    depth, ranks = acceptance.conditionals.shape
    if tree.depth > depth or tree.ranks.max() >= ranks:
        return 0.0, [f"depth {tree.depth} or rank {tree.ranks.max()} is beyond the {depth} x {ranks} that are known"]
    table: list[list[float]] = acceptance.conditionals.tolist()
    reached = [1.0]
    parents: list[int] = tree.parents[1:].tolist()
    for parent, rank, d in zip(parents, tree.ranks[1:].tolist(), tree.depths[1:].tolist(), strict=True):
        reached.append(reached[parent] * table[int(d) - 1][int(rank)])
    return float(np.sum(reached)), []


def _forest_tokens(acceptance: ForestAcceptance, tree: TokenTree) -> tuple[float, list[str]]:
    forest = acceptance.tree
    keys = zip(forest.parents.tolist(), forest.ranks.tolist(), forest.sources, strict=True)
    known = {key: i for i, key in enumerate(keys)}
    match = [0]
    parents: list[int] = tree.parents[1:].tolist()
    for parent, rank, source in zip(parents, tree.ranks[1:].tolist(), tree.sources[1:], strict=True):
        match.append(known.get((match[parent], rank, source), -2))
    if -2 in match:
        return 0.0, [f"nodes {[i for i, m in enumerate(match) if m == -2][:5]} are not among the candidates"]
    return float(acceptance.path_probability[match].sum()), []


def _step_s(problem: TreeProblem, tree: TokenTree, depth: int) -> float:
    if isinstance(problem.cost, LevelCost):
        return problem.cost.step_s(tree.level_widths)
    return problem.cost.step_s(tree.nodes, depth)


def _limit_faults(problem: TreeProblem | BatchProblem, tokens: float, step_s: float) -> list[str]:
    slack = 1 + TOLERANCE
    if np.isfinite(step_s) and not problem.objective.allows(tokens * slack, step_s / slack):
        return [f"a step of {step_s:.3g} s for {tokens:.3g} tokens breaks the cap or the latency target"]
    return []


def _claims(solution: Solution, tokens: float, step_s: float, value: float) -> list[str]:
    pairs = {"tokens_per_step": tokens, "step_s": step_s, "value": value}
    return [
        f"{name} is said to be {getattr(solution, name):.9g} and is {true:.9g}"
        for name, true in pairs.items()
        if not abs(getattr(solution, name) - true) <= TOLERANCE * max(abs(true), 1e-300)
    ]


def tree_bound(problem: TreeProblem, value: float, known: tuple[Floats, bool] | None = None) -> tuple[float, bool]:
    """Upper bound on tokens a second of a tree problem, and whether it is attained; 0 when nothing is feasible.

    `known` is the bound on tokens of at least these sizes and depths, where it was worked out before.
    """
    nodes, depth = problem.nodes_limit, problem.depth_limit
    if nodes < 0:
        return 0.0, True
    if isinstance(problem.cost, LevelCost):
        bound = rate_bound_by_levels(problem.acceptance, problem.cost, nodes, depth, value / problem.batch)
        return problem.batch * bound, False
    tokens, attained = known or most_tokens(
        problem.acceptance, problem.rule, nodes, depth, problem.cost.depth is not None
    )
    return problem.batch * _best_rate(problem, tokens[: depth + 1, : nodes + 1], problem.cost), attained


def _best_rate(problem: TreeProblem | BatchProblem, tokens: Floats, cost: TabulatedCost) -> float:
    seconds = cost.table(tokens.shape[0] - 1, tokens.shape[1] - 1)
    allowed = problem.objective.allows(tokens, seconds)
    return float(np.max(np.where(allowed, tokens / seconds, 0.0)))


def _verdict(solution: Solution, found: list[str], value: float, bound: float, attained: bool) -> Certificate:
    slack = 1 + TOLERANCE
    if value > bound * slack and not found:
        found.append(f"the value {value:.9g} exceeds the bound {bound:.9g}: the problem contradicts itself")
    if not solution.trees and bound > 0 and attained:
        found.append(f"an answer exists, up to {bound:.9g} tokens a second, and none was given")
    if solution.trees and attained and solution.upper_bound * slack < bound:
        found.append(
            f"better answers exist: the claimed bound is {solution.upper_bound:.9g}, and {bound:.9g} is attained"
        )
    if solution.upper_bound * slack < solution.value:
        found.append(f"the value {solution.value:.9g} exceeds its own bound {solution.upper_bound:.9g}")
    return Certificate(tuple(found), value, bound, attained)


def _certify_batch(problem: BatchProblem, solution: Solution) -> Certificate:
    found: list[str] = []
    value, plain = 0.0, problem.side is None
    if solution.trees:
        parts = [_tokens(request, tree) for request, tree in zip(problem.requests, solution.trees, strict=True)]
        nodes = sum(tree.nodes for tree in solution.trees)
        found += [fault for _, faults in parts for fault in faults]
        if nodes > problem.nodes_limit:
            found.append(f"{nodes} nodes over the batch exceed the limit {problem.nodes_limit}")
        deepest = max(tree.depth for tree in solution.trees)
        if deepest > solution.depth or solution.depth > problem.depth_limit:
            found.append(
                f"a tree is {deepest} deep, {solution.depth} levels are drafted, {problem.depth_limit} allowed"
            )
        found += _side_faults(problem, solution, [tokens for tokens, _ in parts])
        mean = sum(tokens for tokens, _ in parts) / problem.batch
        step_s = float("inf") if found else problem.cost.step_s(nodes, solution.depth)
        value = problem.batch * mean / step_s
        found += _limit_faults(problem, mean, step_s) + _claims(solution, mean, step_s, value)
    bound = 0.0
    if problem.nodes_limit >= 0:
        tokens = most_mean_tokens(problem.requests, problem.nodes_limit, problem.depth_limit)
        bound = problem.batch * _best_rate(problem, tokens, problem.cost)
    return _verdict(solution, found, value, bound, plain)


def _side_faults(problem: BatchProblem, solution: Solution, tokens: list[float]) -> list[str]:
    faults: list[str] = []
    side = problem.side
    if side is None:
        return faults
    classes, sizes = np.array(side.classes), np.array([tree.nodes for tree in solution.trees])
    for k, (most, least) in enumerate(zip(side.max_nodes, side.min_tokens_per_step, strict=True)):
        mine = classes == k
        if sizes[mine].sum() > most:
            faults.append(f"class {k} spends {sizes[mine].sum()} nodes of {most}")
        if mine.any() and np.array(tokens)[mine].mean() < least - 1e-6:
            faults.append(f"class {k} gets {np.array(tokens)[mine].mean():.6g} tokens a step of the promised {least}")
    return faults


def _certify_robust(problem: RobustProblem, solution: Solution) -> Certificate:
    tree = solution.tree
    found = _shape_faults(problem, tree, solution.depth)
    parts = [_tokens(workload, tree) for workload in problem.workloads]
    found += [fault for _, faults in parts for fault in faults]
    worst = float(min(scale * tokens for scale, (tokens, _) in zip(problem.scales, parts, strict=True)))
    step_s = float("inf") if found else problem.cost.step_s(tree.nodes, solution.depth)
    value = problem.batch * worst / step_s
    found += _claims(solution, worst, step_s, value)
    seconds = problem.cost.table(problem.depth_limit, problem.nodes_limit)
    most = np.full(seconds.shape, np.inf)
    for weights in _dual_weights(problem, solution):
        args = (problem.workloads, weights * problem.scales, problem.nodes_limit, problem.depth_limit)
        most = np.minimum(most, most_weighted_tokens(*args))
    return _verdict(solution, found, value, problem.batch * float(np.max(most / seconds)), False)


def _dual_weights(problem: RobustProblem, solution: Solution) -> list[Floats]:
    """Weights over workloads to bound with: any are sound, those that the solver ends on are tight."""
    count = len(problem.workloads)
    hints = [np.array(row) for row in _hints(solution, count)]
    return [*np.eye(count), np.full(count, 1 / count), *(hint / hint.sum() for hint in hints if hint.sum() > 0)]


def _hints(solution: Solution, count: int) -> list[list[float]]:
    rows: list[list[float]] = []
    while f"weight_{len(rows)}_0" in solution.statistics:
        rows.append([max(0.0, solution.statistics[f"weight_{len(rows)}_{w}"]) for w in range(count)])
    return rows


def _certify_joint(problem: JointProblem, solution: Solution) -> Certificate:
    single = [problem.at_batch(batch) for batch in problem.costs]
    sizes = [(max(0, p.nodes_limit), p.depth_limit) for p in single]
    known = most_tokens(problem.acceptance, problem.rule, max(n for n, _ in sizes), max(d for _, d in sizes))
    bounds = [tree_bound(p, 0.0, known) for p in single]
    bound, attained = max((b for b, _ in bounds), default=0.0), all(a for _, a in bounds)
    if not solution.trees:
        return _verdict(solution, [], 0.0, bound, attained)
    if solution.batch not in problem.costs:
        return _verdict(solution, [f"batch {solution.batch} has no cost"], 0.0, bound, attained)
    alone = _certify_tree(problem.at_batch(solution.batch), solution)
    found = [v for v in alone.violations if not v.startswith("better answers exist")]
    return _verdict(solution, found, alone.value, bound, attained)


def certify_schedule(schedule: Schedule) -> tuple[list[str], Floats]:
    """What speaks against a schedule, cell by cell, and the (B, C) bound on tokens a second of each cell.

    Tokens are recomputed from each tree, seconds from the tables; each cell's bound is over every depth and size that
    fits.
    """
    problem = schedule.problem
    laws = problem.acceptance
    most = [
        (exact_first_rank_tokens(law, problem.nodes, problem.depth), True)
        if problem.rule == "first" and _is_small(law, problem.nodes, problem.depth)
        else most_tokens(law, problem.rule, problem.nodes, problem.depth)
        for law in laws
    ]
    tokens = {key: _tokens(laws[key[0]], tree) for key, tree in schedule.trees.items()}
    found = [f"tree {key}: {fault}" for key, (_, faults) in tokens.items() for fault in faults]
    for key, tree in schedule.trees.items():
        if problem.rule == "first" and not _first_ranks(tree):
            found.append(f"tree {key}: ranks are not 0..b-1")
        if tree.nodes != key[2] or tree.depth > key[1]:
            found.append(f"tree {key} is {tree.nodes} x {tree.depth}")
    room = problem.most_nodes()
    bound = np.zeros(schedule.nodes.shape)
    for b, c in product(range(len(problem.batches)), range(len(problem.contexts))):
        batch, which, size = problem.batches[b], c if len(laws) > 1 else 0, int(room[b, c])
        seconds = problem.verify_s[b, c, : size + 1] + problem.draft_s[b, c][:, None]
        row, attained = most[which]
        row = row[:, : size + 1]
        allowed = problem.objective.allows(row, seconds) & np.isfinite(row)
        bound[b, c] = batch * float(np.max(row / seconds, where=allowed, initial=0.0)) if size >= 0 else 0.0
        n, d = int(schedule.nodes[b, c]), int(schedule.depth[b, c])
        value = 0.0
        if n >= 0:
            step_s = float(problem.verify_s[b, c, n] + problem.draft_s[b, c, d])
            value = batch * tokens[which, d, n][0] / step_s
            if n > size:
                found.append(f"cell {b}, {c}: {n} nodes where {size} fit")
        if abs(value - schedule.value[b, c]) > TOLERANCE * max(value, 1e-300):
            found.append(f"cell {b}, {c}: the value is said to be {schedule.value[b, c]:.9g} and is {value:.9g}")
        if attained and value * (1 + TOLERANCE) < bound[b, c]:
            found.append(f"cell {b}, {c}: better answers exist, {bound[b, c]:.9g} against {value:.9g}")
    return found, bound
