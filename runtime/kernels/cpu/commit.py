"""CPU twin: accepted entries move by words, layer by layer, through a table of addresses."""

from __future__ import annotations

from numba import njit

from runtime.kernels.cpu.suffix.memory import int32_at, int64_at, prefetch

__all__ = ["commit"]

LINE = 64
"""Bytes of a cache line."""
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


@njit(cache=True, nogil=True)
def commit(table, rows, heads, slots, entry_bytes, first_row, lengths, path, kept):
    """-1, or the first bad row, and then nothing has moved."""
    bad = first_bad(slots, lengths, path, kept)
    if bad >= 0:
        return bad
    words, step = entry_bytes // 8, slots * entry_bytes
    for store in range(table.size):
        for b in range(kept.size):
            for head in range(heads):
                base = ((first_row + b) * heads + head) * slots + lengths[b]
                for i in range(kept[b]):
                    node = path[b, i]
                    if node == i:
                        continue
                    source, target = table[store] + (base + node) * entry_bytes, table[store] + (base + i) * entry_bytes
                    for line in range(0, entry_bytes, LINE):
                        prefetch(source + AHEAD * step + line)
                        prefetch(target + AHEAD * step + line)
                    if 8 * words == entry_bytes:
                        int64_at(target, words)[:] = int64_at(source, words)
                    else:
                        int32_at(target, entry_bytes // 4)[:] = int32_at(source, entry_bytes // 4)
    for b in range(kept.size):
        lengths[b] += kept[b]
    return -1
