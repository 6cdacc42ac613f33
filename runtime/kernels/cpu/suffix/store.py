"""Sorted contexts of past outputs: where a context stands among them, and the step to that context plus one token.

Row r is the r-th context in order (contexts are read backwards, so rows near each other share their last tokens).
For each row the token that followed (low 16 bits), the row of the context one token longer (`forward`, the LF
mapping of Burrows and Wheeler), the row of the context one token shorter (`backward`, its inverse) and the tokens
shared with the row above (`shared`). A context that may never have occurred stands *between* rows: `row` is the
number of stored contexts before it. Appending a token moves it by one LF step, which is the exact result of
looking the longer context up anew, at every length at once.

References: Burrows and Wheeler 1994; Ferragina and Manzini 2000 (FM-index).
"""

from __future__ import annotations

import numpy as np
from numba import njit

from runtime.kernels.cpu.suffix.memory import int32_at, uint8_at, uint16_at

__all__ = ["CAP", "HEADER", "build", "follower", "restore", "step", "views"]

HEADER = 16
ROWS, VOCABULARY, FOLLOW, FORWARD, BACKWARD, SHARED, BUCKETS = 0, 1, 2, 3, 4, 5, 6
"""Words of the header: rows, vocabulary, addresses of the arrays."""
CAP = 32
"""Longest match told apart, in tokens."""
WINDOW = 24
"""Rows looked through on each side before a search of the token's whole bucket."""


@njit(nogil=True, cache=True)
def build(text, order, rank, vocabulary, follow, forward, backward, shared, buckets):
    """Fill the arrays of the datastore from the sorted contexts of `text`."""
    size = text.size
    buckets[:] = 0
    for token in text:
        if token >= 0:
            buckets[token + 1] += 1
        else:
            buckets[0] += 1
    for token in range(1, vocabulary + 1):
        buckets[token] += buckets[token - 1]
    for row in range(size):
        place = np.int64(order[row])
        token = text[place]
        forward[row] = rank[place + 1] if token >= 0 else -1
        follow[row] = token & 0xFFFF
        backward[row] = rank[place - 1] if place > 0 and text[place - 1] >= 0 else -1
        same = 0
        if row > 0:
            other = np.int64(order[row - 1])
            limit = min(CAP, place, other)
            while same < limit and text[place - 1 - same] == text[other - 1 - same] and text[place - 1 - same] >= 0:
                same += 1
        shared[row] = same


@njit(inline="always", nogil=True)
def views(header):
    size = header[ROWS]
    return (
        uint16_at(header[FOLLOW], size),
        int32_at(header[FORWARD], size),
        int32_at(header[BACKWARD], size),
        uint8_at(header[SHARED], size),
        int32_at(header[BUCKETS], header[VOCABULARY] + 1),
    )


@njit(inline="always", nogil=True)
def follower(row, follow, forward, buckets):
    """Token that followed the context of `row`; -1 at the end of a document."""
    target = forward[row]
    if target < 0:
        return np.int64(-1)
    token = np.int64(follow[row])
    while token + 1 < buckets.size and buckets[token + 1] <= target:
        token += 65536
    return token


@njit(inline="always", nogil=True)
def step(arrays, row, above, below, token, query, end):
    """Where the context stands after `token`: (row, tokens shared with the row above, with the row below).

    `row` stored contexts sort before this one; `above` and `below` are the tokens that it shares with rows
    ``row - 1`` and ``row``. ``query[:end]`` is the context with `token`, read only where the token did not follow
    any neighbour.
    """
    follow, forward, backward, shared, buckets = arrays
    size = follow.size
    if token + 1 >= buckets.size:
        return np.int64(size), np.int64(0), np.int64(0)
    low, high = np.int64(buckets[token]), np.int64(buckets[token + 1])
    if low == high:
        return low, np.int64(0), np.int64(0)
    short = np.uint16(token & 0xFFFF)
    down, down_same = np.int64(-1), below
    for at in range(row, min(row + WINDOW, size)):
        if follow[at] == short and low <= forward[at] < high:
            down = np.int64(forward[at])
            break
        if at + 1 < size:
            down_same = min(down_same, np.int64(shared[at + 1]))
    up, up_same = np.int64(-1), above
    for at in range(row - 1, max(row - 1 - WINDOW, -1), -1):
        if follow[at] == short and low <= forward[at] < high:
            up = np.int64(forward[at])
            break
        up_same = min(up_same, np.int64(shared[at]))
    if down < 0 and up < 0:
        return search(arrays, row, low, high, query, end)
    if down >= 0:
        place = down
        down_same = min(down_same + 1, CAP)
        up_same = min(up_same + 1, CAP) if up >= 0 else (min(down_same, np.int64(shared[place])) if place > low else 0)
        return place, np.int64(up_same), np.int64(down_same)
    place = up + 1
    up_same = min(up_same + 1, CAP)
    down_same = min(up_same, np.int64(shared[place])) if place < high else 0
    return place, np.int64(up_same), np.int64(down_same)


@njit(nogil=True)
def search(arrays, row, low, high, query, end):
    """`step` by bisection in the bucket ``[low, high)`` of the token, matches counted along the query."""
    _, _, backward, _, _ = arrays
    first, last = low, high
    while first < last:
        middle = (first + last) // 2
        if backward[middle] < row:
            first = middle + 1
        else:
            last = middle
    above = agreement(arrays, first - 1, query, end) if first > low else np.int64(0)
    below = agreement(arrays, first, query, end) if first < high else np.int64(0)
    return first, above, below


@njit(nogil=True)
def agreement(arrays, row, query, end):
    """Tokens that the context of `row`, whose last token is the query's last, shares with ``query[:end]``."""
    follow, forward, backward, _, buckets = arrays
    same, limit = np.int64(1), min(CAP, end)
    row = np.int64(backward[row])
    while same < limit and row >= 0:
        row = np.int64(backward[row])
        if row < 0 or follower(row, follow, forward, buckets) != query[end - 1 - same]:
            break
        same += 1
    return same


@njit(nogil=True)
def restore(header):
    """The text that was sorted, END after every document; (rows,) int32."""
    follow, forward, _, _, buckets = views(header)
    text = np.empty(follow.size, np.int32)
    at = 0
    for start in range(buckets[0] if buckets.size > 0 else 0):
        row = np.int64(start)
        while row >= 0:
            text[at] = follower(row, follow, forward, buckets)
            row = np.int64(forward[row])
            at += 1
    return text
