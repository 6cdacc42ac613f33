"""CPU twin: accepted entries move by words, layer by layer, through a table of addresses."""

from __future__ import annotations

from numba import njit

from runtime.kernels.cpu.lanes import LINE, ask_for, copy_line
from runtime.retrieval.bodies.memory import int32_at

__all__ = ["commit"]

AHEAD = 2
"""Heads ahead whose entries are asked for: they lie too far apart for the processor to guess."""


@njit(cache=True, nogil=True)
def first_bad(slots, lengths, path, kept):
    """-1, or the first row whose path leaves the pool or does not increase."""
    for b in range(kept.size):
        if kept[b] < 0 or kept[b] > path.shape[1] or lengths[b] < 0:
            return b
        for i in range(kept[b]):
            above = path[b, i - 1] if i else -1
            if path[b, i] <= above or lengths[b] + path[b, i] >= slots:
                return b
    return -1


@njit(inline="always")
def copy_entry(target, source, size):
    """Copy an entry by lines, and what is left of it by words."""
    whole = size // LINE * LINE
    for line in range(0, whole, LINE):
        copy_line(target + line, source + line)
    if size > whole:
        words = (size - whole) // 4
        int32_at(target + whole, words)[:] = int32_at(source + whole, words)


@njit(cache=True, nogil=True)
def commit(table, rows, heads, slots, entry_bytes, first_row, lengths, path, kept):
    """-1, or the first bad row, and then nothing has moved."""
    bad = first_bad(slots, lengths, path, kept)
    if bad >= 0:
        return bad
    step = slots * entry_bytes
    for store in range(table.size):
        for b in range(kept.size):
            first = table[store] + ((first_row + b) * heads * slots + lengths[b]) * entry_bytes
            for head in range(heads):
                base = first + head * step
                for i in range(kept[b]):
                    node = path[b, i]
                    if node == i:
                        continue
                    source, target = base + node * entry_bytes, base + i * entry_bytes
                    ask_for(source + AHEAD * step, entry_bytes)
                    ask_for(target + AHEAD * step, entry_bytes)
                    copy_entry(target, source, entry_bytes)
    for b in range(kept.size):
        lengths[b] += kept[b]
    return -1
