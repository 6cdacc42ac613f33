"""Water level: one threshold of path probability for the trees of a whole batch, so that its nodes go where they pay.

Prefer it to a budget a row where rows differ: one that copies takes the nodes that others do not use. Trees are grown
best first, so that a threshold keeps the first nodes of each; `optimizer.solvers.allocation` is the same in theory.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["kept_sizes", "level_sizes"]


def kept_sizes(
    chances: NDArray[np.float64], sizes: NDArray[np.int64], most: NDArray[np.int64], share: float | None
) -> NDArray[np.int64]:
    """(B,) nodes that rows keep of grown trees: none where `most` (B,) is 0, and `share` a row in the mean."""
    held = np.where(most > 0, sizes, 0)
    return held if share is None else level_sizes(chances, held, int(share * int((most > 0).sum())))


def level_sizes(chances: NDArray[np.float64], sizes: NDArray[np.int64], total: int) -> NDArray[np.int64]:
    """How many nodes each row keeps, when the batch keeps the `total` likeliest.

    Parameters
    ----------
    chances : (B, M) float64
        Path probabilities in the order that the nodes were taken, which falls along each row.
    sizes : (B,) int64
        Nodes of each row; what lies behind them is not read.
    total : int, >= 0

    Returns
    -------
    (B,) int64
        At most `sizes`; of equal nodes those of earlier rows are kept.

    Examples
    --------
    >>> level_sizes(np.array([[0.9, 0.8], [0.5, 0.1]]), np.array([2, 2]), 3).tolist()
    [2, 1]
    """
    held = np.arange(chances.shape[1]) < sizes[:, None]
    if int(sizes.sum()) <= total:
        return sizes
    falling = np.where(held, np.minimum.accumulate(np.where(held, chances, 0.0), axis=1), -1.0)
    order = np.argsort(-falling.ravel(), kind="stable")[:total]
    return np.bincount(order // chances.shape[1], minlength=len(sizes)).astype(np.int64)
