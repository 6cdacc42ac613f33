"""Forward of fixed shape: mask, positions and cache slots are written into buffers that stay where they are."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from runtime.cache.rows import RowCache
from runtime.kernels.tree_inputs import fill_tree_inputs
from runtime.models.base import LanguageModel, Output, hidden_value

__all__ = ["StaticForward"]


class StaticForward:
    """Logits, and hidden states of layers `features`, of `queries` nodes a row, over a cache's first `width` slots.

    Rows and nodes that are padding write into scratch slots; what they give is not read.
    """

    def __init__(
        self,
        model: LanguageModel,
        cache: RowCache,
        rows: int,
        queries: int,
        width: int,
        features: Sequence[int] = (),
    ) -> None:
        self.model, self.cache, self.width, self.features = model, cache, width, features
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
    ) -> Output:
        """(B, Q, V) logits, and the `features`; arguments as `fill_tree_inputs` takes them, on the model's device."""
        fill_tree_inputs(self.mask, self.positions, parents, counts, lengths, scratch, self.hidden)
        cache = self.cache
        cache.start, cache.counts, cache.first_row, cache.width = None, None, 0, self.width
        cache.row_index, cache.slot_index = self.row_index, (lengths + scratch).unsqueeze(1) + self.steps
        return self.model.forward(tokens, self.positions, self.mask.unsqueeze(1), cache, hidden=self.features)
