"""One water level for a whole batch: merge every request's candidates and take them by falling probability.

Exact for any cost of the total number of nodes: tokens of the batch are a sum over nodes, so for each total the best
choice is the most probable ones wherever they hang, and every total is scanned. Width, depth, source and each
request's budget follow from one price. O(M log M) for M candidates.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from optimizer.cost import Objective
from optimizer.problem import BatchProblem
from optimizer.solution import Solution
from optimizer.solvers.ratio import between, water_level
from reader_theory.errors import require
from reader_theory.trees.tree import TokenTree

__all__ = ["Allocation", "allocate", "solve"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Allocation:
    """Which of M candidates to verify.

    Parameters
    ----------
    chosen : (M,) bool
        Closed under parents where candidates come parents first.
    tokens : float
        Expected tokens a step over the whole batch.
    step_s, value, price : float
        Seconds; tokens a second; tokens that one more node must bring.
    """

    chosen: NDArray[np.bool_]
    nodes: int
    tokens: float
    step_s: float
    value: float
    price: float


def allocate(
    path_probability: Floats, seconds: Floats, batch: int, objective: Objective | None = None
) -> Allocation | None:
    """The candidates that make tokens a second of the batch largest; the door without documents, for use at every step.

    Parameters
    ----------
    path_probability : (M,) or (B, K) float64
        Of every candidate of every request, each request's parents before their children; never above the parent's.
    seconds : (N + 1,) float64
        Step by total nodes.
    batch : int
    objective : Objective, optional

    Returns
    -------
    Allocation or None
        None when no total meets the objective's limits.
    """
    flat = path_probability.reshape(-1)
    most = min(len(seconds) - 1, len(flat))
    falling = np.sort(flat)[::-1][:most]
    tokens = np.empty(most + 1)
    tokens[0] = batch
    np.cumsum(falling, out=tokens[1:])
    tokens[1:] += batch
    rate = tokens / seconds[: most + 1]
    if objective is not None:
        rate[~objective.allows(tokens / batch, seconds[: most + 1])] = -np.inf
    nodes = int(np.argmax(rate))
    if not np.isfinite(rate[nodes]):
        return None
    price = water_level(tokens, seconds[: most + 1], nodes)
    last, following = np.concatenate([[1.0], falling, [0.0]])[
        [nodes, nodes + 1]
    ]  # exact, where differences of sums are not
    return Allocation(
        _first_above(flat, falling, nodes),
        nodes,
        float(tokens[nodes]),
        float(seconds[nodes]),
        float(rate[nodes]),
        between(price, float(last), float(following)),
    )


def _first_above(flat: Floats, falling: Floats, nodes: int) -> NDArray[np.bool_]:
    """The `nodes` most probable; among equals the first, so that a parent is never behind its child."""
    if nodes == 0:
        return np.zeros(len(flat), dtype=np.bool_)
    level = falling[nodes - 1]
    chosen = flat > level
    ties = np.flatnonzero(flat == level)
    chosen[ties[: nodes - int(np.count_nonzero(chosen))]] = True
    return chosen


def solve(problem: BatchProblem) -> Solution:
    """The best allocation; each depth limit is tried where the cost depends on depth."""
    require(
        problem.side is None,
        "`side` must be absent: one price cannot keep classes apart",
        got=problem.side,
        fix='Use solver "relaxation", which the planner picks for service classes.',
    )
    limit, batch = problem.nodes_limit, problem.batch
    best: tuple[int, Allocation, NDArray[np.intp]] | None = None
    path = np.concatenate([request.path_probability[1:] for request in problem.requests])
    levels = np.concatenate([request.tree.depths[1:] for request in problem.requests])
    free = problem.cost.depth is None
    for depth in (problem.depth_limit,) if free else range(problem.depth_limit + 1) if limit >= 0 else ():
        within = np.flatnonzero(levels <= depth)
        seconds = problem.cost.table(depth, max(limit, 0))[depth]
        found = allocate(path[within], seconds, batch, problem.objective) if limit >= 0 else None
        if found is not None and (best is None or found.value > best[1].value):
            best = depth, found, within[found.chosen]
    if best is None:
        return Solution.infeasible(
            "allocation", "Nothing meets memory and limits, plain decoding included: lower the batch.", batch
        )
    depth, found, kept = best
    return Solution.found(
        "allocation", _trees(problem, kept), depth, batch, found.tokens / batch, found.step_s, value=found.value,
        price=found.price, candidates=float(len(path)), nodes=float(found.nodes),
    )  # fmt: skip


def _trees(problem: BatchProblem, kept: NDArray[np.intp]) -> tuple[TokenTree, ...]:
    """Each request's tree of the candidates `kept` out of all, the requests' candidates one after the other."""
    taken = np.zeros(sum(request.tree.nodes for request in problem.requests), dtype=np.bool_)
    taken[kept] = True
    ends = np.cumsum([request.tree.nodes for request in problem.requests])[:-1]
    parts = np.split(taken, ends)
    return tuple(r.tree.prune(np.append(True, own)) for r, own in zip(problem.requests, parts, strict=True))
