"""GPU twin of the merge: one block a row; every comparison of two candidates is a thread's."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import cuda, int64

from runtime.kernels.gpu._launch import launch_numba

__all__ = ["merge_candidates"]

THREADS = 128


@cuda.jit(device=True)
def _path_chance(chance, above, i):
    """Least probability from candidate `i` up to the root."""
    least = chance[i]
    while above[i] >= 0:
        i = above[i]
        least = chance[i] if chance[i] < least else least
    return least


@cuda.jit(device=True)
def _join(tokens, parents, probability, first, above, chance, found):
    """`first`: the earliest candidate that stands for the same node (-1: none); `above`: the one over it."""
    me, threads = cuda.threadIdx.x, cuda.blockDim.x
    if me == 0:
        first[0], above[0], chance[0] = 0, -1, 1.0
    cuda.syncthreads()
    for i in range(1, tokens.size):
        over = first[parents[i]]
        there = tokens[i] >= 0 and over >= 0
        if me == 0:
            found[0] = i if there else -1
        cuda.syncthreads()
        for j in range(me, i, threads):
            if there and first[j] == j and above[j] == over and tokens[j] == tokens[i]:
                found[0] = j
        cuda.syncthreads()
        if me == 0:
            first[i], above[i] = found[0], over
            chance[i] = probability[i]
            if found[0] >= 0 and probability[i] > chance[found[0]]:
                chance[found[0]] = probability[i]
        cuda.syncthreads()


@cuda.jit(device=True)
def _rank(i, mine, first, above, chance, price):
    """Candidates that come before `i`: likelier ones, and equal ones that stand before it."""
    rank = 0
    for j in range(1, first.size):
        if first[j] == j:
            other = _path_chance(chance, above, j)
            rank += other > price and (other > mine or (other == mine and j < i))
    return rank


@cuda.jit
def _merge(tokens, parents, probability, budgets, price, place, chance, out_tokens, out_parents, out_chance, counts):
    found = cuda.shared.array(1, int64)
    b, me, threads = cuda.blockIdx.x, cuda.threadIdx.x, cuda.blockDim.x
    first, above, kept, size = place[b, 0], place[b, 1], place[b, 2], tokens.shape[1]
    _join(tokens[b], parents[b], probability[b], first, above, chance[b], found)
    room = budgets[b] if budgets[b] < out_tokens.shape[1] - 1 else out_tokens.shape[1] - 1
    for i in range(1 + me, size, threads):
        mine = _path_chance(chance[b], above, i) if first[i] == i else 0.0
        kept[i] = first[i] == i and mine > price and _rank(i, mine, first, above, chance[b], price) < room
    cuda.syncthreads()
    if me == 0:
        out_tokens[b, 0], out_parents[b, 0], out_chance[b, 0] = tokens[b, 0], -1, 1.0
        kept[0], made = 0, 1
        for i in range(1, size):
            if kept[i]:
                kept[i] = made
                made += 1
        counts[b] = made
    cuda.syncthreads()
    for i in range(1 + me, size, threads):
        if kept[i]:
            out_tokens[b, kept[i]] = tokens[b, i]
            out_parents[b, kept[i]] = kept[above[i]]
            out_chance[b, kept[i]] = _path_chance(chance[b], above, i)
    for i in range(counts[b] + me, out_tokens.shape[1], threads):
        out_tokens[b, i], out_parents[b, i], out_chance[b, i] = 0, -1, 0.0


def merge_candidates(
    tokens: Any,
    parents: Any,
    probability: Any,
    budgets: Any,
    price: float,
    place: Any,
    chance: Any,
    *out: Any,
) -> None:
    """As the door says, into the four arrays of `out`; `place` and `chance` are scratch."""
    arguments = (tokens, parents, probability, budgets, np.float64(price), place, chance, *out)
    launch_numba(_merge, len(tokens), THREADS, arguments)
