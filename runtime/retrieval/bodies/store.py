"""Sorted contexts of past outputs: where a context stands among them, and the step to that context plus one token.

Row r is the r-th context in order (contexts are read backwards, so rows near each other share their last tokens).
Its seven bytes hold the row of the context one token longer (`forward`, the LF mapping of Burrows and Wheeler: 32
bits), the token that followed (18 bits) and the number of tokens shared with the row above (6 bits); a second array
holds the row of the context one token shorter (`backward`, the inverse). A context that may never have occurred
stands *between* rows: `row` is the number of stored contexts before it. Appending a token moves it by one LF step,
which is the exact result of looking the longer context up anew, at every length at once.

References: Burrows and Wheeler 1994; Ferragina and Manzini 2000 (FM-index).
"""

from __future__ import annotations

import numpy as np
from numba import njit

from runtime.retrieval.bodies.memory import int32_at, lean, prefetch, word_at

__all__ = [
    "CAP",
    "HEADER",
    "ROW_BYTES",
    "VOCABULARY_LIMIT",
    "build",
    "forward_of",
    "restore",
    "shared_of",
    "step",
    "unsound",
]

HEADER = 8
ROWS, VOCABULARY, RECORDS, BACKWARD, BUCKETS = 0, 1, 2, 3, 4
"""Words of the header: rows, vocabulary, addresses of the arrays."""
ROW_BYTES = 7
CAP = 32
"""Longest match told apart, in tokens."""
WINDOW = 16
"""Rows looked through on each side before a search of the token's whole bucket."""
VOCABULARY_LIMIT = (1 << 18) - 1
"""Tokens are below this; this itself stands for the end of a document."""


@lean(inline="always")
def forward_of(word):
    """Low 32 bits of a record."""
    return word & 0xFFFFFFFF


@lean(inline="always")
def token_of(word):
    """Token of a record."""
    return (word >> 32) & 0x3FFFF


@lean(inline="always")
def shared_of(word):
    """Tokens that a record shares with the one before."""
    return (word >> 50) & 0x3F


@njit(nogil=True, cache=True)
def build(text, order, rank, vocabulary, records, backward, buckets):
    """Fill the arrays of the datastore from the sorted contexts of `text`."""
    buckets[:] = 0
    for token in text:
        buckets[max(token + 1, 0)] += 1
    for token in range(1, vocabulary + 1):
        buckets[token] += buckets[token - 1]
    for row in range(text.size):
        place = np.int64(order[row])
        token = text[place]
        word = np.int64(VOCABULARY_LIMIT) << 32
        if token >= 0:
            word = np.int64(token) << 32 | np.int64(rank[place + 1])
        backward[row] = rank[place - 1] if place > 0 and text[place - 1] >= 0 else -1
        word |= shared_tail(text, place, np.int64(order[max(row - 1, 0)])) << 50 if row > 0 else np.int64(0)
        for byte in range(ROW_BYTES):
            records[ROW_BYTES * row + byte] = (word >> (8 * byte)) & 255


@njit(nogil=True, cache=True)
def unsound(records, backward, buckets, documents):
    """First row that cannot be one of sorted contexts; -1 where all are, and every number leads to a row.

    Contexts in order and the tokens after them decide everything else: contexts that go on with one token keep their
    order, so that the n-th row that goes on with a token leads to the n-th row of that token's bucket.
    """
    rows, vocabulary = backward.size, buckets.size - 1
    if buckets[0] != documents or buckets[vocabulary] != rows:
        return 0
    for token in range(vocabulary):
        if buckets[token] > buckets[token + 1]:
            return np.int64(min(max(buckets[token], 0), rows - 1))
    following, ends = buckets[:-1].astype(np.int64), 0
    for row in range(rows):
        word = np.int64(0)
        for byte in range(ROW_BYTES):
            word |= np.int64(records[ROW_BYTES * row + byte]) << (8 * byte)
        token, shared = token_of(word), shared_of(word)
        if shared > (CAP if row > 0 else 0) or (row < documents) != (backward[row] == -1):
            return row
        if token == VOCABULARY_LIMIT:
            ends += 1
            if forward_of(word) != 0:
                return row
            continue
        if token >= vocabulary:
            return row
        place = following[token]
        if place >= buckets[token + 1] or forward_of(word) != place or backward[place] != row:
            return row
        following[token] = place + 1
    return np.int64(-1) if ends == documents else np.int64(rows - 1)


@lean(inline="always")
def shared_tail(text, one, other):
    """Tokens that the contexts of two places share, at most CAP, within their documents."""
    same, limit = 0, min(CAP, one, other)
    while same < limit and text[one - 1 - same] == text[other - 1 - same] and text[one - 1 - same] >= 0:
        same += 1
    return same


@lean(inline="always")
def landed(header, row, share):
    """Tokens shared with the row above `row` and with `row` itself, of which one is known: `share`, or minus that."""
    between = shared_of(word_at(header[RECORDS] + ROW_BYTES * row))
    if share > 0:
        return min(share, between), share
    return -share, min(-share, between)


@lean(inline="always")
def step(header, row, above, below, token, query, end):
    """Where the context stands after `token`: (row, tokens shared with the row above, with the row below).

    `row` stored contexts sort before this one; `above` and `below` are the tokens that it shares with rows
    ``row - 1`` and ``row``. ``query[:end]`` is the context with `token`, read only where the token did not follow
    any neighbour.
    """
    size, records = header[ROWS], header[RECORDS]
    if token >= header[VOCABULARY]:
        return size, np.int64(0), np.int64(0)
    down, down_same = np.int64(-1), below
    for at in range(row, min(row + WINDOW, size)):
        word = word_at(records + ROW_BYTES * at)
        if at > row:
            down_same = min(down_same, shared_of(word))
        if token_of(word) == token:
            down = forward_of(word)
            break
    up, up_same = np.int64(-1), above
    for at in range(row - 1, max(row - 1 - WINDOW, -1), -1):
        word = word_at(records + ROW_BYTES * at)
        if token_of(word) == token:
            up = forward_of(word)
            break
        up_same = min(up_same, shared_of(word))
    if down < 0 and up < 0:
        return search(header, row, token, query, min(end, max(up_same, down_same) + 1), end)
    place = down if down >= 0 else up + 1
    up_same, down_same = min(up_same + 1, CAP), min(down_same + 1, CAP)
    if up >= 0 and down >= 0:
        return place, up_same, down_same
    between = shared_of(word_at(records + ROW_BYTES * place)) if place < size else np.int64(0)
    if up >= 0:
        return place, up_same, min(up_same, between)
    return place, min(down_same, between), down_same


@lean()
def search(header, row, token, query, most, end):
    """`step` by bisection in the bucket of the token, matches of up to `most` tokens counted along the query."""
    backward = int32_at(header[BACKWARD], header[ROWS])
    buckets = int32_at(header[BUCKETS], header[VOCABULARY] + 1)
    low, high = np.int64(buckets[token]), np.int64(buckets[token + 1])
    first, last = low, high
    while first < last:
        middle = (first + last) // 2
        if backward[middle] < row:
            first = middle + 1
        else:
            last = middle
    prefetch(header[RECORDS] + ROW_BYTES * first)
    above = agreement(header, backward, first - 1, query, most, end) if first > low else np.int64(0)
    below = agreement(header, backward, first, query, most, end) if first < high else np.int64(0)
    return first, above, below


@lean()
def agreement(header, backward, row, query, most, end):
    """Tokens, up to `most`, that the context of `row` shares with ``query[:end]``; the last is known to be one."""
    same, limit = np.int64(1), min(CAP, most)
    row = np.int64(backward[row])
    while same < limit and row >= 0:
        row = np.int64(backward[row])
        if row < 0 or token_of(word_at(header[RECORDS] + ROW_BYTES * row)) != query[end - 1 - same]:
            break
        same += 1
    return same


@njit(nogil=True, cache=True)
def restore(header):
    """The text that was sorted, -1 after every document; (rows,) int32."""
    text = np.full(header[ROWS], -1, np.int32)
    documents = int32_at(header[BUCKETS], header[VOCABULARY] + 1)[0]
    at = 0
    for row in range(documents):
        word = word_at(header[RECORDS] + ROW_BYTES * row)
        while token_of(word) != VOCABULARY_LIMIT:
            text[at] = token_of(word)
            word = word_at(header[RECORDS] + ROW_BYTES * forward_of(word))
            at += 1
        at += 1
    return text
