"""Batch and tree together under memory for keys and values: every size is scanned, and memory gets a price.

At high load memory decides: each drafted node takes slots that another request could have used. Exact, because for
each batch the table of tokens is, and memory only cuts its sizes. The shadow price is what one more byte is worth,
read off the exact staircase of value over capacity.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from optimizer.problem import JointProblem, TreeProblem, ranks_are_free
from optimizer.solution import Solution
from optimizer.solvers import best_first, dynamic, ratio
from optimizer.solvers.tokens import TokensTable

__all__ = ["shadow_price", "solve", "value_by_capacity"]

Floats = NDArray[np.float64]


def solve(problem: JointProblem) -> Solution:
    """The best (batch, tree); statistics hold ``shadow_price``, tokens/s a byte, and ``bytes_to_next`` gain."""
    table = _table(problem)
    answers = [_at(problem.at_batch(batch), table) for batch in problem.costs]
    best = max(answers, key=lambda answer: answer.value)
    if not best.trees:
        smallest = min(problem.costs)
        need = problem.memory.used_bytes(smallest, problem.context_tokens, 0)
        advice = f"No batch fits or meets the limits; plain decoding of batch {smallest} takes {need:.4g} bytes."
        return Solution.infeasible("memory", advice, smallest)
    price, ahead = shadow_price(problem, table)
    used = problem.memory.used_bytes(best.batch, problem.context_tokens, best.tree.nodes)
    best = replace(best, solver="memory", upper_bound=best.value)
    return best.counted(shadow_price=price, bytes_to_next=ahead, used_bytes=used)


def _table(problem: JointProblem) -> TokensTable:
    free = replace(problem.at_batch(next(iter(problem.costs))), memory=None)
    nodes = min(problem.max_nodes, max(cost.nodes for cost in problem.costs.values()))
    depth = free.depth_limit
    solver = best_first if ranks_are_free(problem.acceptance, problem.rule) else dynamic
    return solver.tokens_table(problem.acceptance, nodes, depth)


def _at(problem: TreeProblem, table: TokensTable) -> Solution:
    if problem.nodes_limit < 0:
        return Solution.infeasible(table.solver, "", problem.batch)
    cut = table.values[: problem.depth_limit + 1, : problem.nodes_limit + 1]
    return ratio.solve(problem, replace(table, values=cut))


def value_by_capacity(problem: JointProblem, table: TokensTable | None = None) -> tuple[Floats, Floats]:
    """The staircase of best tokens a second over capacity.

    Returns
    -------
    capacity_bytes, tokens_per_s : (K,) float64
        Corners, both rising: from each capacity on, the value can be had.
    """
    table = table or _table(problem)
    needs: list[Floats] = []
    values: list[Floats] = []
    for batch in problem.costs:
        single = replace(problem.at_batch(batch), memory=None)
        tokens = table.values[: single.depth_limit + 1, : single.nodes_limit + 1]
        values.append(ratio.rates(single, tokens).max(axis=0))
        sizes = np.arange(single.nodes_limit + 1, dtype=np.float64)
        row = problem.memory.used_bytes(batch, problem.context_tokens, 0)
        each = problem.memory.kv_bytes_per_token + problem.memory.scratch_bytes_per_node
        needs.append(row + batch * each * sizes)
    need, value = np.concatenate(needs), np.concatenate(values)
    order = np.lexsort((-value, need))
    need, reached = need[order], np.maximum.accumulate(value[order])
    corner = np.diff(reached, prepend=-np.inf) > 0
    return need[corner], reached[corner]


def shadow_price(problem: JointProblem, table: TokensTable | None = None) -> tuple[float, float]:
    """Tokens/s a byte along the steepest way on from the present capacity, and the bytes to the next gain, or inf."""
    capacity, value = value_by_capacity(problem, table)
    here = int(np.searchsorted(capacity, problem.memory.capacity_bytes * (1 + 1e-15), side="right")) - 1
    if here < 0 or here + 1 == len(capacity):
        return 0.0, float("inf")
    slopes = (value[here + 1 :] - value[here]) / (capacity[here + 1 :] - problem.memory.capacity_bytes)
    return float(slopes.max()), float(capacity[here + 1] - problem.memory.capacity_bytes)
