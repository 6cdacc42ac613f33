"""Evidence of each source for the token after a context: weights by token, added up in small tables."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from runtime.retrieval.bodies import context_tree as tree
from runtime.retrieval.bodies import store as sorted_store
from runtime.retrieval.bodies.memory import int32_at, lean, place_of, word_at

__all__ = ["END_TOKEN", "ESCAPE", "KINDS", "PARAMETERS", "Desk"]

DEPTHS = sorted_store.CAP + 1
"""Match lengths 0 to 32; longer ones count as 32."""
OWN, DELTA, STORE, COPY = 0, DEPTHS, 2 * DEPTHS, 3 * DEPTHS
ESCAPE, CORRECTED, INSERTED, REPLACED, PARAMETERS = (4 * DEPTHS + i for i in range(5))
"""Places in the parameters: odds by match length of the four sources, then four numbers."""
LEVELS = 3
"""Match lengths of a context tree that give evidence, longest first."""
NEAREST = 12
"""Rows of the datastore that give evidence, nearest first."""
KINDS = 16
"""Distinct next tokens weighed at one node."""
OF_OWN, OF_DELTA, BOTH = 1, 2, 3
"""Context trees, as bits: the request's own text, the delta."""
END_TOKEN = 2**31 - 1
"""Stands between the outputs of the delta."""
_ROOTS = 1.0 / np.sqrt(np.arange(256.0).clip(1.0))


class Desk(NamedTuple):
    """Where the evidence at one node is added up: a row a distinct next token.

    Attributes
    ----------
    kinds : (16 or more,) int32
        The tokens; -1 in rows not yet in use.
    weights : (same,) float64
    rows, shares : (same,) int64
        Where in the datastore the context with the token stands, and the tokens that it shares with the row below
        (or minus those with the row above); rows are -1 where no neighbour in the datastore went on so.
    trees : (same,) int64
        Which context trees offered the token.
    """

    kinds: NDArray[np.int32]
    weights: NDArray[np.float64]
    rows: NDArray[np.int64]
    shares: NDArray[np.int64]
    trees: NDArray[np.int64]


@lean(inline="always")
def add(desk, found, token, weight, bit):
    kind = place_of(desk.kinds.ctypes.data, token)
    if kind < KINDS:
        desk.weights[kind] += weight
        desk.trees[kind] |= bit
        return found
    if found == KINDS:
        return found
    desk.kinds[found], desk.weights[found], desk.rows[found], desk.trees[found] = token, weight, -1, bit
    return found + 1


@lean(inline="always")
def add_node(nodes, base, weight, desk, found, bit):
    tally, total = np.int64(nodes[base + tree.TALLY]), np.int64(nodes[base + tree.TOTAL])
    scale = weight * (_ROOTS[total] if total < 256 else 1.0 / np.sqrt(np.float64(total)))
    for place in range(3):
        count = (tally >> (10 * place)) & 1023
        if count == 0:
            break
        found = add(desk, found, np.int64(nodes[base + tree.FOLLOWER + place]), scale * count, bit)
    return found


@lean()
def from_tree(header, parameters, source, query, end, levels, path, desk, found):
    """Evidence of a context tree for what follows ``query[:end]``: kinds found, longest match and its place.

    The `levels` longest matches that differ in what followed give evidence.
    """
    text, nodes, table = tree.views(header)
    depth, recent, _, child, passed = tree.descend(
        text, nodes, table, header[tree.SLOTS], header[tree.MAX_DEPTH], query, end, path
    )
    bit = OF_OWN if source == OWN else OF_DELTA
    if child != tree.NONE:
        levels -= 1
        weight = parameters[source + min(depth, DEPTHS - 1)]
        if child < 0:
            found = add(desk, found, np.int64(text[recent]), weight, bit)
        else:
            found = add_node(nodes, tree.FIELDS * child, weight, desk, found, bit)
    for step in range(passed - 1, max(passed - 1 - levels, -1), -1):
        base = tree.FIELDS * path[step]
        weight = parameters[source + min(np.int64(nodes[base + tree.DEPTH]), DEPTHS - 1)]
        found = add_node(nodes, base, weight, desk, found, bit)
    return found, depth, recent


@lean()
def from_store(header, parameters, row, above, below, nearest, desk, found):
    """Evidence of the rows of the datastore nearest to the context, longest match first.

    Past either end of the records stands a word of zeros, which shares nothing.
    """
    records, up, down = header[sorted_store.RECORDS], row - 1, row
    for rank in range(1, nearest + 1):
        same, lower = max(above, below), np.int64(below >= above)
        if same <= 0:
            break
        at = records + sorted_store.ROW_BYTES * (down if lower else up)
        word = word_at(at)
        beyond = min(same, sorted_store.shared_of(word_at(at + sorted_store.ROW_BYTES * lower)))
        below, above = (beyond, above) if lower else (below, beyond)
        down, up = down + lower, up + lower - 1
        token = sorted_store.token_of(word)
        if token == sorted_store.VOCABULARY_LIMIT:
            continue
        weight = parameters[STORE + same] * _ROOTS[rank]
        kind = place_of(desk.kinds.ctypes.data, token)
        if kind == KINDS:
            if found == KINDS:
                continue
            kind = found
            desk.kinds[kind], desk.weights[kind], desk.rows[kind], desk.trees[kind] = token, 0.0, -1, 0
            found += 1
        desk.weights[kind] += weight
        if desk.rows[kind] < 0:
            longer = min(same + 1, sorted_store.CAP)
            desk.rows[kind] = sorted_store.forward_of(word) + 1 - lower
            desk.shares[kind] = longer if lower else -longer
    return found


@lean(inline="always")
def from_copy(header, text, parameters, place, streak, last, desk, found):
    """Evidence of the copy model, and of its memory of what came where it offered this before; `last`: token before.

    While it waits after a miss, it offers to go on where it stands (something was inserted) or one further (replaced).
    """
    end = header[tree.LENGTH]
    if place < 0 or place >= end:
        return found
    offered = np.int64(text[place])
    found = add(desk, found, offered, parameters[COPY + min(streak, DEPTHS - 1)], 0)
    if streak == 0:
        if place + 1 < end:
            found = add(desk, found, np.int64(text[place + 1]), parameters[REPLACED], 0)
        return found
    kind = place_of(desk.kinds.ctypes.data, offered)
    share = desk.weights[kind] if kind < KINDS else 0.0
    memory = int32_at(header[tree.MEMO], 4 * tree.MEMORY)
    entry = 2 * (offered % tree.MEMORY)
    if memory[entry] == offered and memory[entry + 1] != offered:
        found = add(desk, found, np.int64(memory[entry + 1]), share * parameters[CORRECTED], 0)
    entry = 2 * (tree.MEMORY + last % tree.MEMORY)
    if memory[entry] == last and memory[entry + 1] >= 0:
        found = add(desk, found, np.int64(memory[entry + 1]), share * parameters[INSERTED], 0)
    return found
