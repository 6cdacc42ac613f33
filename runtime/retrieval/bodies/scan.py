"""Chains of short texts without an index: the text is searched whole at every step.

Prefer it to a context tree while a text is short: a search of some hundred tokens costs less than two descents of a
tree that lies in no cache. What is found is the same, token for token.
"""

from __future__ import annotations

import numpy as np

from runtime.retrieval.bodies.memory import int32_at, lean

__all__ = ["scan_many"]


@lean()
def scan_many(texts, lengths, longest, caps, most, limit, depth, out, made):
    """The chain of each row's own text, where it has 1 to `longest` tokens; other rows are left as they are.

    Parameters
    ----------
    texts, lengths : (B,) int64
        Addresses of int32 texts, and their tokens.
    caps, most, limit
        As of `rows.chain_many`.
    depth : int
        Longest context told apart.
    out : (B, depth + K) int32
        A row's chain stands from `depth` on.
    made : (B,) int64
        Filled with the lengths of the chains; 0 for a text with a number that is no token id.
    """
    for row in range(lengths.size):
        if 0 < lengths[row] <= longest:
            text = int32_at(texts[row], lengths[row])
            count = continued(text, caps, most[row], depth, out[row])
            made[row] = 0
            while made[row] < count and out[row, depth + made[row]] < limit:
                made[row] += 1


@lean()
def continued(text, caps, most, depth, out):
    """Continuation of the latest longest match into ``out[depth:]``, looked up anew where it ends; its length."""
    end, signs = text.size, np.int32(0)
    for token in text:
        signs |= token
    if signs < 0 or most <= 0:
        return 0
    tail = min(depth, end)
    for back in range(1, tail + 1):
        out[depth - back] = text[end - back]
    match, place = latest_longest(text, out[depth - tail : depth], depth)
    made, cap = 0, min(caps[min(match, caps.size - 1)], most)
    while made < cap and match > 0:
        for at in range(place, min(end, place + cap - made)):
            out[depth + made] = text[at]
            made += 1
        if made < cap:
            match, place = latest_longest(text, out[depth - tail : depth + made], depth)
    return made


@lean()
def latest_longest(text, query, depth):
    """Longest suffix of `query` in the text with a token behind it: its length, and the place of the latest such."""
    end, limit = query.size - 1, min(depth, query.size)
    best, found = 0, 0
    for place in range(text.size - 1, 0, -1):
        if text[place - 1] != query[end]:
            continue
        if best > 0 and (place <= best or text[place - 1 - best] != query[end - best]):
            continue
        same = 1
        while same < min(limit, place) and text[place - 1 - same] == query[end - same]:
            same += 1
        if same > best:
            best, found = same, place
            if best == limit:
                break
    return best, found
