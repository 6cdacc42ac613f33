"""CPU twins of greedy and target-only verification: only the laws on the path are read."""

from __future__ import annotations

import numpy as np
from numba import njit, types
from numba.extending import overload

__all__ = ["verify_greedy", "verify_target_only"]

BLOCK = 1024
"""Entries whose maximum is taken before it is compared, so that the compiler may use wide registers."""


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


@njit(cache=True, nogil=True, fastmath={"nnan", "nsz", "reassoc"})
def largest(row, start, stop):
    """Largest of ``row[start:stop]``."""
    best = row[start]
    for i in range(start + 1, stop):
        best = max(best, row[i])
    return best


@njit(cache=True, nogil=True)
def argmax(row):
    """Index of the first largest entry."""
    best, at = row[0], 0
    for start in range(0, row.size, BLOCK):
        top = largest(row, start, min(start + BLOCK, row.size))
        if top > best:
            best, at = top, start
    for i in range(at, row.size):
        if row[i] == best:
            return i
    return at


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
def draw(row, temperature, uniform, cumulative):
    """Token of the softmax of ``row / temperature`` whose cumulative probability first exceeds `uniform`."""
    size = row.size
    top = np.float64(largest(row, 0, size)) / temperature
    total = 0.0
    for i in range(size):
        total += np.exp(np.float64(row[i]) / temperature - top)
        cumulative[i] = total
    threshold = uniform * total
    token = np.searchsorted(cumulative, threshold, side="right")
    if token < size:
        return token
    return np.searchsorted(cumulative, total, side="left")


@njit(cache=True, nogil=True)
def verify_target_only(logits, temperature, tokens, parents, counts, uniforms, path, kept, emitted):
    """-1, or the first row that is no tree."""
    batch, _, vocabulary = logits.shape
    room, cumulative = np.empty(vocabulary, np.float32), np.empty(vocabulary, np.float64)
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
            token = draw(row, temperature[b], uniforms[b, node], cumulative) if hot else argmax(row)
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
    zeros = np.zeros(counts.size)
    unread = np.zeros(tokens.shape)
    return verify_target_only(logits, zeros, tokens, parents, counts, unread, path, kept, emitted)
