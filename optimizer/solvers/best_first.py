"""Best-first search: take the most probable node whose parent is in, with a heap; O(N log N).

The optimum for every N at once when no path's probability grows and any ranks may be chosen (or ranks never rise):
the N largest probabilities are then closed under parents. Under rule "first" with rising ranks use `dynamic`. The
order of Tunstall (1967); as a draft tree, OPT-Tree (Wang et al. 2024) and DySpec (Xiong et al. 2024).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from optimizer.acceptance import Acceptance, ForestAcceptance
from optimizer.compiled import compiled
from optimizer.solvers.tokens import TokensTable, stationary_fill
from reader_theory.acceptance.rank_table import RankTable
from reader_theory.trees.tree import TokenTree

__all__ = ["best_first_order", "tokens_table"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int32]


@compiled
def _sink(keys: Floats, ids: Ints, size: int, key: float, item: int) -> None:
    """Put (key, item) at the top of a max-heap of `size` entries whose top is free."""
    place = 0
    while True:
        child = 2 * place + 1
        if child >= size:
            break
        if child + 1 < size and keys[child + 1] > keys[child]:
            child += 1
        if keys[child] <= key:
            break
        keys[place], ids[place] = keys[child], ids[child]
        place = child
    keys[place], ids[place] = key, item


@compiled
def _swim(keys: Floats, ids: Ints, size: int, key: float, item: int) -> None:
    """Add (key, item) to a max-heap of `size` entries."""
    place = size
    while place > 0:
        above = (place - 1) >> 1
        if keys[above] >= key:
            break
        keys[place], ids[place] = keys[above], ids[above]
        place = above
    keys[place], ids[place] = key, item


@compiled
def _grow(conditionals: Floats, nodes: int, parents: Ints, places: Ints, levels: Ints, path: Floats) -> int:
    """Fill the four (N + 1,) arrays in best-first order, the root first; return how many entries there are.

    A heap entry is named by the node it hangs from: 2 v is the first child of v, 2 v + 1 its next sibling.
    """
    depth, ranks = conditionals.shape
    keys, ids = np.empty(nodes + 2), np.empty(nodes + 2, dtype=np.int32)
    keys[0], ids[0], size, count = conditionals[0, 0], 0, 1, 1
    parents[0], places[0], levels[0], path[0] = -1, 0, 0, 1.0
    while count <= nodes and size > 0:
        key, item = float(keys[0]), int(ids[0])
        anchor = item >> 1
        if item & 1:
            parents[count], places[count], levels[count] = parents[anchor], places[anchor] + 1, levels[anchor]
        else:
            parents[count], places[count], levels[count] = anchor, 0, levels[anchor] + 1
        path[count] = key
        level, place, parent = levels[count], places[count], parents[count]
        free = True
        if place + 1 < ranks:
            beside = float(path[parent] * conditionals[level - 1, place + 1])
            _sink(keys, ids, size, beside, 2 * count + 1)
            free = False
        if level < depth:
            below = float(key * conditionals[level, 0])
            if free:
                _sink(keys, ids, size, below, 2 * count)
            else:
                _swim(keys, ids, size, below, 2 * count)
                size += 1
            free = False
        count += 1
        if free:
            size -= 1
            if size > 0:
                _sink(keys, ids, size, float(keys[size]), int(ids[size]))
    return count


def best_first_order(acceptance: RankTable, nodes: int, depth: int) -> tuple[TokenTree, Floats]:
    """The best tree of up to `nodes` nodes under `depth`, in the order its nodes are taken, and their probabilities.

    Any prefix of the order is the best tree of its size.

    Returns
    -------
    tree : TokenTree
    path_probability : (N + 1,) float64, never rising, 1 at the root
    """
    parents, ranks, path, _ = _order(acceptance, nodes, depth)
    return TokenTree.trusted(parents, ranks), path


def _order(acceptance: RankTable, nodes: int, depth: int) -> tuple[Ints, Ints, Floats, int]:
    conditionals = acceptance.conditionals[:depth]
    order = np.argsort(-conditionals, axis=1, kind="stable").astype(np.int32)
    parents, places, levels = (np.empty(nodes + 1, dtype=np.int32) for _ in range(3))
    path = np.empty(nodes + 1)
    falling = np.ascontiguousarray(np.take_along_axis(conditionals, order, axis=1))
    count = _grow(falling, nodes, parents, places, levels, path)
    ranks = order[levels[:count] - 1, places[:count]]
    ranks[0] = 0
    return parents[:count], ranks, path[:count], int(levels[:count].max())


def _forest_order(acceptance: ForestAcceptance, depth: int) -> NDArray[np.intp]:
    """The root and the candidates within `depth` by falling probability; equal ones stay parents first."""
    order = np.argsort(-acceptance.path_probability, kind="stable")
    return order[acceptance.tree.depths[order] <= depth]


def tokens_table(acceptance: Acceptance, nodes: int, depth: int, *, every_depth: bool = True) -> TokensTable:
    """Most tokens a step of every size to `nodes`, at every depth limit to `depth` or at `depth` alone.

    Parameters
    ----------
    acceptance : RankTable or ForestAcceptance
    nodes, depth : int
    every_depth : bool
        Fill rows 0..D; else row D alone, the others -inf.

    Returns
    -------
    TokensTable
    """
    values = np.full((depth + 1, nodes + 1), -np.inf)
    values[0, 0] = 1.0
    work = 0
    for limit in range(1, depth + 1) if every_depth else (depth,):
        if isinstance(acceptance, ForestAcceptance):
            path = acceptance.path_probability[_forest_order(acceptance, limit)[: nodes + 1]]
            deepest = acceptance.depth
        else:
            _, _, path, deepest = _order(acceptance, nodes, limit)
        values[limit, : len(path)] = np.cumsum(path)
        work += len(path)
        if deepest < limit:
            stationary_fill(values, limit)
            break

    def build(limit: int, size: int) -> TokenTree:
        if isinstance(acceptance, ForestAcceptance):
            return acceptance.tree.prune(_forest_order(acceptance, limit)[: size + 1])
        return best_first_order(acceptance, size, max(limit, 1))[0]

    return TokensTable(values, build, "best_first", float(work))
