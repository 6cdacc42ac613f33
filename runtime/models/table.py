"""The table model: laws known exactly, to prove the engine by.

Its cache holds, for each slot, the token and the position that were written there, and its forward reads them back
through the mask: a wrong mask, position, commit or length gives a wrong law, as in a real model.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike

from reader_theory.errors import require
from runtime.cache.rows import RowCache
from runtime.models.base import LanguageModel, Output

__all__ = ["TableModel"]


class TableModel(LanguageModel):
    """A Markov model of order k over V tokens.

    Parameters
    ----------
    laws : (V,) * k + (V,) float64
        Law of the next token after each context of k tokens, oldest first; zeros are allowed.
    """

    def __init__(self, laws: ArrayLike, name: str = "table") -> None:
        self.laws = np.asarray(laws, dtype=np.float64)
        self.order, self.vocabulary = self.laws.ndim - 1, self.laws.shape[-1]
        require(
            self.order >= 1 and bool(np.allclose(self.laws.sum(-1), 1) and (self.laws >= 0).all()),
            "`laws` must hold a law over tokens for each context",
            got=f"shape {self.laws.shape}, sums {self.laws.sum(-1).ravel()[:4]}",
            fix="Give shape (V,) * order + (V,) with entries >= 0 that sum to 1 along the last axis.",
        )
        self.reads = self.order
        self.max_positions, self.layers, self.name = 1 << 20, 1, name
        self.dtype, self.device = torch.float64, torch.device("cpu")

    def new_cache(self, rows: int, slots: int) -> RowCache:
        return RowCache(1, rows, slots)

    def forward(
        self,
        tokens: torch.Tensor,
        positions: torch.Tensor,
        mask: torch.Tensor | None,
        cache: RowCache,
        *,
        last_only: bool = False,
        hidden: Sequence[int] = (),
    ) -> Output:
        entries = torch.stack((tokens, positions), dim=-1).to(self.dtype).unsqueeze(1)
        held, _ = cache.stores[0].update(entries, entries)
        batch, queries = tokens.shape
        out = np.zeros((batch, queries, self.vocabulary))
        for b in range(batch):
            for i in range(queries):
                seen = held[b, 0] if mask is None else held[b, 0, mask[b, 0, i] == 0]
                out[b, i] = self._law(seen.numpy())
        with np.errstate(divide="ignore"):
            return Output(torch.from_numpy(np.log(out[:, -1:] if last_only else out)))

    def _law(self, seen: np.ndarray) -> np.ndarray:
        ordered = seen[np.argsort(seen[:, 1], kind="stable")]
        context = [0] * self.order + ordered[:, 0].astype(int).tolist()
        return self.laws[tuple(context[-self.order :])]
