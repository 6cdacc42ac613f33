"""CPU twins: codes to numbers, in one pass over the records; and pairs to codes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import carray, njit

from runtime.kernels.cpu.lanes import bits32, same
from runtime.kernels.cpu.threads import compiled, thread, threads
from runtime.retrieval.bodies.memory import pointer

__all__ = ["grid_numbers", "integer_numbers", "nearest_points", "share_of_grid", "share_of_integers"]

TOKENS = 16
"""Tokens that are turned side by side: one vector of numbers each."""


@njit(inline="always")
def code_at(record, start, place, bits):
    """Code `place` of a token whose codes begin at byte `start`, low bits first; at most 8 bits."""
    low = place * bits
    byte, shift = start + low // 8, low % 8
    word = np.uint32(record[byte])
    if shift + bits > 8:
        word |= np.uint32(record[byte + 1]) << np.uint32(8)
    return (word >> np.uint32(shift)) & np.uint32((1 << bits) - 1)


@njit(inline="always")
def read_codes(record, start, bits, codes):
    """All codes of a token whose codes begin at byte `start`: whole bytes at once where codes fill them evenly."""
    count, done = codes.size, 0
    if bits == 8:
        done = count
        for i in range(count):
            codes[i] = record[start + i]
    elif bits == 4:
        done = count // 2 * 2
        for i in range(count // 2):
            byte = record[start + i]
            codes[2 * i], codes[2 * i + 1] = byte & 15, byte >> 4
    elif bits == 2:
        done = count // 4 * 4
        for i in range(count // 4):
            byte = record[start + i]
            codes[4 * i], codes[4 * i + 1] = byte & 3, (byte >> 2) & 3
            codes[4 * i + 2], codes[4 * i + 3] = (byte >> 4) & 3, byte >> 6
    elif bits == 6:
        done = count // 4 * 4
        for i in range(count // 4):
            a, b, c = record[start + 3 * i], record[start + 3 * i + 1], record[start + 3 * i + 2]
            codes[4 * i], codes[4 * i + 1] = a & 63, (a >> 6) | ((b & 15) << 2)
            codes[4 * i + 2], codes[4 * i + 3] = (b >> 4) | ((c & 3) << 4), c >> 2
    for i in range(done, count):
        codes[i] = code_at(record, start, i, bits)


@njit(cache=True, nogil=True)
def integer_numbers(records, scales, chunk, bits, out):
    """As the door says; `scales` are (n, 2, channels), steps and least numbers."""
    channels = out.shape[1]
    code_bytes, codes = (channels * bits + 7) // 8, np.empty(channels, np.uint8)
    for n in range(records.shape[0]):
        record, step, least = records[n], scales[n, 0], scales[n, 1]
        for t in range(chunk):
            row, start = out[n * chunk + t], t * code_bytes
            if bits == 8:
                for c in range(channels):
                    row[c] = np.float32(record[start + c]) * step[c] + least[c]
            else:
                read_codes(record, start, bits, codes)
                for c in range(channels):
                    row[c] = np.float32(codes[c]) * step[c] + least[c]


@njit(inline="always")
def _nearest16(x):
    """The bits of the bfloat16 nearest to a finite float32, ties to even."""
    bits = np.uint32(bits32(x))
    return np.uint16((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16))


def _entries_of(kind: Any, entry: int, kept: Any) -> Any:
    """`share_of_integers` for numbers of one type: its bytes, and what makes one of a float32."""

    @njit(nogil=True)
    def write(task, first, last):
        records, scales, out, record_bytes = task[1], task[2], task[3], task[5]
        chunk, heads, size, bits, apart = task[6], task[7], task[8], task[9], task[10]
        code_bytes = (heads * size * bits + 7) // 8
        for n in range(first, last):
            for head in range(heads):
                told = scales + 4 * size * (2 * heads * n + head)
                step = carray(pointer(told), (size,), np.float32)
                least = carray(pointer(told + 4 * size * heads), (size,), np.float32)
                for t in range(chunk):
                    at = records + n * record_bytes + t * code_bytes
                    row = carray(pointer(out + head * apart + (n * chunk + t) * size * entry), (size,), kind)
                    if bits == 8:
                        codes = carray(pointer(at + head * size), (size,), np.uint8)
                        for c in range(size):
                            row[c] = kept(np.float32(codes[c]) * step[c] + least[c])
                    elif bits == 4 and size % 2 == 0:
                        codes = carray(pointer(at + head * size // 2), (size // 2,), np.uint8)
                        for i in range(size // 2):
                            low, high = np.float32(codes[i] & 15), np.float32(codes[i] >> 4)
                            row[2 * i] = kept(low * step[2 * i] + least[2 * i])
                            row[2 * i + 1] = kept(high * step[2 * i + 1] + least[2 * i + 1])
                    else:
                        codes = carray(pointer(at), (code_bytes,), np.uint8)
                        for c in range(size):
                            code = code_at(codes, 0, head * size + c, bits)
                            row[c] = kept(np.float32(code) * step[c] + least[c])

    return write


_entries32 = _entries_of(np.float32, 4, same)
_entries16 = _entries_of(np.uint16, 2, _nearest16)


@compiled
def share_of_integers(task):
    """A thread's part of (bytes of an entry, records, float32 steps and least numbers of each, out, records, bytes of a
    record, tokens of a record, heads, entries of a head, bits of a code, bytes from one head of out to the next).
    """
    own, all_ = thread(), threads()
    first, last = task[4] * own // all_, task[4] * (own + 1) // all_
    if task[0] == 4:
        _entries32(task, first, last)
    else:
        _entries16(task, first, last)


@njit(cache=True, nogil=True)
def turn_back(x, base, held):
    """Multiply (order, TOKENS) `x` by the transpose of ``base (x) sylvester``, in place, tokens side by side."""
    m, order = base.shape[0], x.shape[0]
    inner, half = order // m, 1
    while half < inner:
        for first in range(0, order, 2 * half):
            for i in range(first, first + half):
                for t in range(TOKENS):
                    a, b = x[i, t], x[i + half, t]
                    x[i, t], x[i + half, t] = a + b, a - b
        half *= 2
    if m > 1:
        held[:order] = x
        for a in range(m):
            for i in range(inner):
                row = x[a * inner + i]
                row[:] = 0
                for b in range(m):
                    sign, other = base[b, a], held[b * inner + i]
                    for t in range(TOKENS):
                        row[t] += sign * other[t]


@njit(cache=True, nogil=True)
def grid_numbers(records, scales, chunk, bits, grid, base, order, out, begin, end):
    """Numbers of records `begin` to `end`, as the door says; `scales` are (n, chunk, groups)."""
    channels = out.shape[1]
    code_bytes, groups = (channels // 2 * bits + 7) // 8, channels // order
    codes, norm = np.empty(channels // 2, np.uint8), np.float32(1 / np.sqrt(order))
    x, held = np.zeros((channels, TOKENS), np.float32), np.empty((order, TOKENS), np.float32)
    for n in range(begin, end):
        for first in range(0, chunk, TOKENS):
            tokens = min(TOKENS, chunk - first)
            for t in range(tokens):
                read_codes(records[n], (first + t) * code_bytes, bits, codes)
                for pair in range(channels // 2):
                    x[2 * pair, t], x[2 * pair + 1, t] = grid[codes[pair], 0], grid[codes[pair], 1]
            for g in range(groups):
                turn_back(x[g * order : (g + 1) * order], base, held)
            for t in range(tokens):
                row = out[n * chunk + first + t]
                for g in range(groups):
                    scale = scales[n, first + t, g] * norm
                    for c in range(g * order, (g + 1) * order):
                        row[c] = x[c, t] * scale


@compiled
def share_of_grid(task):
    """A thread's part of (records, scales of each token and group, grid, base, out, records, bytes of a record, tokens
    of a record, bits of a code, rows of the base, numbers of a group, numbers of a token).
    """
    n, record_bytes, chunk, bits = task[5], task[6], task[7], task[8]
    m, order, channels = task[9], task[10], task[11]
    records = carray(pointer(task[0]), (n, record_bytes), np.uint8)
    scales = carray(pointer(task[1]), (n, chunk, channels // order), np.float32)
    grid = carray(pointer(task[2]), (1 << bits, 2), np.float32)
    base = carray(pointer(task[3]), (m, m), np.float32)
    out = carray(pointer(task[4]), (n * chunk, channels), np.float32)
    own, all_ = thread(), threads()
    grid_numbers(records, scales, chunk, bits, grid, base, order, out, n * own // all_, n * (own + 1) // all_)


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
