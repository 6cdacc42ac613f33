"""A quantised cache of keys and values in bytes: codes, scales, first tokens, buffer and the view that attention reads.

A row keeps its `first` tokens and its latest ones as they are. What lies before the buffer is written once, in chunks:
the chunk that a query sees quantised is decided by the query's position alone, so that drafts never move a border.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from reader_theory.documents.base import Frozen

__all__ = ["KVFormat", "Window", "rows_admitted"]

N = TypeVar("N", int, NDArray[np.int64])


class Window(Frozen):
    """Which tokens of a row are quantised.

    Parameters
    ----------
    first : int
        Tokens at the beginning that never are.
    recent : int
        Tokens before a query's position that are not yet.
    chunk : int
        Tokens that are written together, once.
    """

    first: int = Field(default=4, ge=0)
    recent: int = Field(default=64, ge=1)
    chunk: int = Field(default=64, ge=1)

    @property
    def reach(self) -> int:
        """Most tokens beyond the committed ones in one forward: no query may see a chunk that is not yet whole."""
        return min(self.recent, self.chunk)

    @property
    def buffer(self) -> int:
        """Slots of a row that hold tokens as they are: first ones, latest ones, and a forward's."""
        return self.first + self.recent + self.chunk + self.reach

    def chunks(self, position: N) -> N:
        """Chunks that a query at `position` sees quantised.

        Examples
        --------
        >>> Window(first=4, recent=64, chunk=64).chunks(132)
        1
        """
        return np.maximum((position - self.first - self.recent) // self.chunk, 0)  # pyright: ignore[reportReturnType]


class KVFormat(Frozen):
    """Bytes that keys and values take in one kind of cache, for one model.

    Parameters
    ----------
    values_per_token : int
        Numbers that a token takes in all layers, keys and values.
    token_bytes : int
        Bytes of a token that is kept as it is.
    window : Window, optional
        None where nothing is quantised.
    chunk_bytes : int
        Bytes of a chunk in all layers, codes and scales.
    view_bytes : int
        Bytes a slot of what attention reads: one layer as it is, and the numbers that it was made from.
    shared_bytes : int
        Bytes held once for all rows: predictors and grids.
    """

    name: str
    values_per_token: int = Field(gt=0)
    token_bytes: int = Field(gt=0)
    window: Window | None = None
    chunk_bytes: int = Field(default=0, ge=0)
    view_bytes: int = Field(default=0, ge=0)
    shared_bytes: int = Field(default=0, ge=0)

    @property
    def bits(self) -> float:
        """Bits a value of what is quantised, scales included; of a token as it is where nothing is."""
        if self.window is None:
            return 8.0 * self.token_bytes / self.values_per_token
        return 8.0 * self.chunk_bytes / (self.window.chunk * self.values_per_token)

    def bits_at(self, tokens: int) -> float:
        """Bits a value that a row of so many committed tokens stores: first tokens and buffer as they are."""
        written = 0 if self.window is None else int(self.window.chunks(tokens))
        kept = tokens if self.window is None else tokens - written * self.window.chunk
        return 8.0 * (written * self.chunk_bytes + kept * self.token_bytes) / (tokens * self.values_per_token)

    def row_bytes(self, slots: int) -> int:
        """Bytes held for a row of `slots` slots, its scratch among them."""
        if self.window is None:
            return slots * self.token_bytes
        written, kept = int(self.window.chunks(slots)), min(slots, self.window.buffer)
        view = (slots + self.window.chunk) * self.view_bytes if written else 0
        return written * self.chunk_bytes + kept * self.token_bytes + view


def rows_admitted(formats: Sequence[KVFormat], kv_bytes: int, slots: int) -> int:
    """Rows of `slots` slots whose caches, those of a target and its drafts, fit in `kv_bytes` together."""
    shared = sum(each.shared_bytes for each in formats)
    return max(kv_bytes - shared, 0) // sum(each.row_bytes(slots) for each in formats)
