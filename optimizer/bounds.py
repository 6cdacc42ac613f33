"""What no tree can exceed: upper bounds for the certificate, by code that shares nothing with the solvers.

Solvers search by heaps, dynamic programs and sorting of whole batches; here levels are swept breadth first, and the
rule "ranks 0..b-1" is bounded by Lagrangian duality for all prices at once.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from optimizer.acceptance import Acceptance, ForestAcceptance
from optimizer.cost import LevelCost
from optimizer.problem import Rule
from reader_theory.acceptance.rank_table import RankTable

__all__ = ["exact_first_rank_tokens", "most_mean_tokens", "most_tokens", "most_weighted_tokens", "rate_bound_by_levels"]

Floats = NDArray[np.float64]


def most_tokens(
    acceptance: Acceptance, rule: Rule, nodes: int, depth: int, every_depth: bool = True
) -> tuple[Floats, bool]:
    """Upper bound on tokens a step for every depth limit and size, and whether a tree attains each.

    Returns
    -------
    bound : (depth + 1, nodes + 1) float64, -inf where there is no tree of that many nodes
    attained : bool
        True: sums of the largest path probabilities, which closed sets attain. False: the concave envelope of the
        dual, which is attained at its corners only.
    """
    if nodes == 0:
        return np.ones((depth + 1, 1)), True
    if isinstance(acceptance, ForestAcceptance):
        return most_mean_tokens((acceptance,), nodes, depth), True
    if rule == "any" or acceptance.is_monotone:
        return most_weighted_tokens((acceptance,), np.ones(1), nodes, depth), True
    sizes = _full_tree_sizes(acceptance.conditionals.shape[1], depth, nodes)
    return _where_there_is_a_tree(_dual_envelopes(acceptance, nodes, depth, every_depth), sizes), False


def most_mean_tokens(requests: tuple[ForestAcceptance, ...], nodes: int, depth: int) -> Floats:
    """(depth + 1, nodes + 1) float64: most mean tokens a request of a batch, by nodes of all; -inf beyond those."""
    path = np.concatenate([request.path_probability[1:] for request in requests])
    levels = np.concatenate([request.tree.depths[1:] for request in requests])
    rows = [np.sort(path[levels <= d])[::-1] for d in range(depth + 1)]
    bound = 1.0 + (np.stack([_prefix(row, nodes) for row in rows]) - 1.0) / len(requests)
    return _where_there_is_a_tree(bound, [len(row) for row in rows])


def _full_tree_sizes(ranks: int, depth: int, nodes: int) -> list[int]:
    sizes, width = [0], 1
    for _ in range(depth):
        width = min(width * ranks, nodes)
        sizes.append(min(sizes[-1] + width, nodes))
    return sizes


def _where_there_is_a_tree(bound: Floats, sizes: list[int]) -> Floats:
    for row, size in zip(bound, sizes, strict=True):
        row[size + 1 :] = -np.inf
    return bound


def _prefix(falling: Floats, nodes: int) -> Floats:
    gains = np.zeros(nodes + 1)
    gains[0] = 1.0
    gains[1 : len(falling) + 1] = falling[:nodes]
    return np.cumsum(gains)


def most_weighted_tokens(workloads: tuple[RankTable, ...], weights: Floats, nodes: int, depth: int) -> Floats:
    """(depth + 1, nodes + 1) float64: largest weighted sum over workloads of tokens a step, any ranks allowed.

    A node whose weighted probability is below that of `nodes` others at no greater depth is never needed, nor is what
    hangs below it: level by level, only survivors are expanded.
    """
    level, best = np.ones((1, len(workloads))), np.empty(0)
    rows = np.full((depth + 1, nodes + 1), weights.sum())
    if nodes == 0:
        return rows
    for d in range(depth):
        floor = best[-1] if len(best) == nodes else 0.0
        level = _children(level, np.stack([w.conditionals[d] for w in workloads], axis=1), weights, floor)
        scores = level @ weights
        best = np.sort(np.concatenate([best, scores]))[::-1][:nodes]
        rows[d + 1] = weights.sum() - 1.0 + _prefix(best, nodes)
        keep = scores >= (best[-1] if len(best) == nodes else 0.0)
        level = level[keep]
        if len(level) == 0:
            rows[d + 2 :] = rows[d + 1]
            break
    return _where_there_is_a_tree(rows, _full_tree_sizes(workloads[0].conditionals.shape[1], depth, nodes))


def _children(level: Floats, ranks: Floats, weights: Floats, floor: float) -> Floats:
    """(M', W) children of the (M, W) nodes of a level whose weighted probability is above 0 and not below `floor`."""
    found: list[Floats] = []
    for conditional in ranks:
        child = level * conditional
        scores = child @ weights
        found.append(child[(scores > 0) & (scores >= floor)])
    return np.concatenate(found)


def _dual_envelopes(acceptance: RankTable, nodes: int, depth: int, every_depth: bool) -> Floats:
    c, rows = acceptance.conditionals, np.empty((depth + 1, nodes + 1))
    whole = _envelopes(c[:depth], nodes)
    rows[:] = whole[depth]
    rows[0] = 1.0
    if acceptance.is_stationary:
        return whole
    for limit in range(1, depth if every_depth else 1):
        rows[limit] = _envelopes(c[:limit], nodes)[limit]
        if np.allclose(rows[limit], rows[depth], rtol=0, atol=1e-12):
            break
    return rows


def _envelopes(conditionals: Floats, nodes: int) -> Floats:
    """Row h: least concave majorant, over sizes, of tokens a step with the h lowest levels of `conditionals`.

    A concave sequence is kept as its falling slopes. Adding a sibling merges slopes (the dual of adding at one
    price); that a sibling needs those before it pools the first slopes into their best average.
    """
    height, ranks = conditionals.shape
    rows = np.ones((height + 1, nodes + 1))
    slopes = np.empty(0)
    for h in range(1, height + 1):
        p, children = conditionals[height - h], np.empty(0)
        for r in range(ranks - 1, -1, -1):
            merged = np.sort(np.concatenate([p[r] * slopes, children]))[::-1][: nodes - 1]
            children = _pool_first(np.concatenate([p[r : r + 1], merged]))
        slopes = children
        rows[h] = _prefix(slopes, nodes)
    return rows


def _pool_first(slopes: Floats) -> Floats:
    """Concave majorant of a sequence whose first slope alone may be below the ones that follow."""
    averages = np.cumsum(slopes) / np.arange(1, len(slopes) + 1)
    size = int(np.argmax(averages)) + 1
    slopes[:size] = averages[size - 1]
    return slopes


def exact_first_rank_tokens(acceptance: RankTable, nodes: int, depth: int) -> Floats:
    """(depth + 1, nodes + 1) float64: optimum under rule "first" by the plain recurrence, no short cuts.

    O(D^2 R N^2) for ranks that change with depth: for thorough certificates of small problems.
    """
    rows = np.full((depth + 1, nodes + 1), -np.inf)
    rows[0, 0] = 1.0
    for limit in range(1, depth + 1):
        below = rows[0] if not acceptance.is_stationary or limit == 1 else rows[limit - 1]
        levels = (
            acceptance.conditionals[limit - 1 :: -1] if not acceptance.is_stationary else acceptance.conditionals[:1]
        )
        for ranks in levels:
            below = 1.0 + _plain_children(ranks, below)
        rows[limit] = below
    return rows


def _plain_children(ranks: Floats, below: Floats) -> Floats:
    """Best value of n nodes in all below one node; ``below[m]`` is that of a subtree with m nodes under its root."""
    children = np.full(len(below), -np.inf)
    children[0] = 0.0
    for p in ranks[::-1]:
        longer = np.full(len(below), -np.inf)
        longer[0] = 0.0
        for m in np.flatnonzero(np.isfinite(below[:-1])):
            longer[m + 1 :] = np.maximum(longer[m + 1 :], p * below[m] + children[: len(below) - m - 1])
        children = longer
    return children


def rate_bound_by_levels(acceptance: Acceptance, cost: LevelCost, nodes: int, depth: int, value: float) -> float:
    """Upper bound on tokens a second of one request when drafting is paid by level width.

    Relaxation: a level of width w is worth the w best children of the *best* nodes of the level above (explicit
    candidates: the w best of the level), whatever was left out higher up; no cap on the step. Maximised exactly over
    widths, raising the price of a second from `value`, which some tree is known to give, until nothing is above it.
    """
    width = min(cost.width, max(nodes, 1))
    worth = _level_worth(acceptance, width, depth)
    price = max(value, 1.0 / float(cost.verify_s[0]))
    for _ in range(60):
        surplus, tokens, seconds = _best_widths(worth, cost, nodes, price)
        if surplus <= 1e-12 * max(1.0, tokens):
            break
        price = tokens / seconds
    return price


def _level_worth(acceptance: Acceptance, width: int, depth: int) -> list[Floats]:
    """One (W + 1, W + 1) table a level: most that w nodes of it are worth below v nodes of the level above."""
    if isinstance(acceptance, ForestAcceptance):
        levels = [acceptance.path_probability[acceptance.tree.depths == d + 1] for d in range(depth)]
        return [_worth_table([level] * width, width) for level in levels]
    tables: list[Floats] = []
    above = np.ones(1)
    for conditionals in acceptance.conditionals[:depth]:
        family = above[:, None] * conditionals
        tables.append(_worth_table([family[:v].ravel() for v in range(1, len(above) + 1)], width))
        above = np.sort(family.ravel())[::-1][:width]
    return tables


def _worth_table(families: list[Floats], width: int) -> Floats:
    table = np.full((width + 1, width + 1), -np.inf)
    for v, family in enumerate(families, start=1):
        falling = np.sort(family)[::-1][:width]
        table[v, 1 : len(falling) + 1] = np.cumsum(falling)
    return table


def _best_widths(worth: list[Floats], cost: LevelCost, nodes: int, price: float) -> tuple[float, float, float]:
    """Largest tokens - price * seconds over level widths, with its tokens and seconds."""
    width = worth[0].shape[0] - 1
    # surplus[v, n]: best so far with n nodes of which the last level has v; the root is level 0
    surplus = np.full((width + 1, nodes + 1), -np.inf)
    tokens = np.zeros_like(surplus)
    surplus[1, 0], tokens[1, 0] = 1.0, 1.0
    best = (-np.inf, 1.0, float(cost.verify_s[0]))
    for d in range(len(worth) + 1):
        total = surplus - price * cost.verify_s[: nodes + 1]
        v, n = np.unravel_index(int(np.argmax(total)), total.shape)
        if total[v, n] > best[0]:
            seconds = (tokens[v, n] - surplus[v, n]) / price + cost.verify_s[n]
            best = (float(total[v, n]), float(tokens[v, n]), float(seconds))
        if d == len(worth):
            break
        surplus, tokens = _one_more_level(surplus, tokens, worth[d], price * cost.draft_s[d])
    return best


def _one_more_level(surplus: Floats, tokens: Floats, worth: Floats, charge: Floats) -> tuple[Floats, Floats]:
    width = worth.shape[0] - 1
    new, new_tokens = np.full_like(surplus, -np.inf), np.zeros_like(tokens)
    for v in range(1, width + 1):
        if not np.isfinite(surplus[v]).any():
            continue
        for w in range(1, min(width, surplus.shape[1] - 1) + 1):
            if worth[v, w] == -np.inf:
                break
            here = surplus[v, : surplus.shape[1] - w] + worth[v, w] - charge[v]
            better = here > new[w, w:]
            new[w, w:][better] = here[better]
            new_tokens[w, w:][better] = (tokens[v, : surplus.shape[1] - w] + worth[v, w])[better]
    return new, new_tokens
