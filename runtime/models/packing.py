"""Rows of a forward one behind the other, so that what pads them to the widest is not computed."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

__all__ = ["Packing"]


class Packing:
    """Where the tokens of rows lie among those of all.

    Parameters
    ----------
    counts : (B,) int64, optional
        Tokens of each row, the first of it; all where it is left out.
    batch, queries : int
        Rows, and tokens of the widest.

    Attributes
    ----------
    counts : (B,) int64
    tokens : int
        Those of all rows.
    """

    def __init__(self, counts: NDArray[np.int64] | None, batch: int, queries: int) -> None:
        self.batch, self.queries = batch, queries
        self.counts = np.full(batch, queries) if counts is None else counts
        self.tokens = int(self.counts.sum())
        held = None if self.tokens == batch * queries else np.arange(queries) < self.counts[:, None]
        self._held = None if held is None else torch.from_numpy(np.flatnonzero(held))

    def pack(self, x: torch.Tensor) -> torch.Tensor:
        """(B * Q, ...) -> (tokens, ...)."""
        return x if self._held is None else x[self._held]

    def pad(self, x: torch.Tensor) -> torch.Tensor:
        """(tokens, ...) -> (B, Q, ...), with zeros in the places of what was not computed."""
        if self._held is not None:
            x = x.new_zeros((self.batch * self.queries, *x.shape[1:])).index_copy_(0, self._held, x)
        return x.unflatten(0, (self.batch, self.queries))
