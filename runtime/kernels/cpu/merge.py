"""CPU twin: merge by a hash of (parent, token), then cut at the budget's largest probability, found by buckets."""

from __future__ import annotations

import numpy as np
from numba import njit

from runtime.kernels.cpu.lanes import borrowed
from runtime.retrieval.bodies.memory import bits_of

__all__ = ["merge_candidates"]

SPARSE = 8
"""Places of the hash table for each candidate, at least: places taken are rarely met."""
SMALL = 32
"""Values that are sorted by insertion; more go through `numpy.sort`."""
BUCKETS, PER_OCTAVE_BITS = 256, 3
"""Buckets of probabilities, eight to a power of two from 1 down; the last holds all that are smaller."""
ONE = 1023 << PER_OCTAVE_BITS
"""First bits of 1.0, as `bucket_of` takes them."""


@njit(cache=True, nogil=True)
def slot_of(table, before, keys_parent, keys_token, parent, token):
    """Slot of (parent, token) in an open-addressed table, or of the place where it would go.

    A row's candidates are entered as ``before + 1`` and on, so that what earlier rows left counts as empty.
    """
    mask = table.size - 1
    slot = (parent * 1000003 + token * 7919) & mask
    while table[slot] > before:
        i = table[slot] - before - 1
        if keys_parent[i] == parent and keys_token[i] == token:
            return slot
        slot = (slot + 1) & mask
    return slot


@njit(cache=True, nogil=True)
def merge_row(tokens, parents, probability, table, before, merged, above, chance):
    """Node that each candidate stands for (the first of its kind, -1 for none); False when it is no tree."""
    if parents[0] != -1:
        return False
    merged[0], above[0], chance[0] = 0, -1, 1.0
    for i in range(1, tokens.size):
        parent = parents[i]
        if parent >= i or parent < 0:
            return False
        over = merged[parent]
        if tokens[i] < 0 or over < 0:
            merged[i] = -1
            continue
        above[i] = over
        slot = slot_of(table, before, above, tokens, over, tokens[i])
        if table[slot] <= before:
            table[slot] = before + i + 1
            merged[i], chance[i] = i, probability[i]
        else:
            first = table[slot] - before - 1
            merged[i] = first
            chance[first] = max(chance[first], probability[i])
    for i in range(1, tokens.size):
        if merged[i] == i:
            chance[i] = min(chance[i], chance[above[i]])
    return True


@njit(inline="always")
def bucket_of(chance):
    """Bucket of a probability; of two, the larger is never in a later one."""
    return min(max(ONE - (bits_of(chance) >> (52 - PER_OCTAVE_BITS)), 0), BUCKETS - 1)


@njit(cache=True, nogil=True)
def nth_largest(chance, column, rank, buckets, room):
    """The `rank`-th largest (from 1) of ``chance[column]``, and how many of those equal to it are among the first."""
    buckets[:] = 0
    for i in column:
        buckets[bucket_of(chance[i])] += 1
    cut, larger = 0, 0
    while larger + buckets[cut] < rank:
        larger += buckets[cut]
        cut += 1
    size = 0
    for i in column:
        if bucket_of(chance[i]) == cut:
            room[size] = chance[i]
            size += 1
    if buckets[cut] > SMALL:
        room[:size] = np.sort(room[:size])[::-1]
    else:
        descend(room[:size])
    floor, place = room[rank - larger - 1], rank - larger - 1
    while place > 0 and room[place - 1] == floor:
        place -= 1
    return floor, rank - larger - place


@njit(cache=True, nogil=True)
def descend(values):
    """Sort a few, the largest first."""
    for i in range(1, values.size):
        value, j = values[i], i
        while j > 0 and values[j - 1] < value:
            values[j] = values[j - 1]
            j -= 1
        values[j] = value


@njit(cache=True, nogil=True)
def above_price(merged, chance, price, column):
    """How many nodes below the root lie above the price; they are listed in `column`."""
    found = 0
    for i in range(1, merged.size):
        column[found] = i
        found += merged[i] == i and chance[i] > price
    return found


@njit(cache=True, nogil=True)
def write_row(tokens, merged, above, chance, column, floor, ties, out_tokens, out_parents, out_chance):
    """The nodes above the floor, and as many of those on it as `ties`; how many nodes there are then."""
    out_tokens[0], out_parents[0], out_chance[0] = tokens[0], -1, 1.0
    merged[0], made = ~0, 1
    for i in column:
        if chance[i] < floor or (chance[i] == floor and ties <= 0):
            continue
        ties -= chance[i] == floor
        out_tokens[made], out_chance[made] = tokens[i], chance[i]
        out_parents[made] = ~merged[above[i]]
        merged[i] = ~made
        made += 1
    out_tokens[made:] = 0
    out_parents[made:] = -1
    out_chance[made:] = 0.0
    return made


@njit(cache=True, nogil=True)
def merge_rows(
    tokens, parents, probability, budgets, price, place, chance, out_tokens, out_parents, out_chance, counts,
    table, buckets, column, room,
):  # fmt: skip
    """`merge_candidates` with scratch."""
    tokens, parents, probability = borrowed(tokens), borrowed(parents), borrowed(probability)
    out_tokens, out_parents, out_chance = borrowed(out_tokens), borrowed(out_parents), borrowed(out_chance)
    merged, above, chance = borrowed(place)[0, 0], borrowed(place)[0, 1], borrowed(chance)[0]
    table, buckets, column, room = borrowed(table), borrowed(buckets), borrowed(column), borrowed(room)
    size, most = tokens.shape[1], out_tokens.shape[1] - 1
    for b in range(budgets.size):
        if not merge_row(tokens[b], parents[b], probability[b], table, b * size, merged, above, chance):
            return b
        found = above_price(merged, chance, price, column)
        wanted = min(max(budgets[b], 0), most)
        floor, ties = price, 0
        if wanted == 0:
            found = 0
        elif found > wanted:
            floor, ties = nth_largest(chance, column[:found], wanted, buckets, room)
        counts[b] = write_row(
            tokens[b], merged, above, chance, column[:found], floor, ties, out_tokens[b], out_parents[b], out_chance[b],
        )  # fmt: skip
    return -1


@njit(cache=True, nogil=True)
def merge_candidates(
    tokens, parents, probability, budgets, price, place, chance, out_tokens, out_parents, out_chance, counts
):
    """-1, or the first row whose parents do not come before their candidates."""
    if budgets.size == 0:
        return -1
    size = 2
    while size < SPARSE * tokens.shape[1]:
        size *= 2
    table, buckets = np.zeros(size, np.int64), np.empty(BUCKETS, np.int32)
    column, room = np.empty(tokens.shape[1], np.int64), np.empty(tokens.shape[1])
    return merge_rows(
        tokens, parents, probability, budgets, price, place, chance, out_tokens, out_parents, out_chance, counts,
        table, buckets, column, room,
    )  # fmt: skip
