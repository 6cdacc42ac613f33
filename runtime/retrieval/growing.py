"""Growing the trees of a batch, once or again and again, as a step of a grown policy does after each forward.

What does not change between the calls is made once: in an engine, where the target's weights have just passed through
the caches, that was most of the time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from runtime.retrieval.bodies import growth as kernel
from runtime.retrieval.index import GrowthArrays, RetrievalIndex, check_limits

__all__ = ["Grow", "growing"]

Grow = Callable[[], GrowthArrays]
"""Grows the trees from the laws that there are now; the next call overwrites them."""


def growing(
    indices: Sequence[RetrievalIndex],
    budgets: ArrayLike,
    prices: ArrayLike = 0.0,
    laws: NDArray[np.int64] | None = None,
    *,
    single: bool = False,
    threads: int = 1,
) -> Grow:
    """A call that grows the trees of a batch.

    Parameters
    ----------
    indices : sequence of B >= 1 RetrievalIndex
        Of one datastore or of several.
    budgets : (B,) or scalar int, >= 1
        Largest number of nodes, by request.
    prices : (B,) or scalar float, >= 0
        Path probability that a node must pass, by request.
    laws : (B,) int64, optional
        Addresses of each row's laws of a neural draft (`NeuralLaws.addresses`), 0 for none.
    single : bool
        Only the likeliest token of every node is followed: the trees are chains.
    threads : int
        The batch is cut in this many parts, one compiled call each, none of which holds the GIL.
    """
    count = len(indices)
    most, floor = np.full(count, budgets, np.int64), np.full(count, prices, np.float64)
    check_limits(int(most.min()), float(floor.min()))
    own, shared = np.array([index.addresses for index in indices], np.int64).T.copy()
    beside = np.zeros(count, np.int64) if laws is None else laws
    numbers = np.empty((5, count, int(most.max())), np.int32)
    chances, made = np.empty(numbers.shape[1:]), np.empty(count, np.int64)
    tokens, parents, matches, sources, law = numbers
    grown, locks = GrowthArrays(tokens, parents, matches, sources, law, chances, made), _holding(indices)

    def part(low: int, high: int) -> None:
        kernel.grow_many(own, shared, beside, most, floor, single, numbers, chances, made, low, high)

    first, *others = pairwise(np.linspace(0, count, min(max(threads, 1), count) + 1).astype(int).tolist())

    alive = tuple(indices)  # what the addresses point into

    def grow(_held: tuple[RetrievalIndex, ...] = alive) -> GrowthArrays:
        with locks:
            waiting = [_pool(len(others)).submit(part, *cut) for cut in others]
            part(*first)
            for task in waiting:
                task.result()
        return grown

    return grow


def _holding(indices: Sequence[RetrievalIndex]) -> AbstractContextManager[object]:
    """To hold the locks of all datastores that `indices` draft from; may be entered again and again."""
    locks = {id(index.lock): index.lock for index in indices}
    return indices[0].lock if len(locks) == 1 else _Locks([lock for _, lock in sorted(locks.items())])


class _Locks:
    """Several locks as one, which every thread takes in the same order."""

    def __init__(self, locks: Sequence[AbstractContextManager[object]]) -> None:
        self._locks = locks

    def __enter__(self) -> None:
        for lock in self._locks:
            lock.__enter__()

    def __exit__(self, *error: Any) -> None:
        for lock in reversed(self._locks):
            lock.__exit__(*error)


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="retrieval")
