"""GPU twin: tree mask and positions, one block a query."""

from __future__ import annotations

from typing import Any

import numpy as np

from runtime.kernels.gpu import _launch

__all__ = ["fill_tree_inputs"]


def fill_tree_inputs(
    mask: Any, positions: Any, parents: Any, counts: Any, lengths: Any, scratch: Any, hidden: int
) -> None:
    """As the door says; `hidden` holds the bits of a float of the mask's width."""
    batch, queries, width = mask.shape
    sizes = (np.uint64(hidden), np.int32(queries), width, parents.shape[1])
    arguments = (mask, positions, parents, counts, lengths, scratch, *sizes)
    _launch.launch("tree_inputs", f"fill_tree_inputs_{mask.element_size()}", (queries, batch), arguments)
