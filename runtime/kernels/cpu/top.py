"""CPU twin: one pass a law, which looks closely only where a block holds more than the least one kept."""

from __future__ import annotations

import numpy as np
from numba import njit

from runtime.kernels.cpu.lanes import block_max, floats

__all__ = ["draft_level"]

BLOCK = 128
"""Entries that are looked at together before any is looked at alone."""


@njit(cache=True, nogil=True)
def insert(best, ids, value, token):
    """Put `token` in its place among those kept; the least one falls out."""
    place = best.size - 1
    while place > 0 and value > best[place - 1]:
        best[place], ids[place] = best[place - 1], ids[place - 1]
        place -= 1
    best[place], ids[place] = value, token


@njit(cache=True, nogil=True)
def top_of(row, best, ids):
    """Largest entries of `row`, descending, and their indices."""
    kept = best.size
    for token in range(kept):
        insert(best[: token + 1], ids[: token + 1], row[token], token)
    for start in range(kept, row.size, BLOCK):
        end = min(start + BLOCK, row.size)
        if block_max(row[start:end]) > best[kept - 1]:
            for token in range(start, end):
                if row[token] > best[kept - 1]:
                    insert(best, ids, row[token], token)


@njit(cache=True, nogil=True)
def misplaced(shape, width, queries, ranks, nodes, tokens):
    """-1, or the first node of the level whose query, rank or place lies outside."""
    for i in range(nodes.size):
        inside = 0 <= ranks[i] < width and 0 <= nodes[i] < tokens.shape[1]
        for b in range(shape[0]):
            inside = inside and 0 <= queries[b, i] < shape[1]
        if not inside:
            return i
    return -1


@njit(cache=True, nogil=True)
def draft_level(logits, width, queries, ranks, nodes, tokens):
    """0, or ``-1 - i`` of the first node whose query, rank or place lies outside."""
    wrong = misplaced(logits.shape, width, queries, ranks, nodes, tokens)
    if wrong >= 0:
        return ~wrong
    room = np.empty(logits.shape[2], np.float32)
    ids = np.empty(width, np.int64)
    for b in range(logits.shape[0]):
        for i in range(nodes.size):
            if i == 0 or queries[b, i] != queries[b, i - 1]:
                row = floats(logits[b, queries[b, i]], room)
                top_of(row, np.empty(width, row.dtype), ids)
            tokens[b, nodes[i]] = ids[ranks[i]]
    return 0
