"""A head as a model that drafts: forwards over a cache of its own, as `NeuralDrafter` and every drafter beside it ask.

An entry is a token and the state at the token before it: the target's own hidden states where that token has been
committed, else the state that the head left there itself. The tree mask says which entry a token comes after.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from reader_theory.errors import require
from runtime.cache.rows import RowCache
from runtime.drafters.head.cache import HeadCache, own_places, places_above, rows_of
from runtime.drafters.head.checkpoint import load_head_network
from runtime.drafters.head.network import HeadNetwork, rotations
from runtime.drafters.head.unrolled import unrolled
from runtime.drafters.head.whole import WholeHead
from runtime.kernels.around import around
from runtime.kernels.attention import attention
from runtime.kernels.product import streamed
from runtime.models.base import FeatureModel, LanguageModel, Output
from runtime.models.lean import LeanModel, rotary_pairs
from runtime.models.linear import AdaptiveLinear
from runtime.models.packing import Packing
from runtime.models.part import layer_count
from runtime.models.transformers import TransformersModel

__all__ = ["HeadModel", "load_head"]


class HeadModel(FeatureModel):
    """A head's forward, by hand, from packed weights of its own.

    Parameters
    ----------
    network : HeadNetwork
    embedding : (V, width)
        Of the target's input tokens; shared, not copied. The head's own where it has one.
    dtype : torch.dtype
    adaptive : bool
        See `AdaptiveLinear`.

    Attributes
    ----------
    features : tuple of int
        Layers of the target whose hidden states it is given.
    """

    def __init__(
        self,
        network: HeadNetwork,
        embedding: torch.Tensor,
        *,
        name: str = "head",
        dtype: torch.dtype = torch.float32,
        adaptive: bool = True,
    ) -> None:
        shape = network.shape
        embed = network.embed_tokens
        self.embedding = (embedding if embed is None else embed.weight).detach()
        require(
            tuple(self.embedding.shape) == (shape.vocabulary, shape.width),
            "a head must be given the embedding of the target that it was trained for",
            got=f"{tuple(self.embedding.shape)} for a head of {shape.vocabulary} tokens, {shape.width} wide",
            fix="Use it beside its own target; its config.json names it.",
        )
        self.shape, self.name, self.dtype, self.device = shape, name, dtype, self.embedding.device
        self.vocabulary, self.max_positions, self.features = shape.vocabulary, shape.max_positions, shape.layers
        self.output, self.block = shape.output, shape.block
        self.network = network.to(self.device, dtype).eval().requires_grad_(False)
        layer = self.network.layer
        own, mlp = layer.self_attn, layer.mlp
        q, k = (each.weight.data[rotary_pairs(each.out_features, shape.head_dim)] for each in (own.q_proj, own.k_proj))
        self.qkv = AdaptiveLinear(torch.cat((q, k, own.v_proj.weight.data)), adaptive=adaptive)
        self.out = AdaptiveLinear(own.o_proj.weight.data, adaptive=adaptive)
        self.gate_up = AdaptiveLinear(
            torch.cat((mlp.gate_proj.weight.data, mlp.up_proj.weight.data)), adaptive=adaptive
        )
        self.down = AdaptiveLinear(mlp.down_proj.weight.data, adaptive=adaptive)
        head = self.network.lm_head
        factors = [head.weight.data] if shape.rank is None else self._factors(head, adaptive)
        self.head = [AdaptiveLinear(each, adaptive=adaptive) for each in factors]
        self.around = around(dtype, self.device)
        self.turns = rotations(shape, shape.max_positions, self.device)
        cos, sin = self.turns[..., : shape.head_dim // 2]
        self.rotations = torch.complex(cos, sin).unsqueeze(1)
        self.packs = self.device.type == "cpu"
        self._whole = WholeHead() if self.packs else None

    def _factors(self, head: Any, adaptive: bool) -> list[torch.Tensor]:
        """Both factors of the output head; zeros make their rank one that the streamed product takes.

        That product reads the wide factor at the speed of memory, torch's own at half of it.
        """
        ours, down, up = streamed() if adaptive else None, head.down.weight.data, head.up.weight.data
        wide = up if ours is None else ours.widened(up)
        if wide is up:
            return [down, up]
        rank = up.shape[1]
        head.up.weight.data = wide[:, :rank]
        return [functional.pad(down, (0, 0, 0, wide.shape[1] - rank)), wide]

    def new_cache(self, rows: int, slots: int) -> HeadCache:
        cache = HeadCache(rows, slots, self.shape.width, self.dtype, self.device)
        empty = torch.zeros((0, self.shape.kv_heads, 0, self.shape.head_dim), dtype=self.dtype, device=self.device)
        cache.stores[0].lazy_initialization(empty, empty)
        return cache

    @torch.inference_mode()
    def give(self, cache: RowCache, row: int, start: int, hidden: torch.Tensor) -> None:
        assert isinstance(cache, HeadCache), "the cache is one that `new_cache` made"
        states = self.network.taken(hidden.to(self.device, self.dtype))
        cache.give(row, start, states)

    @torch.inference_mode()
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
        """As for any model; a head has no layers to ask for `hidden` states of."""
        assert isinstance(cache, HeadCache), "the cache is one that `new_cache` made"
        batch, queries = tokens.shape
        last_only = last_only and queries > 1
        packing = Packing(cache.counts if self.packs and not last_only else None, batch, queries)
        rows, own = rows_of(cache, batch), own_places(cache, batch, queries, self.device)
        states = packing.pack(cache.read(rows, places_above(mask, own)).flatten(0, 1))
        embedded, states = self._entered(packing.pack(tokens.reshape(-1)), states)
        places = packing.pack(positions.reshape(-1))
        given = embedded, states, places, mask, cache, packing
        found = None if self._whole is None or last_only else self._whole(self, *given)
        logits, left = found or self._by_operators(*given, last_only)
        cache.leave(rows, own + 1, packing.pad(left))
        logits = self._named(logits)
        return Output(logits.unsqueeze(1) if last_only else packing.pad(logits))

    def _by_operators(
        self,
        embedded: torch.Tensor,
        states: torch.Tensor,
        places: torch.Tensor,
        mask: torch.Tensor | None,
        cache: HeadCache,
        packing: Packing,
        last_only: bool,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits, by the head's own tokens, and the states handed on."""
        layer = self.network.layer
        read, residual = self.network.entered(embedded, states, by=lambda norm, x: self._normed(norm, x)[1])
        attended = self.out(self._attention(read, places, mask, cache, packing))
        x, h = self._normed(layer.post_attention_layernorm, residual, attended)
        x, out = self._normed(self.network.norm, x, self.down(self.around.gated(self.gate_up(h))))
        left = out if self.shape.norm_output else x
        return self._product(out[packing.queries - 1 :: packing.queries] if last_only else out), left

    def _normed(
        self, norm: Any, x: torch.Tensor, added: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """A residual sum and its norm."""
        return self.around.normed(x, added, norm.weight, self.shape.eps)

    def _entered(self, tokens: torch.Tensor, states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(n, width) embedded tokens and the states before them; of a block's masks, what stands for both."""
        masks = self.network.mask_embed
        if masks is None:
            return self.embedding[tokens].to(self.dtype), states
        masked = (tokens >= self.vocabulary).unsqueeze(-1)
        embedded = self.embedding[tokens.clamp(max=self.vocabulary - 1)].to(self.dtype)
        return torch.where(masked, masks[0], embedded), torch.where(masked, masks[1], states)

    @torch.inference_mode()
    def ahead(self, tokens: torch.Tensor, hidden: torch.Tensor, depth: int, first: int = 0) -> Iterator[torch.Tensor]:
        embedded = self.embedding[tokens.to(self.device)].to(self.dtype)
        states = torch.cat((hidden, hidden[-1:])).to(self.device, self.dtype)[None]
        places = torch.arange(len(tokens), device=self.device)[None]
        steps = unrolled(self.network, embedded, places, states, depth, self.turns)
        for step, (out, _) in enumerate(steps):
            yield self.logits_of(out[0, first + step :])

    def _attention(
        self, read: torch.Tensor, places: torch.Tensor, mask: torch.Tensor | None, cache: HeadCache, packing: Packing
    ) -> torch.Tensor:
        """(tokens, heads * head_dim)."""
        shape, size = self.shape, self.shape.head_dim
        qkv, rotary = self.qkv(read), shape.heads + shape.kv_heads
        values = packing.pad(qkv.view(packing.tokens, -1, size)[:, rotary:])
        turned = packing.pad(self.around.turned(qkv, self.rotations[places], rotary, size))
        keys = turned[:, :, shape.heads :]
        keys, values = cache.stores[0].update(keys.transpose(1, 2), values.transpose(1, 2))
        group, mask = shape.heads // shape.kv_heads, None if mask is None else mask.to(self.dtype)
        reader = attention(mask, packing.queries, group, size**-0.5, dtype=self.dtype, device=self.device)
        return packing.pack(reader(turned[:, :, : shape.heads], keys, values))

    @torch.inference_mode()
    def logits_of(self, states: torch.Tensor) -> torch.Tensor:
        """As for any; minus infinity for tokens that the head cannot name."""
        return self._named(self._product(states))

    def _product(self, states: torch.Tensor) -> torch.Tensor:
        """(n, the head's own tokens)."""
        for factor in self.head:
            states = factor(states)
        return states

    def _named(self, logits: torch.Tensor) -> torch.Tensor:
        """(n, V), of logits of the tokens that the head can name."""
        ids = self.network.ids
        if ids is None:
            return logits
        whole = logits.new_full((len(logits), self.vocabulary), -torch.inf)
        whole[:, ids] = logits
        return whole


def _embedding_of(target: LanguageModel) -> torch.Tensor:
    if isinstance(target, LeanModel):
        return target.embedding.weight.detach()
    assert isinstance(target, TransformersModel), "`layer_count` refuses any other"
    return target.model.get_input_embeddings().weight.detach()


def load_head(
    folder: str | Path, target: LanguageModel, name: str = "", *, dtype: torch.dtype | None = None
) -> HeadModel:
    """A head from its folder, beside the target that it was trained for.

    Raises
    ------
    InvalidInputError
        If the target's vocabulary, width or layers are not those that the head was made for.
    """
    network = load_head_network(folder)
    shape, count, embedding = network.shape, layer_count(target), _embedding_of(target)
    told = f"{shape.vocabulary} tokens, {shape.target_width} wide, layers {list(shape.layers)}"
    require(
        (shape.vocabulary, shape.target_width) == tuple(embedding.shape) and max(shape.layers) < count,
        "a head must be used beside the target that it was trained for",
        got=f"a head for {told}, beside {embedding.shape[0]} tokens, {embedding.shape[1]} wide, {count} layers",
        fix="Its config.json names its target; train one for this target with `reader train-head`.",
    )
    on_gpu = target.device.type != "cpu"
    return HeadModel(
        network, embedding, name=name or Path(folder).name, dtype=dtype or (target.dtype if on_gpu else torch.float32)
    )
