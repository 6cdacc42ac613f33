"""Growing one batch's trees again and again, as a step of a joined policy does after each forward of the draft.

The same as `grow_batch` in one thread, with what does not change between the calls made once: in an engine, where the
target's weights have just passed through the caches, that was most of the time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from reader_theory.errors import require
from runtime.retrieval.bodies import growth as kernel
from runtime.retrieval.index import GrownBatch, RetrievalIndex

__all__ = ["Grow", "growing"]

Grow = Callable[[], GrownBatch]
"""Grows the trees from the laws that there are now; the next call overwrites them."""


def growing(
    indices: Sequence[RetrievalIndex], budgets: NDArray[np.int64], price: float, laws: NDArray[np.int64]
) -> Grow:
    """A call that grows the trees of a batch.

    Parameters
    ----------
    indices : sequence of B RetrievalIndex
        They share one datastore and one evidence.
    budgets : (B,) int64, >= 1
    price : float
        Path probability that a node must pass.
    laws : (B,) int64
        Addresses of each row's laws.
    """
    count, first = len(indices), indices[0]
    require(
        all(index._store is first._store and index._evidence is first._evidence for index in indices),  # pyright: ignore[reportPrivateUsage]
        "`indices` must share one datastore and one evidence",
        got="several",
        fix="Speculate for each group in a call of its own.",
    )
    addresses = np.array([index._index.address for index in indices], np.int64)  # pyright: ignore[reportPrivateUsage]
    shared = first._shared_at  # pyright: ignore[reportPrivateUsage]
    floor = np.full(count, price)
    numbers = np.empty((5, count, int(budgets.max())), np.int32)
    chances, made = np.empty(numbers.shape[1:]), np.empty(count, np.int64)
    tokens, parents, matches, sources, own = numbers
    grown = GrownBatch(tokens, parents, matches, sources, own, chances, made)

    def grow() -> GrownBatch:
        kernel.grow_many(addresses, shared, laws, budgets, floor, numbers, chances, made, 0, count)
        return grown

    return grow
