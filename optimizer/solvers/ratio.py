"""Tokens a second under any cost table: scan every size and every depth.

Measured step costs are staircases, so neither a first decrease nor a slope says where to stop; the scan is O(N D) and
exact whenever the table of tokens is. The fractional objective needs no iteration because each denominator is
visited.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from optimizer.cost import tabulated
from optimizer.problem import TreeProblem
from optimizer.solution import Solution
from optimizer.solvers.tokens import TokensTable

__all__ = ["rates", "solve", "water_level"]

Floats = NDArray[np.float64]


def rates(problem: TreeProblem, tokens: Floats) -> Floats:
    """(D + 1, N + 1) float64: tokens a second of the batch at every depth and size; -inf where a limit is broken."""
    seconds = tabulated(problem.cost).table(tokens.shape[0] - 1, tokens.shape[1] - 1)
    allowed = np.isfinite(tokens) & problem.objective.allows(tokens, seconds)
    return np.where(allowed, problem.batch * np.where(allowed, tokens, 0.0) / seconds, -np.inf)


def water_level(tokens: Floats, seconds: Floats, nodes: int) -> float:
    """Tokens that one more node must bring: the cheapest way on, in seconds a node, at the present tokens a second.

    Kept between the gain of the last node taken and that of the first left out, so that the price tells the tree apart.

    Parameters
    ----------
    tokens, seconds : (N + 1,) float64
    nodes : int
        Where the optimum lies.
    """
    rate = tokens[nodes] / seconds[nodes]
    ahead = np.arange(1, len(seconds) - nodes)
    slopes = (seconds[nodes + 1 :] - seconds[nodes]) / ahead
    last = tokens[nodes] - tokens[nodes - 1] if nodes else 1.0
    following = tokens[nodes + 1] - tokens[nodes] if len(ahead) and np.isfinite(tokens[nodes + 1]) else 0.0
    return between(rate * float(slopes.min(initial=np.inf)), float(last), float(following))


def between(price: float, last: float, following: float) -> float:
    """`price` kept between the gain of the last node taken and that of the first left out, where gains fall."""
    price = min(1.0, max(0.0, price))
    return min(max(price, following), last) if following <= last else price


def solve(problem: TreeProblem, table: TokensTable) -> Solution:
    """The best (depth, size) of a table of tokens, and its tree.

    Parameters
    ----------
    problem : TreeProblem
        With a `TabulatedCost`.
    table : TokensTable
        Of at least ``problem.depth_limit`` depths and ``problem.nodes_limit`` nodes.
    """
    scanned = rates(problem, table.values)
    depth, nodes = (int(i) for i in np.unravel_index(int(np.argmax(scanned)), scanned.shape))
    value = float(scanned[depth, nodes])
    if not np.isfinite(value):
        advice = "No size meets the limits, plain decoding included: raise the cap or the target, or lower the batch."
        return Solution.infeasible(table.solver, advice, problem.batch)
    seconds = tabulated(problem.cost).table(*(size - 1 for size in scanned.shape))[depth]
    advice = "The budget of nodes binds: a larger `max_nodes` may gain." if nodes == problem.max_nodes else ""
    if nodes == 0:
        advice = "No draft pays for its time here: decode plainly, or find a cheaper drafter."
    return Solution.found(
        table.solver, (table.build(depth, nodes),), depth, problem.batch, float(table.values[depth, nodes]),
        float(seconds[nodes]), value=value, price=water_level(table.values[depth], seconds, nodes), advice=advice,
        work=table.work, sizes_scanned=float(scanned.size),
    )  # fmt: skip
