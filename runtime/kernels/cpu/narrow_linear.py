"""Product of float32 rows with bfloat16 weights, on processors that have no bfloat16 units.

Weights are read once, at two bytes each, and widened in registers (a shift); sums run in float32. Up to eight rows cost
little more than one, because the weights' bytes are what takes time; the libraries at hand either widen to float32 in
memory, twice the bytes, or multiply row by row.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, prange, types, uint32
from numba.extending import intrinsic
from numpy.typing import NDArray

__all__ = ["narrow_product"]


@intrinsic
def _as_float(typingctx: Any, bits: Any) -> Any:
    """The float32 that these 32 bits are."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.uint32), generate


@njit(parallel=True, fastmath=True, cache=True)
def _one(weight: NDArray[np.uint16], x: NDArray[np.float32], out: NDArray[np.float32]) -> None:
    for n in prange(weight.shape[0]):
        a = np.float32(0)
        for k in range(weight.shape[1]):
            a += _as_float(uint32(weight[n, k]) << uint32(16)) * x[0, k]
        out[0, n] = a


@njit(parallel=True, fastmath=True, cache=True)
def _by_four(weight: NDArray[np.uint16], x: NDArray[np.float32], out: NDArray[np.float32]) -> None:
    """Two rows of weights by four of `x` at a time: eight sums share six loads."""
    for half in prange(weight.shape[0] // 2):
        n = 2 * half
        for g in range(0, x.shape[0], 4):
            a = b = c = d = e = f = h = i = np.float32(0)
            for k in range(weight.shape[1]):
                v = _as_float(uint32(weight[n, k]) << uint32(16))
                w = _as_float(uint32(weight[n + 1, k]) << uint32(16))
                a += v * x[g, k]
                b += v * x[g + 1, k]
                c += v * x[g + 2, k]
                d += v * x[g + 3, k]
                e += w * x[g, k]
                f += w * x[g + 1, k]
                h += w * x[g + 2, k]
                i += w * x[g + 3, k]
            out[g, n], out[g + 1, n], out[g + 2, n], out[g + 3, n] = a, b, c, d
            out[g, n + 1], out[g + 1, n + 1], out[g + 2, n + 1], out[g + 3, n + 1] = e, f, h, i


def narrow_product(weight: NDArray[np.uint16], x: NDArray[np.float32]) -> NDArray[np.float32]:
    """``x @ weight.T`` with the bits of bfloat16 weights.

    Parameters
    ----------
    weight : (n, k) uint16, C-contiguous
        Bits of bfloat16 numbers.
    x : (m, k) float32, C-contiguous

    Returns
    -------
    (m, n) float32
    """
    rows = x.shape[0]
    if rows == 1:
        out = np.empty((1, weight.shape[0]), dtype=np.float32)
        _one(weight, x, out)
        return out
    padded = -rows % 4
    if padded:
        x = np.concatenate([x, np.zeros((padded, x.shape[1]), dtype=np.float32)])
    out = np.empty((len(x), weight.shape[0]), dtype=np.float32)
    _by_four(weight, x, out)
    return out[:rows]
