"""Tree mask and positions of a batch of draft trees, written in place by one compiled pass."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

__all__ = ["fill_tree_inputs"]


@njit(cache=True, nogil=True)
def fill_tree_inputs(
    mask: NDArray[np.float32],
    positions: NDArray[np.int64],
    parents: NDArray[np.int64],
    counts: NDArray[np.int64],
    lengths: NDArray[np.int64],
    scratch: NDArray[np.int64],
    hidden: Any,
) -> None:
    """Write what each node sees: the committed tokens, its ancestors and itself.

    Parameters
    ----------
    mask : (B, Q, W) float32, written
        0 where the node sees the slot, `hidden` where not.
    positions : (B, Q) int64, written
        Position of each node: committed tokens plus its depth. Padding nodes get the row's first.
    parents : (B, P) int64
        Parent of each node among the row's nodes, -1 for none; a node's entry lies at slot ``lengths[b] + node``.
    counts : (B,) int64
        Nodes of each row that stand in this forward; the others up to Q are padding and see only themselves.
    lengths : (B,) int64
        Committed tokens of each row.
    scratch : (B,) int64
        Nodes of each row that earlier forwards wrote: query i of the forward is node ``scratch[b] + i``.
    hidden : float
        What hides a slot.
    """
    batch, queries, width = mask.shape
    for b in range(batch):
        base = lengths[b]
        for i in range(queries):
            mask[b, i, :] = hidden
            node = scratch[b] + i
            if i >= counts[b]:
                mask[b, i, min(base + node, width - 1)] = 0.0
                positions[b, i] = base
                continue
            mask[b, i, :base] = 0.0
            depth = 0
            ancestor = node
            while ancestor >= 0:
                mask[b, i, base + ancestor] = 0.0
                ancestor = parents[b, ancestor]
                depth += 1
            positions[b, i] = base + depth - 1
