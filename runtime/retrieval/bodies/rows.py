"""Rows of a batch whose texts somebody else holds: bring their context trees up to date, and read their chains."""

from __future__ import annotations

import numpy as np

from runtime.retrieval.bodies import context_tree as tree
from runtime.retrieval.bodies.memory import int32_at, int64_at, lean

__all__ = ["BAD", "OTHER", "begins", "chain_many", "follow_many"]

OTHER, BAD = -1, -2
"""What `follow_many` says of a row that has no state of its text, and of a text with a number that is no token id."""
PIECE = 128


@lean()
def begins(address, text_at, length):
    """Whether what the header at `address` has read is the beginning of a text, or all of it."""
    header = int64_at(address, tree.HEADER)
    known = header[tree.LENGTH]
    if known > length:
        return False
    mine, other, end = int32_at(header[tree.TEXT], known), int32_at(text_at, known), known
    while end > 0:  # from the end, where texts of one prompt differ, in pieces that a processor compares at once
        start, different = max(end - PIECE, 0), np.int32(0)
        for at in range(start, end):
            different |= mine[at] ^ other[at]
        if different != 0:
            return False
        end = start
    return True


@lean()
def follow_many(addresses, texts, lengths, left):
    """Append what is new in each text to its row's context tree.

    Parameters
    ----------
    addresses : (B,) int64
        Of the rows' headers; 0 for a row without one, which a text without tokens needs not.
    texts, lengths : (B,) int64
        Addresses of int32 texts, and their tokens.
    left : (B,) int64
        Filled with how many tokens at the end found no room; OTHER or BAD, and nothing appended.

    Returns
    -------
    int
        Rows where something is left to do.
    """
    unfinished = 0
    for row in range(addresses.size):
        left[row] = followed(addresses[row], texts[row], lengths[row])
        unfinished += left[row] != 0
    return unfinished


@lean(inline="always")
def followed(address, text, length):
    if address == 0:
        return OTHER if length > 0 else 0
    if not begins(address, text, length):
        return OTHER
    header = int64_at(address, tree.HEADER)
    known = header[tree.LENGTH]
    done = tree.extend(header, int32_at(text + 4 * known, length - known))
    return BAD if done < 0 else length - known - done


@lean()
def chain_many(addresses, caps, most, limit, out, matches, made, path):
    """The chain of each row's own text.

    Parameters
    ----------
    addresses : (B,) int64
        Of the rows' headers; 0 for a row that nothing is drafted for.
    caps : (M,) int64
        Longest chain by match length, from 0 on; the last for longer ones.
    most : (B,) int64
        Longest chain of each row.
    limit : int
        A chain ends before the first token that is not below it.
    out : (B, S + K) int32
        A row's chain stands from S, its tree's depth limit, on.
    matches, made : (B,) int64
        Filled with the match lengths and those of the chains.
    path : (S + 1,) int64
        Scratch.
    """
    matches[:] = 0
    made[:] = 0
    for row in range(addresses.size):
        if addresses[row] == 0:
            continue
        header = int64_at(addresses[row], tree.HEADER)
        matches[row] = header[tree.MATCH]
        cap = min(caps[min(matches[row], caps.size - 1)], most[row])
        count, start = tree.chain(header, cap, out[row], path) if cap > 0 else 0, header[tree.MAX_DEPTH]
        while made[row] < count and out[row, start + made[row]] < limit:
            made[row] += 1
