r"""One tree for several workloads: make the worst tokens a second best.

Prefer it when one static tree must serve code, chat and edits alike, or when a fit is only known to an interval.
Max-min of sums is hard in general; its dual is not: for weights over workloads the mixed path probabilities never
rise along a path, so the best trees of every size are one sorted sweep. Cutting planes on the weights (Kelley 1960)
give a bound for every size, and the trees they pass through give the answer; what is left between them is reported as
the gap. The bound equals the linear relaxation's.

Against the interval of a fit: tokens a step never fall when a conditional rises, so the worst law of a box is its
lower corner; pass that corner as the only workload, or several laws with `least_regret`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog

from optimizer.problem import RobustProblem, TreeProblem
from optimizer.solution import Solution
from optimizer.solvers import best_first, ratio
from optimizer.solvers.tokens import Floats
from reader_theory.acceptance.rank_table import RankTable
from reader_theory.trees.tree import TokenTree

__all__ = ["least_regret", "solve"]

MOST_CUTS = 60
TOLERANCE = 1e-9


def least_regret(problem: RobustProblem) -> RobustProblem:
    """The same workloads, each scaled by its own optimum: the value is the worst share of a tree of its own."""
    scale: list[float] = []
    for workload in problem.workloads:
        own = TreeProblem(workload, problem.cost, problem.max_nodes, problem.max_depth, batch=problem.batch)
        table = best_first.tokens_table(workload, own.nodes_limit, own.depth_limit)
        scale.append(1.0 / ratio.solve(own, table).value)
    return RobustProblem(
        problem.workloads, problem.cost, problem.max_nodes, problem.max_depth, tuple(scale), problem.batch
    )  # fmt: skip


@dataclass(eq=False)
class _Best:
    """The best tree so far, and the bound on every depth and size."""

    value: float = -np.inf
    tree: TokenTree = field(default_factory=TokenTree.empty)
    depth: int = 0
    nodes: int = 0
    worst: float = 0.0
    cuts: int = 0
    weights: list[Floats] = field(default_factory=list[NDArray[np.float64]])


def _mixed_order(workloads: tuple[RankTable, ...], weights: Floats, nodes: int, depth: int) -> tuple[TokenTree, Floats]:
    """Tree of the `nodes` largest mixed path probabilities, in falling order, and their (N + 1, W) probabilities."""
    table = np.stack([w.conditionals[:depth] for w in workloads], axis=2)
    ranks = table.shape[1]
    path, names = np.ones((1, len(workloads))), np.zeros(1, dtype=np.intp)
    rows: list[Floats] = [path]
    parents: list[NDArray[np.intp]] = [names - 1]
    chosen: list[NDArray[np.intp]] = [names]
    for d in range(depth):
        family = (path[:, None, :] * table[d]).reshape(-1, len(workloads))
        keep = np.argsort(-(family @ weights), kind="stable")[:nodes]
        start = sum(len(row) for row in rows)
        rows.append(family[keep])
        parents.append(names[keep // ranks])
        chosen.append(keep % ranks)
        path, names = family[keep], np.arange(start, start + len(keep))
    every, above, rank = np.concatenate(rows), np.concatenate(parents), np.concatenate(chosen)
    order = np.argsort(-_falling(every @ weights, above), kind="stable")[: nodes + 1]
    place = np.full(len(every), -1)
    place[order] = np.arange(len(order))
    parent = place[above[order]]
    parent[0] = -1
    return TokenTree(parent, rank[order]), every[order]


def _falling(score: Floats, parents: NDArray[np.intp]) -> Floats:
    """Scores clipped to their parent's, so that rounding never puts a child before its parent."""
    clipped = score.copy()
    for node, parent in enumerate(parents.tolist()[1:], start=1):
        clipped[node] = min(clipped[node], clipped[parent])
    return clipped


def solve(problem: RobustProblem) -> Solution:
    """The tree whose worst scaled workload is best, with a bound from the dual."""
    scales, best, bound = problem.scales, _Best(), 0.0
    seconds = problem.cost.table(problem.depth_limit, problem.nodes_limit)
    for depth in range(1, problem.depth_limit + 1) if problem.cost.depth is not None else (problem.depth_limit,):
        bound = max(bound, _one_depth(problem, depth, seconds[depth], best))
    if scales.min() / seconds[0, 0] > best.value:
        best.value, best.tree, best.depth, best.nodes = float(scales.min() / seconds[0, 0]), TokenTree.empty(), 0, 0
        best.worst = float(scales.min())
    bound = max(bound, best.value)
    closed = bound <= best.value * (1 + TOLERANCE)
    rows = {f"weight_{i}_{w}": float(x) for i, row in enumerate(best.weights) for w, x in enumerate(row)}
    gap = 'The gap is that of the linear relaxation; solver "relaxation" closes it for small trees.'
    return Solution.found(
        "robust", (best.tree,), best.depth, problem.batch, best.worst, float(seconds[best.depth, best.nodes]),
        value=problem.batch * best.value, bound=None if closed else problem.batch * bound,
        advice="" if closed else gap, cuts=float(best.cuts), **rows,
    )  # fmt: skip


def _one_depth(problem: RobustProblem, depth: int, seconds: Floats, best: _Best) -> float:
    """Improve `best` with trees of at most `depth` levels; return the bound on tokens a second of all of them."""
    scales, count = problem.scales, len(problem.workloads)
    bound = np.full(len(seconds), np.inf)
    bound[0] = scales.min() / seconds[0]
    closed = np.zeros(len(seconds), dtype=np.bool_)
    closed[0] = True
    games: list[Floats] = []
    weights = np.full(count, 1.0 / count)
    for _ in range(MOST_CUTS):
        tokens = _cut(problem, weights, depth, seconds, bound, best)
        games.append(tokens)
        open_bound = np.where(closed, -np.inf, bound)
        size = int(np.argmax(open_bound))
        if open_bound[size] <= best.value * (1 + TOLERANCE):
            break
        weights, level = _worst_mix(np.stack([game[size] for game in games if size < len(game)]))
        if bound[size] * seconds[size] <= level * (1 + TOLERANCE):
            closed[size] = True
    return float(bound[np.isfinite(bound)].max())


def _cut(problem: RobustProblem, weights: Floats, depth: int, seconds: Floats, bound: Floats, best: _Best) -> Floats:
    """Evaluate one mixture: lower `bound`, keep the best tree, return (n + 1, W) scaled tokens by size."""
    tree, path = _mixed_order(problem.workloads, weights * problem.scales, problem.nodes_limit, depth)
    tokens = path.cumsum(axis=0) * problem.scales
    sizes = len(tokens)
    bound[:sizes] = np.minimum(bound[:sizes], tokens @ weights / seconds[:sizes])
    bound[sizes:] = -np.inf
    rate = tokens.min(axis=1) / seconds[:sizes]
    best.cuts += 1
    best.weights.append(weights)
    nodes = int(np.argmax(rate))
    if rate[nodes] > best.value:
        best.value, best.depth, best.nodes, best.worst = float(rate[nodes]), depth, nodes, float(tokens[nodes].min())
        best.tree = tree.prune(nodes=nodes)
    return tokens


def _worst_mix(game: Floats) -> tuple[Floats, float]:
    """Weights over workloads (columns) that make the best row least, and that value: a matrix game."""
    rows, columns = game.shape
    constraints = np.hstack([game, -np.ones((rows, 1))])
    result = linprog(
        np.append(np.zeros(columns), 1.0), A_ub=constraints, b_ub=np.zeros(rows),
        A_eq=np.append(np.ones(columns), 0.0)[None], b_eq=[1.0],
        bounds=[(0, 1)] * columns + [(None, None)], method="highs",
    )  # fmt: skip
    point: Floats = np.asarray(result.x, dtype=np.float64)
    weights = np.maximum(point[:-1], 0.0)
    return weights / weights.sum(), float(point[-1])
