"""A rectangular cache with periodic rearrangement: the comparison that `RowCache` is measured against.

Every step appends all its tree columns for all rows, accepted or not; what was not accepted stays as a hole that a
mask hides, until `rearrange` gathers each row's live entries together, which copies the whole cache. This is how READER
keeps the cache of a batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from transformers.cache_utils import Cache

from reader_theory.errors import require
from runtime.cache.rows import RowLayer
from runtime.models.base import LanguageModel, hidden_value

__all__ = ["RectangularCache", "forward_rectangle"]


class RectangularCache(Cache):
    """Rows of one width, with holes.

    Parameters
    ----------
    layers, rows, slots : int
        Layers of the model, rows, and columns at most.

    Attributes
    ----------
    live : (rows, slots) bool
        Which entries are committed tokens; the other columns below `columns` are holes.
    columns : int
        Width in use.
    """

    def __init__(self, layers: int, rows: int, slots: int) -> None:
        self.held_rows, self.held_slots = rows, slots
        self.live: NDArray[np.bool_] = np.zeros((rows, slots), dtype=bool)
        self.columns, self.width, self.first_row = 0, 0, 0
        self.start: int | None = 0
        self.counts: NDArray[np.int64] | None = None
        self.stores = [RowLayer(self) for _ in range(layers)]  # pyright: ignore[reportArgumentType]
        super().__init__(layers=list(self.stores))

    @property
    def lengths(self) -> NDArray[np.int64]:
        """(rows,) committed tokens of each row."""
        return self.live.sum(axis=1)

    @property
    def holes(self) -> int:
        """Entries below `columns` that attention reads for nothing, over all rows."""
        return self.columns * len(self.live) - int(self.live.sum())

    def begin(self, tokens: int) -> int:
        """Aim the next forward at the next `tokens` columns; the width that its attention sees."""
        self.start, self.width = self.columns, self.columns + tokens
        require(
            self.width <= self.held_slots,
            "a rectangle must have room for the columns of a forward",
            got=f"{self.columns} columns and {tokens} more of {self.held_slots}",
            fix="Rearrange more often, or give it more slots.",
        )
        return self.width

    def commit(self, paths: Sequence[Sequence[int]]) -> None:
        """Keep the nodes of `paths`, one path a row, of the forward that was last; the rest become holes."""
        for row, path in enumerate(paths):
            self.live[row, [self.columns + node for node in path]] = True
        self.columns = self.width

    @torch.inference_mode()
    def rearrange(self) -> int:
        """Close the holes by one gather of the whole cache; entries read and written, over all rows."""
        width = int(self.lengths.max())
        order = np.argsort(~self.live[:, : self.columns], axis=1, kind="stable")[:, :width]
        for layer in self.stores:
            assert layer.keys is not None and layer.values is not None
            index = torch.from_numpy(order).to(layer.keys.device)[:, None, :, None]
            for store in (layer.keys, layer.values):
                store[:, :, :width] = torch.gather(store, 2, index.expand(-1, store.shape[1], -1, store.shape[3]))
        lengths = self.lengths
        self.live[:] = np.arange(self.live.shape[1]) < lengths[:, None]
        self.columns = width
        return 2 * width * len(self.live)


def forward_rectangle(
    model: LanguageModel, cache: RectangularCache, tokens: NDArray[np.int64], parents: NDArray[np.int64]
) -> torch.Tensor:
    """(B, Q, V) logits after each node of a batch of trees over a rectangle with holes.

    Parameters
    ----------
    tokens, parents : (B, Q) int64
        Of each row's nodes; -1 for the first.
    """
    batch, queries = tokens.shape
    base, lengths = cache.columns, cache.lengths
    width = cache.begin(queries)
    seen = np.zeros((batch, queries, width), dtype=bool)
    seen[:, :, :base] = cache.live[:, None, :base]
    positions = np.zeros((batch, queries), dtype=np.int64)
    for row in range(batch):
        for node in range(queries):
            parent = int(parents[row, node])
            if parent >= 0:
                seen[row, node, base:] = seen[row, parent, base:]
            seen[row, node, base + node] = True
            positions[row, node] = lengths[row] if parent < 0 else positions[row, parent] + 1
    mask = np.where(seen, np.float32(0), np.float32(hidden_value(model.dtype)))
    return model.logits(
        torch.from_numpy(tokens),
        torch.from_numpy(positions),
        torch.from_numpy(mask)[:, None].to(model.dtype),
        cache,  # pyright: ignore[reportArgumentType]
    )
