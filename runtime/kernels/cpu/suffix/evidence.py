"""Evidence of each source for the token after a context: weights by token, added up in small tables."""

from __future__ import annotations

import numpy as np
from numba import njit

from runtime.kernels.cpu.suffix import context_tree as tree
from runtime.kernels.cpu.suffix import store as sorted_store
from runtime.kernels.cpu.suffix.memory import int32_at, word_at

__all__ = ["CORRECTED", "DEPTHS", "END_TOKEN", "ESCAPE", "INSERTED", "KINDS", "PARAMETERS", "REPLACED"]

DEPTHS = sorted_store.CAP + 1
"""Match lengths 0 to 32; longer ones count as 32."""
OWN, DELTA, STORE, COPY = 0, DEPTHS, 2 * DEPTHS, 3 * DEPTHS
ESCAPE, CORRECTED, INSERTED, REPLACED, PARAMETERS = (4 * DEPTHS + i for i in range(5))
"""Places in the parameters: odds by match length of the four sources, then four numbers."""
LEVELS = 5
"""Match lengths of a context tree that give evidence, longest first."""
NEAREST = 12
"""Rows of the datastore that give evidence, nearest first."""
KINDS = 16
"""Distinct next tokens weighed at one node."""
END_TOKEN = 2**31 - 1
"""Stands between the outputs of the delta."""
_ROOTS = 1.0 / np.sqrt(np.arange(256.0).clip(1.0))


@njit(inline="always", nogil=True)
def add(kinds, weights, found, token, weight):
    for kind in range(found):
        if kinds[kind] == token:
            weights[kind] += weight
            return found
    if found == KINDS:
        return found
    kinds[found], weights[found] = token, weight
    return found + 1


@njit(inline="always", nogil=True)
def add_node(nodes, base, weight, kinds, weights, found):
    tally, total = np.int64(nodes[base + tree.TALLY]), np.int64(nodes[base + tree.TOTAL])
    scale = weight * (_ROOTS[total] if total < 256 else 1.0 / np.sqrt(np.float64(total)))
    for place in range(3):
        count = (tally >> (10 * place)) & 1023
        if count == 0:
            break
        found = add(kinds, weights, found, np.int64(nodes[base + tree.FOLLOWER + place]), scale * count)
    return found


@njit(nogil=True)
def from_tree(header, parameters, source, query, end, path, kinds, weights, found):
    """Evidence of a context tree for what follows ``query[:end]``: kinds found, longest match and its place."""
    text, nodes, table = tree.views(header)
    depth, recent, _, child, passed = tree.descend(
        text, nodes, table, header[tree.SLOTS], header[tree.MAX_DEPTH], query, end, path
    )
    levels = LEVELS
    if child != tree.NONE:
        levels -= 1
        weight = parameters[source + min(depth, DEPTHS - 1)]
        if child < 0:
            found = add(kinds, weights, found, np.int64(text[recent]), weight)
        else:
            found = add_node(nodes, tree.FIELDS * child, weight, kinds, weights, found)
    for step in range(passed - 1, max(passed - 1 - levels, -1), -1):
        base = tree.FIELDS * path[step]
        weight = parameters[source + min(np.int64(nodes[base + tree.DEPTH]), DEPTHS - 1)]
        found = add_node(nodes, base, weight, kinds, weights, found)
    return found, depth, recent


@njit(nogil=True)
def from_store(header, parameters, row, above, below, kinds, weights, ahead, found):
    """Evidence of the rows of the datastore nearest to the context, longest match first.

    `ahead` (-1 so far) takes a row next to which the context with each kind stands.
    """
    records, up, down, last = header[sorted_store.RECORDS], row - 1, row, header[sorted_store.ROWS] - 1
    for rank in range(1, NEAREST + 1):
        if above <= 0 and below <= 0:
            break
        if below >= above:
            word, same = word_at(records + sorted_store.ROW_BYTES * down), below
            down += 1
            if down > last:
                below = np.int64(0)
            else:
                below = min(below, sorted_store.shared_of(word_at(records + sorted_store.ROW_BYTES * down)))
        else:
            word, same = word_at(records + sorted_store.ROW_BYTES * up), above
            above = min(above, sorted_store.shared_of(word))
            up -= 1
        token = sorted_store.token_of(word)
        if token != sorted_store.VOCABULARY_LIMIT:
            weight = parameters[STORE + same] * _ROOTS[rank]
            for kind in range(found):
                if kinds[kind] == token:
                    weights[kind] += weight
                    if ahead[kind] < 0:
                        ahead[kind] = sorted_store.forward_of(word)
                    break
            else:
                if found < KINDS:
                    kinds[found], weights[found], ahead[found] = token, weight, sorted_store.forward_of(word)
                    found += 1
    return found


@njit(inline="always", nogil=True)
def from_copy(header, text, parameters, place, streak, last, kinds, weights, found):
    """Evidence of the copy model, and of its memory of what came where it offered this before; `last`: token before.

    While it waits after a miss, it offers to go on where it stands (something was inserted) or one further (replaced).
    """
    end = header[tree.LENGTH]
    if place < 0 or place >= end:
        return found
    offered = np.int64(text[place])
    found = add(kinds, weights, found, offered, parameters[COPY + min(streak, DEPTHS - 1)])
    if streak == 0:
        if place + 1 < end:
            found = add(kinds, weights, found, np.int64(text[place + 1]), parameters[REPLACED])
        return found
    share = 0.0
    for kind in range(found):
        if kinds[kind] == offered:
            share = weights[kind]
    memory = int32_at(header[tree.MEMO], 4 * tree.MEMORY)
    entry = 2 * (offered % tree.MEMORY)
    if memory[entry] == offered and memory[entry + 1] != offered:
        found = add(kinds, weights, found, np.int64(memory[entry + 1]), share * parameters[CORRECTED])
    entry = 2 * (tree.MEMORY + last % tree.MEMORY)
    if memory[entry] == last and memory[entry + 1] >= 0:
        found = add(kinds, weights, found, np.int64(memory[entry + 1]), share * parameters[INSERTED])
    return found
