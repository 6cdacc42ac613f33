"""Schedules over batch and context: one table of tokens a context, then every depth and size of every cell at once.

Tokens do not depend on the batch, and the cost is a sum of drafting (by depth) and verification (by nodes), so a cell
is a scan of a (D + 1, N + 1) table; memory cuts the sizes of each cell. Exact whenever the table of tokens is.
"""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from optimizer.certificates import UncertifiedError, certify_schedule
from optimizer.problem import ranks_are_free
from optimizer.schedule_problem import Schedule, ScheduleProblem
from optimizer.solvers import best_first, dynamic
from optimizer.solvers.ratio import water_level
from optimizer.solvers.tokens import TokensTable
from reader_theory.trees.tree import TokenTree

__all__ = ["solve"]

Floats = NDArray[np.float64]


def solve(problem: ScheduleProblem) -> Schedule:
    """The best depth and size for every batch and context, certified.

    Raises
    ------
    UncertifiedError
        If a cell does not stand its certificate.
    """
    began = time.perf_counter()
    tables = [_table(problem, i) for i in range(len(problem.acceptance))]
    tokens = np.stack([tables[c if len(tables) > 1 else 0].values for c in range(len(problem.contexts))])
    grid = (len(problem.batches), len(problem.contexts))
    nodes, depth = np.empty(grid, dtype=np.int32), np.empty(grid, dtype=np.int32)
    out = np.zeros((5, *grid))
    room = problem.most_nodes()
    for b in range(grid[0]):
        nodes[b], depth[b], out[:, b] = _one_batch(problem, b, tokens, room[b])
    keys = {(c if len(tables) > 1 else 0, int(depth[b, c]), int(nodes[b, c])) for b, c in np.argwhere(nodes >= 0)}
    trees: dict[tuple[int, int, int], TokenTree] = {key: tables[key[0]].build(key[1], key[2]) for key in sorted(keys)}
    taken, step_s, value, off, price = out
    answer = Schedule(problem, nodes, depth, taken, step_s, value, off, value, price, tables[0].solver, trees)
    violations, bound = certify_schedule(answer)
    if violations:
        raise UncertifiedError(f"{answer.solver}: " + "; ".join(violations[:5]))
    return replace(answer, upper_bound=np.maximum(bound, value), seconds=time.perf_counter() - began)


def _table(problem: ScheduleProblem, which: int) -> TokensTable:
    free = all(ranks_are_free(acceptance, problem.rule) for acceptance in problem.acceptance)
    solver = best_first if free else dynamic
    return solver.tokens_table(problem.acceptance[which], problem.nodes, problem.depth)


def _one_batch(
    problem: ScheduleProblem, b: int, tokens: Floats, room: NDArray[np.int32]
) -> tuple[NDArray[np.int32], NDArray[np.int32], Floats]:
    """Sizes, depths and the five float rows of one batch over all contexts."""
    contexts, batch = len(problem.contexts), problem.batches[b]
    seconds = problem.draft_s[b][:, :, None] + problem.verify_s[b][:, None, :]
    rate = np.divide(tokens, seconds)
    if np.isfinite([problem.objective.step_cap_s, problem.objective.latency_target_s]).any():
        allowed = problem.objective.allows(tokens, seconds)
        rate = np.where(allowed, rate, -np.inf)
    if problem.memory is not None:
        fits: NDArray[np.bool_] = np.arange(problem.nodes + 1) <= room[:, None, None]
        rate = np.where(fits, rate, -np.inf)
    best = rate.reshape(contexts, -1).argmax(axis=1)
    depth, nodes = np.divmod(best, rate.shape[2])
    out = np.zeros((5, contexts))
    for c in range(contexts):
        d, n = int(depth[c]), int(nodes[c])
        off = float(rate[c, 0, 0])
        out[3, c] = batch * off if np.isfinite(off) else 0.0
        if not np.isfinite(rate[c, d, n]):
            nodes[c], out[1, c] = -1, np.inf
            continue
        cut = slice(0, int(room[c]) + 1)
        price = water_level(tokens[c, d, cut], seconds[c, d, cut], n)
        out[:3, c] = tokens[c, d, n], seconds[c, d, n], batch * rate[c, d, n]
        out[4, c] = price
    return nodes.astype(np.int32), depth.astype(np.int32), out
