"""A causal language model as the engine sees it: tokens, positions and a mask in, logits out, a row cache beside it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch

from reader_theory.cost.head import DrafterHead
from runtime.cache.quantised.scheme import Scheme
from runtime.cache.rows import RowCache

__all__ = ["FeatureModel", "LanguageModel", "Output", "hidden_value"]


@lru_cache
def hidden_value(dtype: torch.dtype) -> float:
    """What the mask adds to a score that must not count: finite, so that no row becomes NaN, and within float32.

    A quarter of the least number, because attention kernels of GPUs multiply scores by log2(e).
    """
    return max(torch.finfo(dtype).min, torch.finfo(torch.float32).min) / 4


@dataclass(frozen=True)
class Output:
    """What a forward gives.

    Parameters
    ----------
    logits : (B, Q, V), or (B, 1, V) after the last token alone
        Of the model's dtype.
    hidden : one (B, Q, d) tensor for each layer asked for, in that order
        The residual stream before layer i, which is what transformers calls ``hidden_states[i]``; past the last layer
        what the output head reads. Of all Q tokens even where logits are of the last alone.
    computed : int, optional
        Tokens of all rows that were computed; all B * Q where it is left out.
    """

    logits: torch.Tensor
    hidden: tuple[torch.Tensor, ...] = ()
    computed: int | None = None


class LanguageModel(ABC):
    """A model with forwards over a `RowCache`.

    A float mask (not a boolean one) is used throughout: transformers' eager attention takes a boolean mask
    silently wrong.
    """

    vocabulary: int
    max_positions: int
    dtype: torch.dtype
    device: torch.device
    name: str
    reads: int | None = None
    """Latest tokens that its law depends on; None for all."""
    end_tokens: tuple[int, ...] = ()
    """Its end-of-sequence tokens, as its generation configuration has them."""
    block: int = 0
    """Depths that one forward of it drafts, its tokens from `vocabulary` on standing for masks; 0 for one a forward."""
    features: tuple[int, ...] = ()
    """Layers of a target whose hidden states it drafts from; none for a model that needs its own tokens alone."""
    final_layer: int | None = None
    """Where `hidden` is what its output head reads: the number of its layers; None for one that does not give it."""

    packs: bool = False
    """Whether a forward computes the tokens of `RowCache.counts` alone, and no padding."""
    scheme: Scheme | None = None
    """How its caches write what has left their buffer; None for caches that keep all as it is."""

    @property
    def kv(self) -> str:
        """The kind of its caches, as ``--kv`` names it."""
        return "plain" if self.scheme is None else self.scheme.named

    @abstractmethod
    def new_cache(self, rows: int, slots: int) -> RowCache:
        """An empty cache for at most `rows` rows of `slots` tokens."""

    @abstractmethod
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
        """Logits after each token, given what its mask row lets it see; `cache.begin` has been called.

        Parameters
        ----------
        tokens, positions : (B, Q) int64
        mask : (B, 1, Q, W) of the model's dtype, or None where Q is 1 and every slot is seen
            0 for a slot that counts, `hidden_value` for one that does not; W is the width that `begin` returned.
        cache : RowCache
            Written in the slots that `begin` named.
        last_only : bool
            Only the logits after the last token, as a prompt needs.
        hidden : layers, each in 0 .. L
            Whose inputs are to be given too; L for that of the output head, where `final_layer` is L.
        """

    def give(self, cache: RowCache, row: int, start: int, hidden: torch.Tensor) -> None:
        """Take in a target's hidden states, (n, layers, width) as `features` asks, of tokens `start` .. of a row."""
        return None

    def logits(
        self,
        tokens: torch.Tensor,
        positions: torch.Tensor,
        mask: torch.Tensor | None,
        cache: RowCache,
        *,
        last_only: bool = False,
    ) -> torch.Tensor:
        """The logits of `forward` alone."""
        return self.forward(tokens, positions, mask, cache, last_only=last_only).logits


class FeatureModel(LanguageModel):
    """A model that drafts from a target's hidden states: what it drafts deeper than one token, it drafts from its own.

    So its acceptance has to be known depth by depth; `ahead` gives every depth's logits along a known text.

    Attributes
    ----------
    output : DrafterHead
        Its output head: how large it is, and how many tokens it can name.
    """

    output: DrafterHead

    @abstractmethod
    def logits_of(self, states: torch.Tensor) -> torch.Tensor:
        """(n, V) logits of (n, width) normed states: the output head alone."""

    @abstractmethod
    def ahead(self, tokens: torch.Tensor, hidden: torch.Tensor, depth: int, first: int = 0) -> Iterator[torch.Tensor]:
        """What it drafts along a text whose every draft is accepted, for all places at once.

        Parameters
        ----------
        tokens : (n,) int64
            A text of at least two tokens.
        hidden : (n - 1, layers, width)
            The target's hidden states at all but the last, as `features` asks.
        depth : int
            Draft depths.
        first : int, in 0 .. n - 2
            Place of the first step: one at place i drafts after token i + 1, with the states of tokens 0 .. i.

        Yields
        ------
        (m, V) logits
            For depth d = 0, 1, ...: of token i + 2 + d in a step at place i = first, first + 1, ...; the later of
            places that the text ends after are of no meaning, and m falls as depth grows.
        """
