"""Door: tree mask and positions of a batch of draft trees, written in place."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch

from reader_theory.errors import NotATreeError, require
from runtime.kernels._door import BITS, Array, Sizes, host, on_gpu
from runtime.kernels.cpu import tree_inputs as cpu

__all__ = ["TreeInputs", "fill_tree_inputs"]


def fill_tree_inputs(
    mask: Array,
    positions: Array,
    parents: Array,
    counts: Array,
    lengths: Array,
    scratch: Array,
    hidden: float,
) -> None:
    """Write what each node sees: the committed tokens, its ancestors and itself.

    Parameters
    ----------
    mask : (B, Q, W) float32, float64, bfloat16 or float16, written
        0 where the node sees the slot, `hidden` where not.
    positions : (B, Q) int64, written
        Position of each node: committed tokens plus its depth. Padding nodes get the row's first.
    parents : (B, P) int64, below their node
        Parent of each node among the row's nodes, -1 for none; a node's entry lies at slot ``lengths[b] + node``.
    counts : (B,) int64
        Nodes of each row that stand in this forward; the others up to Q are padding and see only themselves.
    lengths : (B,) int64
        Committed tokens of each row.
    scratch : (B,) int64
        Nodes of each row that earlier forwards wrote: query i of the forward is node ``scratch[b] + i``.
    hidden : float
        What hides a slot.

    Raises
    ------
    InvalidInputError
        On a wrong shape, dtype or layout, and on the CPU when a row does not fit into the mask.
    NotATreeError
        On the CPU, when a parent does not come before its node. The GPU twin stops at such a node.
    """
    sizes = Sizes()
    sizes.take("mask", mask, ("B", "Q", "W"), ("float32", "float64", "bfloat16", "float16"))
    sizes.take("positions", positions, ("B", "Q"))
    sizes.take("parents", parents, ("B", "P"))
    for name, x in (("counts", counts), ("lengths", lengths), ("scratch", scratch)):
        sizes.take(name, x, ("B",))
    bits = _bits(float(hidden), mask.dtype)
    if on_gpu(mask, positions, parents, counts, lengths, scratch):
        from runtime.kernels.gpu import tree_inputs as gpu

        gpu.fill_tree_inputs(mask, positions, parents, counts, lengths, scratch, bits)
        return
    words = host(mask)
    done = cpu.fill_tree_inputs(
        words.view(BITS[words.itemsize]),
        host(positions),
        host(parents),
        host(counts),
        host(lengths),
        host(scratch),
        np.dtype(BITS[words.itemsize]).type(bits),
    )
    if done < 0:
        _refuse(-1 - done, sizes, counts, lengths, scratch)


class TreeInputs:
    """What a forward of one shape takes in, on the CPU: buffers that are filled anew, all in one compiled call.

    To check the shapes and dtypes of a step's arguments takes longer than to fill a small mask; here the buffers are
    right from the start.

    Parameters
    ----------
    batch, queries, room : int
        Rows, nodes and most slots.

    Attributes
    ----------
    tokens, positions, slots : (B, Q) int64 tensors
        Tokens of the nodes, their positions, and the cache slots that they take.
    """

    def __init__(self, batch: int, queries: int, room: int, dtype: torch.dtype, hidden: float) -> None:
        self.tokens, self.positions, self.slots = torch.zeros((3, batch, queries), dtype=torch.int64)
        self.room, self._hidden = room, hidden
        self._mask = self._seen = torch.zeros((batch, 1, queries, room), dtype=dtype)
        words = host(self._mask.view(batch, queries, room))
        kind = np.dtype(BITS[words.itemsize])
        self._arrays = self.tokens.numpy(), self.slots.numpy(), words.view(kind), self.positions.numpy()
        self._bits = kind.type(_bits(hidden, dtype))

    def fill(self, width: int, tokens: Any, parents: Any, counts: Any, lengths: Any, scratch: Any) -> torch.Tensor:
        """Write them all; the mask, (B, 1, Q, width), a view that lasts until the next call.

        Arguments are int64 arrays as `fill_tree_inputs` asks for, and `tokens` (B, Q); so are the errors.
        """
        own, slots, words, positions = self._arrays
        tree = parents, counts, lengths, scratch
        if self._seen.shape[-1] != width:
            self._seen = self._mask[..., :width]
        if cpu.fill_step(own, slots, tokens, words, width, positions, *tree, self._bits) < 0:
            fill_tree_inputs(self._seen.squeeze(1).contiguous(), self.positions, *tree, self._hidden)
        return self._seen


@lru_cache
def _bits(hidden: float, dtype: Any) -> int:
    """The bits of `hidden` in a dtype."""
    if isinstance(dtype, torch.dtype):
        word = torch.tensor([hidden], dtype=dtype).view(torch.uint8).numpy()
    else:
        word = np.array([hidden], dtype=dtype)
    return int(word.view(BITS[word.nbytes])[0])


def _refuse(row: int, sizes: Sizes, counts: Array, lengths: Array, scratch: Array) -> None:
    count, length, written = (int(x[row]) for x in (counts, lengths, scratch))
    fits = 0 <= count <= sizes["Q"] and 0 <= written <= sizes["P"] - count and length + written + count <= sizes["W"]
    require(
        fits and length >= 0,
        f"row {row} must fit: counts <= {sizes['Q']}, scratch + counts <= {sizes['P']} and, with lengths, <= "
        f"{sizes['W']}",
        got=f"counts {count}, scratch {written}, lengths {length}",
        fix="Cut the tree, or aim the forward at a wider mask.",
    )
    raise NotATreeError(
        "`parents` must come before their nodes", got=f"row {row} breaks this", fix="Order nodes by depth, -1 for none."
    )
