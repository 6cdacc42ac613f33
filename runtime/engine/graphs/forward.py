"""Forward of fixed shape: mask, positions and cache slots are written into buffers that stay where they are."""

from __future__ import annotations

import torch

from runtime.cache.rows import RowCache
from runtime.kernels.tree_inputs import fill_tree_inputs
from runtime.models.base import LanguageModel, hidden_value

__all__ = ["StaticForward"]


class StaticForward:
    """Logits of `queries` nodes a row, over the first `width` slots of the first `rows` rows of a cache.

    Rows and nodes that are padding write into scratch slots; what they give is not read.
    """

    def __init__(self, model: LanguageModel, cache: RowCache, rows: int, queries: int, width: int) -> None:
        self.model, self.cache, self.width = model, cache, width
        device = model.device
        self.mask = torch.empty((rows, queries, width), dtype=model.dtype, device=device)
        self.positions = torch.empty((rows, queries), dtype=torch.int64, device=device)
        self.row_index = torch.arange(rows, device=device).unsqueeze(1)
        self.steps = torch.arange(queries, device=device).unsqueeze(0)
        self.hidden = hidden_value(model.dtype)

    def __call__(
        self,
        tokens: torch.Tensor,
        parents: torch.Tensor,
        counts: torch.Tensor,
        lengths: torch.Tensor,
        scratch: torch.Tensor,
    ) -> torch.Tensor:
        """(B, Q, V) logits; arguments as `fill_tree_inputs` takes them, on the model's device."""
        fill_tree_inputs(self.mask, self.positions, parents, counts, lengths, scratch, self.hidden)
        cache = self.cache
        cache.start, cache.first_row, cache.width = None, 0, self.width
        cache.row_index, cache.slot_index = self.row_index, (lengths + scratch).unsqueeze(1) + self.steps
        return self.model.logits(tokens, self.positions, self.mask.unsqueeze(1), cache)
