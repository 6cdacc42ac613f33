"""CPU twin: zero times a number is zero, which one quick pass sums; a closer look only where that sum is no number."""

from __future__ import annotations

import numpy as np
from numba import njit

from runtime.kernels.cpu.lanes import floats

__all__ = ["unsound"]

BLOCK = 1024


@njit(cache=True, nogil=True, fastmath={"reassoc"})
def all_finite(block):
    """Whether a block of floats holds numbers only."""
    total = block[0] * block.dtype.type(0)
    for i in range(block.size):
        total += block[i] * block.dtype.type(0)
    return total == 0


@njit(cache=True, nogil=True)
def is_law(row, room):
    """Whether a softmax of these logits is a law: none is NaN or plus infinity, one is above minus infinity."""
    low, finite = 0, True
    while finite and low < row.size:
        finite = all_finite(floats(row[low : low + BLOCK], room))
        low += BLOCK
    if finite:
        return True
    top = -np.inf
    for start in range(0, row.size, BLOCK):
        for value in floats(row[start : start + BLOCK], room):
            if not value < np.inf:
                return False
            top = max(top, value)
    return top > -np.inf


@njit(cache=True, nogil=True)
def unsound(logits, path, kept, found):
    """How many rows are; `found` says which."""
    room, total = np.empty(BLOCK, np.float32), 0
    for b in range(kept.size):
        found[b] = False
        for j in range(kept[b]):
            if not is_law(logits[b, path[b, j]], room):
                found[b] = True
        total += found[b]
    return total
