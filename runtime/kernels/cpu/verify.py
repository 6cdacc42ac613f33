"""CPU twins of greedy and target-only verification: only the laws on the path are read."""

from __future__ import annotations

import numpy as np
from numba import njit

from runtime.kernels.cpu.lanes import block_max, borrowed, floats
from runtime.kernels.cpu.softmax import BLOCK, draw, lent, rooms_for

__all__ = ["verify_greedy", "verify_target_only"]


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
def argmax(row, wide):
    """Index of the first largest entry."""
    best, found = block_max(floats(row[:BLOCK], wide)), 0
    for start in range(BLOCK, row.size, BLOCK):
        top = block_max(floats(row[start : start + BLOCK], wide))
        if top > best:
            best, found = top, start
    block = floats(row[found : found + BLOCK], wide)
    for i in range(block.size):
        if block[i] == best:
            return found + i
    return found


@njit(cache=True, nogil=True)
def descend(logits, temperature, tokens, parents, counts, uniforms, path, kept, emitted, rooms):
    """`verify_target_only` with scratch."""
    logits, rooms = borrowed(logits), lent(rooms)
    tokens, parents, path, emitted = borrowed(tokens), borrowed(parents), borrowed(path), borrowed(emitted)
    for b in range(counts.size):
        count = counts[b]
        if not is_tree(tokens[b], parents[b], count):
            return b
        node, length = 0, 0
        while True:
            path[b, length] = node
            length += 1
            row = logits[b, node]
            if temperature[b] > 0:
                token = draw(row, temperature[b], uniforms[b, node], rooms)
            else:
                token = argmax(row, rooms.wide)
            child = child_with(tokens[b], parents[b], count, node, token)
            if child < 0:
                break
            emitted[b, length - 1] = token
            node = child
        finish(path[b], kept[b : b + 1], emitted[b], length, token)
    return -1


@njit(cache=True, nogil=True)
def verify_target_only(logits, temperature, tokens, parents, counts, uniforms, path, kept, emitted):
    """-1, or the first row that is no tree."""
    rooms = rooms_for(logits.shape[2])
    return descend(logits, temperature, tokens, parents, counts, uniforms, path, kept, emitted, rooms)


@njit(cache=True, nogil=True)
def verify_greedy(logits, tokens, parents, counts, path, kept, emitted):
    """-1, or the first row that is no tree."""
    zeros = np.zeros(counts.size)
    unread = np.zeros(tokens.shape)
    return verify_target_only(logits, zeros, tokens, parents, counts, unread, path, kept, emitted)
