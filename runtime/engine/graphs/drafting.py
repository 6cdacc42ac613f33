"""Drafting in fixed shapes: take in the pending tokens, then one forward a level, all on the device."""

from __future__ import annotations

import numpy as np
import torch

from reader_theory.trees import TokenTree
from runtime.cache.rows import RowCache
from runtime.drafters.neural import _levels  # pyright: ignore[reportPrivateUsage]
from runtime.engine.graphs.capture import Captured
from runtime.engine.graphs.forward import StaticForward
from runtime.engine.graphs.packed import Packed
from runtime.kernels.top import draft_level
from runtime.models.base import LanguageModel

__all__ = ["StaticDrafting"]


class StaticDrafting:
    """Drafts of one tree, into `tokens` (B, N + 1), for rows that have at most `fresh` pending tokens each.

    Attributes
    ----------
    inputs : Packed
        ``fresh`` (B, F) tokens to take in, ``counts`` (B,) in [1, F], and ``lengths`` (B,) of the draft's cache.
    """

    def __init__(
        self,
        model: LanguageModel,
        cache: RowCache,
        tree: TokenTree,
        tokens: torch.Tensor,
        fresh: int,
        width: int,
        pool: object,
    ) -> None:
        device, rows = model.device, len(tokens)
        self.inputs = Packed({"fresh": (rows, fresh), "counts": (rows,), "lengths": (rows,)}, device)
        self.rows = torch.arange(rows, device=device)
        self.chain = torch.arange(-1, fresh - 1, device=device).repeat(rows, 1)
        self.zeros = torch.zeros(rows, dtype=torch.int64, device=device)
        self.take_in = StaticForward(model, cache, rows, fresh, width)
        self.levels = _levels(tree)
        self.tokens = tokens
        self.index = [
            tuple(
                torch.from_numpy(x).to(device)
                for x in (level.nodes, np.tile(level.parents, (rows, 1)), level.ranks, level.inner)
            )
            for level in self.levels
        ]
        inner = np.concatenate([np.zeros(0, np.int64), *(level.inner_parents for level in self.levels)])
        self.parents = torch.from_numpy(np.tile(inner, (rows, 1))).to(device)
        self.forwards: list[StaticForward] = []
        self.counts: list[torch.Tensor] = []
        self.scratch: list[torch.Tensor] = []
        written = 0
        for level in self.levels:
            if len(level.inner):
                self.forwards.append(StaticForward(model, cache, rows, len(level.inner), width))
                self.counts.append(self.zeros + len(level.inner))
                self.scratch.append(self.zeros + written)
                written += len(level.inner)
        self.run = Captured(self._draft, device, pool)

    def _draft(self) -> torch.Tensor:
        """(B, N + 1) tokens of the tree's nodes; what was there at the root."""
        given = self.inputs.device
        logits = self.take_in(given["fresh"], self.chain, given["counts"], given["lengths"], self.zeros).logits
        logits = logits[self.rows, given["counts"] - 1].unsqueeze(1)
        lengths = given["lengths"] + given["counts"]
        for number, (level, (nodes, parents, ranks, inner)) in enumerate(zip(self.levels, self.index, strict=True)):
            draft_level(logits, level.candidates, parents, ranks, nodes, self.tokens)
            if len(level.inner):
                logits = self.forwards[number](
                    self.tokens[:, inner], self.parents, self.counts[number], lengths, self.scratch[number]
                ).logits
        return self.tokens
