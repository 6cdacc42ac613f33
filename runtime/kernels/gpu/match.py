"""GPU twins of suffix match, its continuation and trie lookup: a block scans one text, a thread walks one trie."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numba import cuda, int64

from runtime.kernels.gpu._launch import launch_numba

__all__ = ["suffix_chain", "suffix_match", "trie_lookup"]

THREADS = 128
ROOM = 128
"""Columns of the shared array: length, count and place of each thread; at least `THREADS`."""


@cuda.jit(device=True)
def _find(text, end, query, size, max_depth, shared):
    """Longest suffix of ``query[:size]`` that ends before a token of ``text[:end]``, into column 0 of `shared`."""
    me, threads = cuda.threadIdx.x, cuda.blockDim.x
    best, count, latest = shared[0], shared[1], shared[2]
    longest, many, place_of = 0, 0, -1
    for place in range(1 + me, end, threads):
        limit = max_depth if max_depth < size else size
        limit = limit if limit < place else place
        same = 0
        while same < limit and text[place - 1 - same] == query[size - 1 - same]:
            same += 1
        if same > longest:
            longest, many, place_of = same, 1, place
        elif same == longest and same > 0:
            many += 1
            place_of = place
    best[me], count[me], latest[me] = longest, many, place_of
    cuda.syncthreads()
    if me == 0:
        for other in range(1, threads):
            if best[other] > best[0]:
                best[0], count[0], latest[0] = best[other], count[other], latest[other]
            elif best[other] == best[0]:
                count[0] += count[other]
                if latest[other] > latest[0]:
                    latest[0] = latest[other]
    cuda.syncthreads()


@cuda.jit
def _suffix_match(text, lengths, max_depth, length, count, position):
    shared = cuda.shared.array((3, ROOM), int64)
    b = cuda.blockIdx.x
    row = text[b]
    _find(row, lengths[b], row, lengths[b], max_depth, shared)
    if cuda.threadIdx.x == 0:
        length[b], count[b], position[b] = shared[0, 0], shared[1, 0], shared[2, 0]


@cuda.jit
def _suffix_chain(text, lengths, max_depth, queries, tokens, made):
    shared = cuda.shared.array((3, ROOM), int64)
    b, me, threads = cuda.blockIdx.x, cuda.threadIdx.x, cuda.blockDim.x
    row, query, end, most = text[b], queries[b], lengths[b], tokens.shape[1]
    tail = max_depth if max_depth < end else end
    for i in range(me, tail, threads):
        query[i] = row[end - tail + i]
    cuda.syncthreads()
    _find(row, end, query, tail, max_depth, shared)
    done = 0
    while done < most and shared[0, 0] > 0:
        step, room = most - done, end - shared[2, 0]
        step = step if step < room else room
        for i in range(me, step, threads):
            query[tail + done + i] = row[shared[2, 0] + i]
        cuda.syncthreads()
        done += step
        if done < most:
            _find(row, end, query, tail + done, max_depth, shared)
    for i in range(me, most, threads):
        tokens[b, i] = query[tail + i] if i < done else -1
    if me == 0:
        made[b] = done


@cuda.jit
def _trie_lookup(tokens, parents, counts, query, found):
    b = cuda.grid(1)
    if b >= counts.size:
        return
    node = 0 if counts[b] > 0 else -1
    for i in range(query.shape[1]):
        child = -1
        if node >= 0:
            for other in range(node + 1, counts[b]):
                if parents[b, other] == node and tokens[b, other] == query[b, i]:
                    child = other
                    break
        node = child
        found[b, i] = node


def suffix_match(text: Any, lengths: Any, max_depth: int, length: Any, count: Any, position: Any) -> None:
    """As the door says, into `length`, `count` and `position`."""
    launch_numba(_suffix_match, len(lengths), THREADS, (text, lengths, np.int64(max_depth), length, count, position))


def suffix_chain(text: Any, lengths: Any, max_depth: int, tokens: Any, made: Any) -> None:
    """As the door says, into `tokens` and `made`."""
    room = torch.empty((len(lengths), max_depth + tokens.shape[1]), dtype=torch.int32, device=text.device)
    launch_numba(_suffix_chain, len(lengths), THREADS, (text, lengths, np.int64(max_depth), room, tokens, made))


def trie_lookup(tokens: Any, parents: Any, counts: Any, query: Any, found: Any) -> None:
    """As the door says, into `found`."""
    launch_numba(_trie_lookup, -(-len(counts) // THREADS), THREADS, (tokens, parents, counts, query, found))
