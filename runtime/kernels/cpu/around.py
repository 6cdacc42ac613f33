"""What stands around a layer's products: residual sums with their norm, biases, turned heads, keys and values, gates.

Sums and rounding are torch's own, in one pass each, in the place of five to ten operators that each start and end.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import carray, njit

from runtime.kernels.cpu.lanes import float32_of, narrowed, same, widened
from runtime.kernels.cpu.powers import LOG2_E, LOW, exp2
from runtime.kernels.cpu.threads import compiled, thread, threads
from runtime.retrieval.bodies.memory import pointer

__all__ = ["share_of_biases", "share_of_entries", "share_of_gates", "share_of_norms", "share_of_turns"]


@njit(inline="always")
def _floats(address, rows, width):
    return carray(pointer(address), (rows, width), np.float32)


@njit(inline="always")
def _halves(address, rows, width):
    return carray(pointer(address), (rows, width), np.uint16)


@njit(inline="always")
def _share(rows):
    own, all_ = thread(), threads()
    return rows * own // all_, rows * (own + 1) // all_


def _kinds(rows_at: Any, value: Any, kept: Any) -> tuple[Any, Any, Any, Any]:
    """All for one type: rows by their address, an entry's value, and an entry that keeps a value."""

    @njit(nogil=True, fastmath={"reassoc", "nsz"})
    def squares(row):
        total = np.float32(0)
        for i in range(row.size):
            total += value(row[i]) * value(row[i])
        return total

    @njit(nogil=True)
    def normed(x, added, weight, total, out, rows, width, eps, apart):
        x, out, total = rows_at(x, rows, width), rows_at(out, rows, apart), rows_at(total, rows, width)
        weight = rows_at(weight, 1, width)[0]
        first, last = _share(rows)
        for row in range(first, last):
            held = x[row]
            if added:
                more, held = rows_at(added, rows, width)[row], total[row]
                for i in range(width):
                    held[i] = kept(value(x[row, i]) + value(more[i]))
            scale = np.float32(1) / np.sqrt(squares(held) / np.float32(width) + eps)
            for i in range(width):
                out[row, i] = kept(value(held[i]) * scale * value(weight[i]))

    @njit(nogil=True)
    def turned(x, turns, rows, width, heads, size):
        x, turns = rows_at(x, rows, width), carray(pointer(turns), (rows, size // 2, 2), np.float32)
        first, last = _share(rows)
        for row in range(first, last):
            for head in range(heads):
                part = x[row, head * size : (head + 1) * size]
                for i in range(size // 2):
                    a, b = value(part[2 * i]), value(part[2 * i + 1])
                    cos, sin = turns[row, i, 0], turns[row, i, 1]
                    part[2 * i], part[2 * i + 1] = kept(a * cos - b * sin), kept(a * sin + b * cos)

    @njit(nogil=True, error_model="numpy")  # a check for division by zero would keep it from vectors
    def gated(x, out, rows, width):
        x, out = rows_at(x, rows, 2 * width), rows_at(out, rows, width)
        first, last = _share(width)
        for row in range(rows):
            gate, up, made = x[row, first:last], x[row, width + first : width + last], out[row, first:last]
            for i in range(last - first):
                held = value(gate[i])
                part = exp2(-abs(held), LOW, LOG2_E) if -abs(held) > LOW else np.float32(0)
                share = (np.float32(1) if held >= 0 else part) / (np.float32(1) + part)
                made[i] = kept(value(kept(held * share)) * value(up[i]))

    @njit(nogil=True)
    def shifted(x, bias, rows, width):
        x, bias = rows_at(x, rows, width), rows_at(bias, 1, width)[0]
        first, last = _share(width)
        for row in range(rows):
            for i in range(first, last):
                x[row, i] = kept(value(x[row, i]) + value(bias[i]))

    return normed, turned, gated, shifted


_normed32, _turned32, _gated32, _shifted32 = _kinds(_floats, same, same)
_normed16, _turned16, _gated16, _shifted16 = _kinds(_halves, widened, narrowed)


@compiled
def share_of_norms(task):
    """Of (bytes of an entry, x, added or 0, weight, total, out, rows, width, bits of eps, entries from one row of out
    to the next).
    """
    eps = float32_of(np.int32(task[8]))
    if task[0] == 4:
        _normed32(task[1], task[2], task[3], task[4], task[5], task[6], task[7], eps, task[9])
    else:
        _normed16(task[1], task[2], task[3], task[4], task[5], task[6], task[7], eps, task[9])


@compiled
def share_of_turns(task):
    """Of (bytes of an entry, x, turns, rows, width, heads that turn, size of a head)."""
    if task[0] == 4:
        _turned32(task[1], task[2], task[3], task[4], task[5], task[6])
    else:
        _turned16(task[1], task[2], task[3], task[4], task[5], task[6])


@compiled
def share_of_gates(task):
    """Of (bytes of an entry, x, out, rows, width): the first half of a row, as a SiLU, times its second half."""
    if task[0] == 4:
        _gated32(task[1], task[2], task[3], task[4])
    else:
        _gated16(task[1], task[2], task[3], task[4])


@compiled
def share_of_biases(task):
    """Of (bytes of an entry, x, bias, rows, width): added to every row."""
    if task[0] == 4:
        _shifted32(task[1], task[2], task[3], task[4])
    else:
        _shifted16(task[1], task[2], task[3], task[4])


@compiled
def share_of_entries(task):
    """Of (bytes of an entry, x, slots, rows, queries, heads, size, bytes between tokens of x, twice (into, bytes
    between its rows, heads and slots), and address of each row's first token in x and of where the last row ends):
    keys, and the values behind them in x, into the slots of a row cache.
    """
    x, slots, rows, queries = task[1], task[2], task[3], task[4]
    heads, size, apart = task[5], task[6] * task[0], task[7]
    first, last = _share(2 * heads)
    places = carray(pointer(slots), (rows, queries), np.int64)
    firsts = carray(pointer(task[16]), (rows + 1,), np.int64)
    for row in range(rows):
        for query in range(firsts[row + 1] - firsts[row]):
            for part in range(first, last):
                told, head = 8 + part // heads * 4, part % heads
                into = task[told] + row * task[told + 1] + head * task[told + 2]
                into += places[row, query] * task[told + 3]
                source = x + (firsts[row] + query) * apart + part * size
                written = carray(pointer(into), (size // 4,), np.int32)
                read = carray(pointer(source), (size // 4,), np.int32)
                for i in range(size // 4):
                    written[i] = read[i]
