"""CPU twins of suffix match, its continuation and trie lookup: scans forward, as memory is read ahead."""

from __future__ import annotations

import numpy as np
from numba import njit

from runtime.kernels.cpu.lanes import borrowed
from runtime.kernels.cpu.verify import child_with

__all__ = ["suffix_chain", "suffix_match", "trie_lookup"]

BLOCK, PIECE = 1024, 64
"""Tokens that are looked through at once for the one that a context ends in, and once it is among them."""


@njit(cache=True, nogil=True)
def compare(text, place, query, size, limit):
    """Tokens that ``text[:place]`` and ``query[:size]`` share at their ends, at most `limit`; the last one does."""
    same = 1
    while same < limit and text[place - 1 - same] == query[size - 1 - same]:
        same += 1
    return same


@njit(cache=True, nogil=True)
def holds(block, token):
    """Whether the token is in the block; all of it is looked at, so that the compiler may use wide registers."""
    hits = False
    for i in range(block.size):
        hits |= block[i] == token
    return hits


@njit(cache=True, nogil=True)
def next_with(text, start, stop, token):
    """First place of the token in ``text[start:stop]``, `stop` for none: first near by, then by blocks."""
    limit = min(start + PIECE, stop)
    while start < stop:
        while start < limit:
            end = min(start + PIECE, limit)
            if holds(text[start:end], token):
                while text[start] != token:
                    start += 1
                return start
            start = end
        limit = min(start + BLOCK, stop)
        while start < stop and not holds(text[start:limit], token):
            start, limit = limit, min(limit + BLOCK, stop)
    return stop


@njit(cache=True, nogil=True)
def find(text, end, query, size, max_depth):
    """Longest suffix of ``query[:size]`` that ends before a token of ``text[:end]``: length, count, latest place."""
    best, count, latest = 0, 0, -1
    if size == 0:
        return best, count, latest
    place = next_with(text, 0, end - 1, query[size - 1]) + 1
    while place < end:
        limit = min(max_depth, size, place)
        if limit >= best and (best < 2 or text[place - best] == query[size - best]):
            same = compare(text, place, query, size, limit)
            if same > best:
                best, count = same, 0
            if same == best:
                count += 1
                latest = place
        place = next_with(text, place, end - 1, query[size - 1]) + 1
    return best, count, latest


@njit(cache=True, nogil=True)
def suffix_match(text, lengths, max_depth, length, count, position):
    """-1, or the first row whose length does not fit."""
    text = borrowed(text)
    for b in range(lengths.size):
        end = lengths[b]
        if end < 0 or end > text.shape[1]:
            return b
        length[b], count[b], position[b] = find(text[b], end, text[b], end, max_depth)
    return -1


@njit(cache=True, nogil=True)
def suffix_chain(text, lengths, max_depth, tokens, made):
    """-1, or the first row whose length does not fit."""
    most = tokens.shape[1]
    query = np.empty(max_depth + most, np.int32)
    text = borrowed(text)
    for b in range(lengths.size):
        end = lengths[b]
        if end < 0 or end > text.shape[1]:
            return b
        tail = min(max_depth, end)
        query[:tail] = text[b, end - tail : end]
        done = 0
        depth, _, place = find(text[b], end, query, tail, max_depth)
        while done < most and depth > 0:
            while done < most and place < end:
                query[tail + done] = text[b, place]
                done += 1
                place += 1
            if done < most:
                depth, _, place = find(text[b], end, query, tail + done, max_depth)
        tokens[b, :done] = query[tail : tail + done]
        tokens[b, done:] = -1
        made[b] = done
    return -1


@njit(cache=True, nogil=True)
def trie_lookup(tokens, parents, counts, query, found):
    """-1, or the first row whose count does not fit."""
    tokens, parents, query, found = borrowed(tokens), borrowed(parents), borrowed(query), borrowed(found)
    for b in range(counts.size):
        count = counts[b]
        if count < 0 or count > tokens.shape[1]:
            return b
        node = 0 if count > 0 else -1
        for i in range(query.shape[1]):
            if node >= 0:
                node = child_with(tokens[b], parents[b], count, node, query[b, i])
            found[b, i] = node
    return -1
