"""CPU twin: merge by a hash of (parent, token), then cut at the budget's largest probability."""

from __future__ import annotations

import numpy as np
from numba import njit

__all__ = ["merge_candidates"]


@njit(cache=True, nogil=True)
def slot_of(table, keys_parent, keys_token, parent, token):
    """Slot of (parent, token) in an open-addressed table of candidates, or of the empty place where it would go."""
    mask = table.size - 1
    slot = (np.int64(parent + 1) * 1000003 + token * 7919) & mask
    while table[slot] >= 0:
        i = table[slot]
        if keys_parent[i] == parent and keys_token[i] == token:
            return slot
        slot = (slot + 1) & mask
    return slot


@njit(cache=True, nogil=True)
def merge_row(tokens, parents, probability, table, merged, above, chance):
    """Node that each candidate stands for (the first of its kind, -1 for none); False when it is no forest."""
    table[:] = -1
    for i in range(tokens.size):
        if parents[i] >= i or parents[i] < -1:
            return False
        over = merged[parents[i]] if parents[i] >= 0 else np.int64(-1)
        if tokens[i] < 0 or (parents[i] >= 0 and over < 0):
            merged[i] = -1
            continue
        above[i] = over
        slot = slot_of(table, above, tokens, over, tokens[i])
        if table[slot] < 0:
            table[slot] = i
            merged[i], chance[i] = i, probability[i]
        else:
            first = table[slot]
            merged[i] = first
            chance[first] = max(chance[first], probability[i])
    for i in range(tokens.size):
        if merged[i] == i and above[i] >= 0:
            chance[i] = min(chance[i], chance[above[i]])
    return True


@njit(cache=True, nogil=True)
def merge_candidates(
    root, tokens, parents, probability, budgets, price, place, chance, out_tokens, out_parents, out_chance, counts
):
    """-1, or the first row whose parents do not come before their candidates."""
    size = 2
    while size < 2 * tokens.shape[1]:
        size *= 2
    table = np.empty(size, np.int64)
    column = np.empty(tokens.shape[1], np.int64)
    for b in range(root.size):
        merged, above = place[b, 0], place[b, 1]
        if not merge_row(tokens[b], parents[b], probability[b], table, merged, above, chance[b]):
            return b
        found = 0
        for i in range(merged.size):
            if merged[i] == i and chance[b, i] > price:
                column[found] = i
                found += 1
        room = min(max(budgets[b], 0), out_tokens.shape[1] - 1)
        floor, ties = price, 0
        if found > room:
            ordered = np.sort(chance[b][column[:found]])[::-1]
            floor = ordered[room - 1] if room > 0 else np.inf
            ties = room
            for i in range(found):
                ties -= ordered[i] > floor
        out_tokens[b, 0], out_parents[b, 0], out_chance[b, 0] = root[b], -1, 1.0
        made = 1
        for j in range(found):
            i = column[j]
            keep = chance[b, i] > floor
            if found > room and chance[b, i] == floor and ties > 0:
                ties -= 1
                keep = True
            if not keep:
                continue
            out_tokens[b, made], out_chance[b, made] = tokens[b, i], chance[b, i]
            out_parents[b, made] = ~merged[above[i]] if above[i] >= 0 else 0
            merged[i] = ~made
            made += 1
        counts[b] = made
        out_tokens[b, made:] = 0
        out_parents[b, made:] = -1
        out_chance[b, made:] = 0.0
    return -1
