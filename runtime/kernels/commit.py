"""Door: move the accepted KV entries of all layers and rows in one call, and count them in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
import torch

from reader_theory.errors import InvalidInputError, require
from runtime.kernels._door import Array, Sizes, host, on_gpu
from runtime.kernels.cpu import commit as cpu

__all__ = ["KVPool", "commit"]


@dataclass(frozen=True)
class KVPool:
    """Keys and values of all layers, checked once, with their addresses in one table.

    The tensors must stay where they are for as long as the pool is used; it holds on to them.

    Attributes
    ----------
    stores : tuple of (R, H, S, D) tensors of one shape and dtype, contiguous
        Keys of layer 0, values of layer 0, keys of layer 1, ...
    table : (2 L,) int64 on their device
        Address of each.
    entry_bytes : int
        Bytes of one entry of one head: D times the bytes of a number.
    """

    stores: tuple[torch.Tensor, ...]
    table: Any
    entry_bytes: int

    @cached_property
    def shape(self) -> tuple[int, int, int, int]:
        """R, H, S and the bytes of an entry."""
        rows, heads, slots, _ = self.stores[0].shape
        return int(rows), int(heads), int(slots), self.entry_bytes

    @classmethod
    def of(cls, keys: Sequence[torch.Tensor], values: Sequence[torch.Tensor]) -> Self:
        """Pool of the layers' keys and values.

        Raises
        ------
        InvalidInputError
            When a layer differs from the first in shape, dtype or device, or does not lie in memory without gaps.
        """
        return cls.over([tensor for pair in zip(keys, values, strict=True) for tensor in pair])

    @classmethod
    def over(cls, tensors: Sequence[torch.Tensor]) -> Self:
        """Pool of any stores of one shape: where keys are wider than values, each are a pool of their own."""
        stores = tuple(tensors)
        require(
            bool(stores),
            "`keys` and `values` must hold a layer",
            got="none",
            fix="Run a forward before the first step.",
        )
        first = stores[0]
        for place, tensor in enumerate(stores):
            alike = (tensor.shape, tensor.dtype, tensor.device) == (first.shape, first.dtype, first.device)
            if not (alike and tensor.is_contiguous() and tensor.ndim == 4):
                raise InvalidInputError(
                    "`keys` and `values` must be (R, H, S, D) of one shape, dtype and device, contiguous",
                    got=f"{tuple(tensor.shape)} of {tensor.dtype} in layer {place // 2}, and {tuple(first.shape)} of "
                    f"{first.dtype} in layer 0",
                    fix="Models whose layers differ need one pool a kind of layer.",
                )
        entry_bytes = int(first.shape[3]) * first.element_size()
        require(
            entry_bytes % 4 == 0,
            "an entry of one head must be a multiple of 4 bytes",
            got=f"{first.shape[3]} numbers of {first.dtype}",
            fix="Use a head dimension that is even.",
        )
        addresses = np.array([tensor.data_ptr() for tensor in stores], dtype=np.int64)
        table = torch.from_numpy(addresses).to(first.device) if first.is_cuda else addresses
        return cls(stores, table, entry_bytes)


def commit(
    pool: KVPool, lengths: Array, path: Array, kept: Array, first_row: int = 0, *, trusted: bool = False
) -> None:
    """Keep the scratch entries on each row's path, in order, and add them to its length.

    Entry i of row b's path moves from slot ``lengths[b] + path[b, i]`` to ``lengths[b] + i``, in all layers; nothing
    else moves, and entries that lie right already are not touched.

    Parameters
    ----------
    pool : KVPool of R rows and S slots
    lengths : (B,) int64, written
        Committed tokens of rows `first_row` to ``first_row + B - 1`` of the pool.
    path : (B, Q) int64, increasing along the first `kept`
        As `Walks` has it.
    kept : (B,) int64, in [0, Q]
        0 leaves a row alone.
    first_row : int
        Row of the pool that row 0 of the arguments stands for.
    trusted : bool
        Whether the caller vouches for shapes and dtypes, having made the arguments; on the CPU they are then not
        looked at.

    Raises
    ------
    InvalidInputError
        On a wrong shape or dtype, and on the CPU when a path leaves the pool or does not increase.
    """
    if trusted and isinstance(path, np.ndarray):
        bad = cpu.commit(pool.table, *pool.shape, first_row, lengths, path, kept)
        if bad < 0:
            return
    sizes = Sizes()
    sizes.take("path", path, ("B", "Q"))
    sizes.take("lengths", lengths, ("B",))
    sizes.take("kept", kept, ("B",))
    rows, _, slots, _ = pool.shape
    require(
        first_row >= 0 and first_row + sizes["B"] <= rows,
        f"rows must lie in the pool's {rows}",
        got=f"{sizes['B']} rows from {first_row}",
        fix="Open the cache with more rows.",
    )
    if on_gpu(pool.stores[0], lengths, path, kept):
        from runtime.kernels.gpu import commit as gpu

        gpu.commit(pool.table, pool.shape, first_row, lengths, path, kept)
        return
    bad = cpu.commit(pool.table, *pool.shape, first_row, host(lengths), host(path), host(kept))
    if bad >= 0:
        raise InvalidInputError(
            f"`path` must increase and stay within {slots} slots, `kept` within [0, {sizes['Q']}]",
            got=f"row {bad}: lengths {int(lengths[bad])}, kept {int(kept[bad])}, path {path[bad].tolist()}",
            fix="Pass the path and the count as a verification returned them.",
        )
