"""CPU twins: codes to numbers, token by token, in one pass over the records; and pairs to codes."""

from __future__ import annotations

import numpy as np
from numba import njit

__all__ = ["grid_numbers", "integer_numbers", "nearest_points"]


@njit(inline="always")
def code_at(record, start, place, bits):
    """Code `place` of a token whose codes begin at byte `start`, low bits first; at most 8 bits."""
    low = place * bits
    byte, shift = start + low // 8, low % 8
    word = np.uint32(record[byte])
    if shift + bits > 8:
        word |= np.uint32(record[byte + 1]) << np.uint32(8)
    return (word >> np.uint32(shift)) & np.uint32((1 << bits) - 1)


@njit(cache=True, nogil=True)
def integer_numbers(records, scales, chunk, bits, out):
    """As the door says; `scales` are (n, 2, channels), steps and least numbers."""
    channels = out.shape[1]
    code_bytes = (channels * bits + 7) // 8
    for n in range(records.shape[0]):
        record, step, least = records[n], scales[n, 0], scales[n, 1]
        for t in range(chunk):
            row, start = out[n * chunk + t], t * code_bytes
            if bits == 8:
                for c in range(channels):
                    row[c] = np.float32(record[start + c]) * step[c] + least[c]
            else:
                for c in range(channels):
                    row[c] = np.float32(code_at(record, start, c, bits)) * step[c] + least[c]


@njit(cache=True, nogil=True)
def turn_back(x, base, held):
    """Multiply (order,) `x` by the transpose of ``base (x) sylvester / sqrt(order)``, in place."""
    m, order = base.shape[0], x.size
    inner, half = order // m, 1
    while half < inner:
        for first in range(0, order, 2 * half):
            for i in range(first, first + half):
                a, b = x[i], x[i + half]
                x[i], x[i + half] = a + b, a - b
        half *= 2
    if m > 1:
        held[:order] = x
        for a in range(m):
            row = x[a * inner : (a + 1) * inner]
            row[:] = 0
            for b in range(m):
                sign = base[b, a]
                for i in range(inner):
                    row[i] += sign * held[b * inner + i]


@njit(cache=True, nogil=True)
def grid_numbers(records, scales, chunk, bits, grid, base, order, out):
    """As the door says; `scales` are (n, chunk, groups)."""
    channels = out.shape[1]
    code_bytes, groups = (channels // 2 * bits + 7) // 8, channels // order
    held, norm = np.empty(order, np.float32), np.float32(1 / np.sqrt(order))
    for n in range(records.shape[0]):
        record = records[n]
        for t in range(chunk):
            row, start = out[n * chunk + t], t * code_bytes
            for pair in range(channels // 2):
                point = grid[code_at(record, start, pair, bits)]
                row[2 * pair], row[2 * pair + 1] = point[0], point[1]
            for g in range(groups):
                part = row[g * order : (g + 1) * order]
                turn_back(part, base, held)
                scale = scales[n, t, g] * norm
                for i in range(order):
                    part[i] *= scale


@njit(cache=True, nogil=True)
def nearest_points(pairs, grid, codes):
    """Write the place of the point of `grid` that is nearest to each of (n, 2) float32 `pairs`, into (n,) uint8.

    The nearest point has the largest <point, pair> - |point|^2 / 2.
    """
    half = np.empty(grid.shape[0], np.float32)
    for p in range(grid.shape[0]):
        half[p] = (grid[p, 0] * grid[p, 0] + grid[p, 1] * grid[p, 1]) / np.float32(2)
    for i in range(pairs.shape[0]):
        x, y = pairs[i, 0], pairs[i, 1]
        best, place = grid[0, 0] * x + grid[0, 1] * y - half[0], 0
        for p in range(1, grid.shape[0]):
            near = grid[p, 0] * x + grid[p, 1] * y - half[p]
            if near > best:
                best, place = near, p
        codes[i] = place
