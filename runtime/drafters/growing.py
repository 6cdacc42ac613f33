"""Growing one batch's trees again and again, as a step of a grown policy does after each forward of the draft.

The same as `grow_batch` in one thread, with what does not change between the calls made once: in an engine, where the
target's weights have just passed through the caches, that was most of the time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from runtime.retrieval.bodies import growth as kernel
from runtime.retrieval.index import GrownBatch, RetrievalIndex, holding

__all__ = ["Grow", "growing"]

Grow = Callable[[], GrownBatch]
"""Grows the trees from the laws that there are now; the next call overwrites them."""


def growing(
    indices: Sequence[RetrievalIndex],
    budgets: NDArray[np.int64],
    price: float,
    laws: NDArray[np.int64],
    *,
    single: bool = False,
) -> Grow:
    """A call that grows the trees of a batch.

    Parameters
    ----------
    indices : sequence of B RetrievalIndex
        Of one datastore or of several.
    budgets : (B,) int64, >= 1
    price : float
        Path probability that a node must pass.
    laws : (B,) int64
        Addresses of each row's laws.
    single : bool
        Only the likeliest token of every node is followed: the trees are chains.
    """
    count = len(indices)
    own, shared = np.array([index.addresses for index in indices], np.int64).T.copy()
    floor = np.full(count, price)
    numbers = np.empty((5, count, int(budgets.max())), np.int32)
    chances, made = np.empty(numbers.shape[1:]), np.empty(count, np.int64)
    tokens, parents, matches, sources, law = numbers
    grown, locks = GrownBatch(tokens, parents, matches, sources, law, chances, made), holding(indices)

    def grow() -> GrownBatch:
        with locks:
            kernel.grow_many(own, shared, laws, budgets, floor, single, numbers, chances, made, 0, count)
        return grown

    return grow
