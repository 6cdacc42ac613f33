"""Candidates of a tree that grows best first: every token offered so far and not yet taken.

The key of a candidate is the bits of its path probability, the last few of which hold its number instead: the best
is the largest integer in one pass that the compiler vectorises, and of equals the first that came. A candidate below
as many better ones as the tree has room for can never be taken: the floor rises with what was put in.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from runtime.retrieval.bodies.memory import bits_of, float64_at, int32_at, int64_at, lean

__all__ = ["FIELDS", "LONGEST", "MARK", "NODE", "ROW", "SHARE", "TOKEN", "TREES", "Pool", "class_of"]

TOKEN, NODE, LONGEST, MARK, ROW, SHARE, TREES, FIELDS = range(8)
"""Fields of a candidate: token, node above, longest match there, who offered it; as in `Desk` the rest."""
CLASSES = 64
"""Quarter octaves of path probability that the floor tells apart."""
POOLED, WITHIN, FLOOR, MASK, COUNTS = range(5)
"""Counts: candidates so far, those not below the floor, the floor's class, bits of a key that hold the number."""


class Pool(NamedTuple):
    """Candidates of one tree.

    Attributes
    ----------
    keys : (room,) int64
        0 once taken.
    chances : (room,) float64
        Path probabilities.
    fields : (FIELDS * room,) int32
    tally : (CLASSES,) int64
        Candidates by class.
    counts : (COUNTS,) int64
    """

    keys: NDArray[np.int64]
    chances: NDArray[np.float64]
    fields: NDArray[np.int32]
    tally: NDArray[np.int64]
    counts: NDArray[np.int64]


@lean(inline="always")
def words_of(room):
    """int64 words of a pool."""
    return 2 * room + (FIELDS * room + 1) // 2 + CLASSES + COUNTS


@lean(inline="always")
def pool_at(address, room):
    """Empty pool in the words at `address`."""
    keys, chances = int64_at(address, room), float64_at(address + 8 * room, room)
    tally = int64_at(address + 16 * room, CLASSES)
    counts = int64_at(address + 16 * room + 8 * CLASSES, COUNTS)
    fields = int32_at(address + 16 * room + 8 * (CLASSES + COUNTS), FIELDS * room)
    tally[:] = 0
    counts[POOLED], counts[WITHIN], counts[FLOOR], counts[MASK] = 0, 0, CLASSES - 1, 1
    while counts[MASK] < room:
        counts[MASK] *= 2
    counts[MASK] -= 1
    return Pool(keys, chances, fields, tally, counts)


@lean(inline="always")
def class_of(chance):
    """Quarter octaves below one."""
    return min(4092 - (bits_of(chance) >> 50), CLASSES - 1)


@lean(inline="always")
def put(pool, chance, kept, budget):
    """Enter a candidate of class `kept`; where its fields go."""
    tally, counts = pool.tally, pool.counts
    number, mask = counts[POOLED], counts[MASK]
    tally[kept] += 1
    within, floor = counts[WITHIN] + 1, counts[FLOOR]
    while within - tally[floor] >= budget:
        within -= tally[floor]
        floor -= 1
    counts[POOLED], counts[WITHIN], counts[FLOOR] = number + 1, within, floor
    pool.chances[number] = chance
    pool.keys[number] = bits_of(chance) & ~mask | (mask - number)
    return FIELDS * number


@lean(inline="always")
def take(pool):
    """Number of the best candidate, which is one no more; -1 for none."""
    keys, best = pool.keys, np.int64(0)
    for at in range(pool.counts[POOLED]):
        best = max(best, keys[at])
    if best == 0:
        return np.int64(-1)
    mask = pool.counts[MASK]
    number = mask - (best & mask)
    keys[number] = 0
    return number
