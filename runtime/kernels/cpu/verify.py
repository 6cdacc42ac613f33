"""CPU twins of greedy and target-only verification: only the laws on the path are read."""

from __future__ import annotations

import numpy as np
from numba import njit, types
from numba.extending import overload

__all__ = ["verify_greedy", "verify_target_only"]

BLOCK = 1024
"""Entries that are looked at together before any is looked at alone."""


@njit(cache=True, nogil=True)
def is_tree(tokens, parents, count):
    """Whether the first `count` nodes are a tree with node 0 as its root."""
    if count < 1 or count > tokens.size or parents[0] != -1:
        return False
    for node in range(1, count):  # noqa: SIM110
        if parents[node] < 0 or parents[node] >= node:
            return False
    return True


@njit(cache=True, nogil=True)
def child_with(tokens, parents, count, node, token):
    """The child of `node` that carries `token`, -1 for none."""
    for child in range(node + 1, count):
        if parents[child] == node and tokens[child] == token:
            return child
    return -1


@njit(cache=True, nogil=True)
def finish(path, kept, emitted, length, token):
    """Close a row: the last token, and -1 in what is left."""
    emitted[length - 1] = token
    path[length:] = -1
    emitted[length:] = -1
    kept[0] = length


@njit(cache=True, nogil=True)
def exceeds(block, best):
    """Whether an entry is larger than `best`; all are looked at, so that the compiler may use wide registers."""
    hits = 0
    for i in range(block.size):
        hits += block[i] > best
    return hits > 0


@njit(cache=True, nogil=True)
def argmax(row):
    """Index of the first largest entry."""
    best, at = row[0], 0
    for start in range(0, row.size, BLOCK):
        if exceeds(row[start : start + BLOCK], best):
            for i in range(start, min(start + BLOCK, row.size)):
                if row[i] > best:
                    best, at = row[i], i
    return at


@njit(cache=True, nogil=True, fastmath={"nnan", "nsz", "reassoc"})
def block_sum(block):
    """Sum in whatever order is fastest."""
    total = 0.0
    for i in range(block.size):
        total += block[i]
    return total


@njit(cache=True, nogil=True)
def pick(law, uniform, parts):
    """Token whose cumulative weight first exceeds ``uniform * total``; never one of weight 0.

    Sums of blocks (into `parts`) find the block, which is then walked: where a uniform lies within rounding of a
    boundary (1e-15), the token may be the neighbour of the one that a plain running sum gives.
    """
    blocks = 0
    total = 0.0
    for start in range(0, law.size, BLOCK):
        parts[blocks] = block_sum(law[start : start + BLOCK])
        total += parts[blocks]
        blocks += 1
    threshold, running, block = uniform * total, 0.0, 0
    while block < blocks - 1 and running + parts[block] <= threshold:
        running += parts[block]
        block += 1
    for i in range(block * BLOCK, law.size):
        running += law[i]
        if running > threshold and law[i] > 0:
            return i
    last = law.size - 1
    while last > 0 and not law[last] > 0:
        last -= 1
    return last


def floats(row, room):
    """The row as floats; bits of bfloat16 are widened into `room` (float32)."""
    raise NotImplementedError(row, room)


@overload(floats)
def _floats(row, room):
    if row.dtype != types.uint16:
        return lambda row, room: row

    def widen(row, room):
        words = room.view(np.uint32)
        for i in range(row.size):
            words[i] = np.uint32(row[i]) << np.uint32(16)
        return room

    return widen


@njit(cache=True, nogil=True)
def draw(row, temperature, uniform, weights, parts):
    """Token of the softmax of ``row / temperature`` that `uniform` picks."""
    top = np.float64(row[argmax(row)]) / temperature
    for i in range(row.size):
        weights[i] = np.exp(np.float64(row[i]) / temperature - top)
    return pick(weights, uniform, parts)


@njit(cache=True, nogil=True)
def verify_target_only(logits, temperature, tokens, parents, counts, uniforms, path, kept, emitted):
    """-1, or the first row that is no tree."""
    batch, _, vocabulary = logits.shape
    room, weights = np.empty(vocabulary, np.float32), np.empty(vocabulary, np.float64)
    parts = np.empty(vocabulary // BLOCK + 1)
    for b in range(batch):
        count = counts[b]
        if not is_tree(tokens[b], parents[b], count):
            return b
        node, length = 0, 0
        while True:
            path[b, length] = node
            length += 1
            row = floats(logits[b, node], room)
            hot = temperature[b] > 0
            token = draw(row, temperature[b], uniforms[b, node], weights, parts) if hot else argmax(row)
            child = child_with(tokens[b], parents[b], count, node, token)
            if child < 0:
                break
            emitted[b, length - 1] = token
            node = child
        finish(path[b], kept[b : b + 1], emitted[b], length, token)
    return -1


@njit(cache=True, nogil=True)
def verify_greedy(logits, tokens, parents, counts, path, kept, emitted):
    """-1, or the first row that is no tree."""
    room = np.empty(logits.shape[2], np.float32)
    for b in range(logits.shape[0]):
        if not is_tree(tokens[b], parents[b], counts[b]):
            return b
        node, length, token = 0, 0, np.int64(0)
        while node >= 0:
            path[b, length] = node
            token = argmax(floats(logits[b, node], room))
            emitted[b, length] = token
            length += 1
            node = child_with(tokens[b], parents[b], counts[b], node, token)
        finish(path[b], kept[b : b + 1], emitted[b], length, token)
    return -1
