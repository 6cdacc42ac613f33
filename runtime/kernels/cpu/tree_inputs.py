"""CPU twin: tree mask and positions in one pass over the mask."""

from __future__ import annotations

from numba import njit

__all__ = ["fill_step", "fill_tree_inputs"]


@njit(cache=True, nogil=True)
def fill_rows(mask, width, positions, parents, counts, lengths, scratch, hidden):
    """`fill_tree_inputs` for the first `width` slots of a mask that may have more."""
    batch, queries, _ = mask.shape
    for b in range(batch):
        base, first, count = lengths[b], scratch[b], counts[b]
        room = count <= queries and first + count <= parents.shape[1] and base + first + count <= width
        if not room or min(base, first, count) < 0:
            return -1 - b
        for i in range(queries):
            row = mask[b, i][:width]
            node = first + i
            if i >= count:
                row[:] = hidden
                row[min(base + node, width - 1)] = 0
                positions[b, i] = base
                continue
            row[:base] = 0
            row[base:] = hidden
            depth = 0
            while node >= 0:
                row[base + node] = 0
                if parents[b, node] >= node:
                    return -1 - b
                node = parents[b, node]
                depth += 1
            positions[b, i] = base + depth - 1
    return 0


@njit(cache=True, nogil=True)
def fill_tree_inputs(mask, positions, parents, counts, lengths, scratch, hidden):
    """0, or ``-1 - row`` of a row that does not fit or is no tree; `mask` and `hidden` are bits of a float."""
    return fill_rows(mask, mask.shape[2], positions, parents, counts, lengths, scratch, hidden)


@njit(cache=True, nogil=True)
def fill_step(tokens, slots, asked, mask, width, positions, parents, counts, lengths, scratch, hidden):
    """`fill_rows`; and `asked`, which goes into `tokens`, and its cache slots."""
    batch, queries, _ = mask.shape
    for b in range(batch):
        for i in range(queries):
            tokens[b, i] = asked[b, i]
            slots[b, i] = lengths[b] + scratch[b] + i
    return fill_rows(mask, width, positions, parents, counts, lengths, scratch, hidden)
