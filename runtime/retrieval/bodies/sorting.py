"""Sort all contexts of a text: the suffix array of the reversed text, exact, in O(n log n) at worst.

Two counting passes order the contexts by their last two tokens; groups that are still tied are then refined by the
rank of the context two, four, eight, ... tokens earlier, which is already known.

Reference: Larsson and Sadakane 1999, "Faster suffix sorting".
"""

from __future__ import annotations

import numpy as np
from numba import njit

__all__ = ["END", "sort_contexts"]

END = -1
"""Separator after every document; sorts before every token."""
SMALL = 24


@njit(nogil=True, cache=True)
def sort_contexts(text, vocabulary):
    """Order of the contexts ``text[:p]`` read backwards, for p in [0, n), and the rank of each; both (n,) int32.

    `text` holds tokens in [0, `vocabulary`) and END; before its start stand ENDs without end, and of two contexts
    that they make equal the shorter comes first.
    """
    size = text.size
    order = np.empty(size, np.int32)
    rank = np.empty(size, np.int32)
    counted = np.empty(size, np.int32)
    scatter(text, vocabulary, 2, np.arange(size).astype(np.int32), counted)
    scatter(text, vocabulary, 1, counted, order)
    ties, spare = np.empty(size // 2 + 1, np.int64), np.empty(size // 2 + 1, np.int64)
    tied = first_ties(text, order, rank, ties)
    keys = np.empty(size, np.int64)
    depth = 2
    while tied > 0:
        tied = refine(order, rank, depth, ties, tied, spare, keys)
        ties, spare = spare, ties
        depth *= 2
    return order, rank


@njit(inline="always")
def before(text, place, distance):
    return text[place - distance] + 1 if place >= distance else 0


@njit(nogil=True, cache=True)
def scatter(text, vocabulary, distance, source, target):
    """Stable counting sort of the places in `source` by the token `distance` before each."""
    heads = np.zeros(vocabulary + 2, np.int64)
    for place in range(source.size):
        heads[before(text, place, distance) + 1] += 1
    for symbol in range(1, heads.size):
        heads[symbol] += heads[symbol - 1]
    for place in source:
        symbol = before(text, place, distance)
        target[heads[symbol]] = place
        heads[symbol] += 1


@njit(nogil=True, cache=True)
def first_ties(text, order, rank, ties):
    """Ranks by the last two tokens; the groups ``low << 32 | high`` that they leave tied, and how many."""
    tied, low, size = 0, 0, order.size
    while low < size:
        place = np.int64(order[low])
        one, two = before(text, place, 1), before(text, place, 2)
        high = low
        while high < size and before(text, order[high], 1) == one and before(text, order[high], 2) == two:
            rank[order[high]] = low
            high += 1
        if high - low > 1:
            ties[tied] = low << 32 | high
            tied += 1
        low = high
    return tied


@njit(nogil=True, cache=True)
def refine(order, rank, depth, ties, tied, fresh, keys):
    """Sort each tied group by the rank of the context `depth` tokens earlier; what stays tied goes to `fresh`."""
    left = 0
    for group in range(tied):
        low, high = ties[group] >> 32, ties[group] & 0xFFFFFFFF
        for row in range(low, high):
            place = np.int64(order[row])
            key = rank[place - depth] + depth if place >= depth else place
            keys[row] = key << 32 | place
        sort_span(keys, low, high)
        row = low
        while row < high:
            key, first = keys[row] >> 32, row
            while row < high and keys[row] >> 32 == key:
                place = keys[row] & 0xFFFFFFFF
                order[row], rank[place] = place, first
                row += 1
            if row - first > 1:
                fresh[left] = first << 32 | row
                left += 1
    return left


@njit(inline="always")
def sort_span(keys, low, high):
    if high - low > SMALL:
        keys[low:high].sort()
        return
    for row in range(low + 1, high):
        key, hole = keys[row], row
        while hole > low and keys[hole - 1] > key:
            keys[hole] = keys[hole - 1]
            hole -= 1
        keys[hole] = key
