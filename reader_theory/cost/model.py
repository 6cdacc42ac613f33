"""A model's operators from its configuration: weights, bytes and FLOPs for tokens, batch, context and parallelism.

Dense and grouped-query attention, whole or of a window, multi-latent attention (DeepSeek), mixture of experts, tied or
untied head, quantised weights. Reads the JSON that a checkpoint carries; needs no other package.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field, ValidationError

from reader_theory.cost.configuration import (
    bits_per_weight,
    expert_sizes,
    is_tied,
    latent_sizes,
    one_of,
    read_configuration,
    text_part,
    windowed_layers,
)
from reader_theory.documents.base import Frozen
from reader_theory.errors import InvalidInputError, require

__all__ = ["Experts", "LatentAttention", "ModelShape", "Operator"]

NOT_GATED = ("gpt2", "gpt_neox", "gptj", "opt", "phi", "bloom", "falcon", "starcoder2", "gpt_bigcode", "mpt", "codegen")
OperatorKind = Literal["linear", "attention", "experts", "head", "pointwise"]


class Experts(Frozen):
    """Mixture of experts of a layer: how many, how many a token visits, their width, and which layers are dense."""

    count: int = Field(ge=1)
    active: int = Field(ge=1)
    intermediate: int = Field(ge=1)
    shared_intermediate: int = 0
    dense_layers: int = 0

    def touched(self, tokens: Any) -> Any:
        """Expected number of experts that `tokens` tokens visit: count (1 - (1 - active / count)^tokens)."""
        return self.count * (1.0 - (1.0 - self.active / self.count) ** tokens)


class LatentAttention(Frozen):
    """Ranks and widths of multi-latent attention; `query_rank` is zero when queries are not compressed."""

    query_rank: int
    kv_rank: int
    nope_dim: int
    rope_dim: int
    value_dim: int


@dataclass(frozen=True, eq=False)
class Operator:
    """One operator of a forward on one device: bytes and FLOPs over all its layers, and how many launches that is.

    `moved_bytes` are weights, activations and KV read and written; arrays where the forward's tokens are.
    """

    name: str
    kind: OperatorKind
    weight_bytes: float
    moved_bytes: Any
    flops: Any
    launches: int


class ModelShape(Frozen):
    """What cost and memory need to know of a transformer.

    Parameters
    ----------
    layers, hidden, heads, kv_heads, head_dim, intermediate, vocabulary : int
        As in the configuration.
    gated : bool
        Whether the feed-forward has a gate beside its up projection.
    tied : bool
        Whether head and embedding share one matrix.
    weight_bits : float
        Bits a linear weight, scales included; embeddings and head stay at 16.
    windowed : int
        Layers that read no more than the latest `window` tokens. The cache is counted whole for them too.
    experts, latent : optional
        Mixture of experts; multi-latent attention.
    """

    name: str
    layers: int = Field(ge=1)
    hidden: int = Field(ge=1)
    heads: int = Field(ge=1)
    kv_heads: int = Field(ge=1)
    head_dim: int = Field(ge=1)
    intermediate: int = Field(ge=1)
    vocabulary: int = Field(ge=2)
    gated: bool = True
    tied: bool = False
    weight_bits: float = Field(default=16.0, gt=0)
    window: int = Field(default=0, ge=0)
    windowed: int = Field(default=0, ge=0)
    experts: Experts | None = None
    latent: LatentAttention | None = None

    @classmethod
    def from_config(cls, config: Mapping[str, Any] | str | Path, name: str | None = None) -> ModelShape:
        """Read a transformers configuration: a mapping, or the path of its JSON.

        Raises
        ------
        InvalidInputError
            If a size is missing; the message names it.
        """
        try:
            return cls._of(text_part(read_configuration(config)), name)
        except (ArithmeticError, TypeError, ValueError) as error:
            if isinstance(error, InvalidInputError):
                raise
            told = str(error) if not isinstance(error, ValidationError) else _first(error)
            raise InvalidInputError(
                "a configuration's sizes must be whole numbers above 0",
                got=told[:200],
                fix="Pass the model's config.json.",
            ) from None

    @classmethod
    def _of(cls, raw: Mapping[str, Any], name: str | None) -> ModelShape:
        hidden, heads = (
            int(one_of(raw, "hidden_size", "n_embd", "d_model")),
            int(one_of(raw, "num_attention_heads", "n_head")),
        )
        kind = str(raw.get("model_type", ""))
        gated = kind not in NOT_GATED
        return cls(
            name=name or str(raw.get("_name_or_path") or kind or "model"),
            layers=int(one_of(raw, "num_hidden_layers", "n_layer", "num_layers")),
            hidden=hidden,
            heads=heads,
            kv_heads=int(raw.get("num_key_value_heads") or (1 if raw.get("multi_query") else heads)),
            head_dim=int(raw.get("head_dim") or hidden // heads),
            intermediate=int(raw.get("intermediate_size") or raw.get("n_inner") or raw.get("ffn_dim") or 4 * hidden),
            vocabulary=int(one_of(raw, "vocab_size")),
            gated=gated,
            tied=is_tied(raw),
            weight_bits=bits_per_weight(raw.get("quantization_config")),
            **windowed_layers(raw),
            experts=Experts(**found) if (found := expert_sizes(raw)) else None,
            latent=LatentAttention(**ranks) if (ranks := latent_sizes(raw)) else None,
        )

    def attention_parameters(self) -> float:
        """Weights of one layer's attention projections."""
        return float(sum(wide * inner for wide, inner in self._attention_products(1)))

    def _attention_products(self, tp: int) -> list[tuple[float, float]]:
        """Columns and inner size of one layer's attention projections on one device."""
        n = self.hidden
        if (latent := self.latent) is None:
            wide = (self.heads + 2 * max(self.kv_heads, tp)) * self.head_dim / tp
            return [(wide, n), (n, self.heads * self.head_dim / tp)]
        key = latent.nope_dim + latent.rope_dim
        return [
            *([(latent.query_rank, n)] if latent.query_rank else []),
            (self.heads * key / tp, latent.query_rank or n),
            (latent.kv_rank + latent.rope_dim, n),
            (self.heads * (latent.nope_dim + latent.value_dim) / tp, latent.kv_rank),
            (n, self.heads * latent.value_dim / tp),
        ]

    def products(self, tensor_parallel: int = 1) -> list[tuple[int, float, float]]:
        """Matrix products of a forward on one device, as (how many, columns n, inner k); the head is the last.

        Experts are left out: which of them run depends on the tokens.
        """
        tp, n, dense = tensor_parallel, self.hidden, self.layers - self.expert_layers()
        forward = [(self.intermediate * (2 if self.gated else 1) / tp, n), (n, self.intermediate / tp)] if dense else []
        return [
            *((self.layers, float(wide), float(inner)) for wide, inner in self._attention_products(tp)),
            *((dense, float(wide), float(inner)) for wide, inner in forward),
            (1, self.vocabulary / tp, float(n)),
        ]

    def feed_forward_parameters(self, width: int) -> float:
        """Weights of one feed-forward of `width`."""
        return float(self.hidden * width * (3 if self.gated else 2))

    def expert_layers(self) -> int:
        """Layers whose feed-forward is a mixture of experts."""
        return 0 if self.experts is None else self.layers - self.experts.dense_layers

    def parameters(self, *, active: bool = False) -> float:
        """All weights, or those that one token meets; norms and biases, under 0.1 %, are left out."""
        embedding = float(self.vocabulary * self.hidden)
        total = embedding if self.tied else 2.0 * embedding
        total += self.layers * self.attention_parameters()
        total += (self.layers - self.expert_layers()) * self.feed_forward_parameters(self.intermediate)
        if (experts := self.experts) is not None:
            per_layer = (experts.active if active else experts.count) * self.feed_forward_parameters(
                experts.intermediate
            )
            per_layer += self.feed_forward_parameters(experts.shared_intermediate) + self.hidden * experts.count
            total += self.expert_layers() * per_layer
        return total

    def weight_bytes(self, tensor_parallel: int = 1) -> float:
        """Bytes of the weights on one device."""
        embedding = self.vocabulary * self.hidden * (1 if self.tied else 2)
        return ((self.parameters() - embedding) * self.weight_bits / 8 + 2.0 * embedding) / tensor_parallel

    def kv_bytes_per_token(self, *, bits: float = 16.0, tensor_parallel: int = 1) -> float:
        """Bytes of keys and values a token: 2 layers kv_heads head_dim bits / 8; the latent and rotary parts under MLA.

        KV heads are split over devices until each holds one; the latent is replicated.
        """
        if (latent := self.latent) is not None:
            return self.layers * (latent.kv_rank + latent.rope_dim) * bits / 8
        return 2.0 * self.layers * max(self.kv_heads / tensor_parallel, 1.0) * self.head_dim * bits / 8

    def reaches(self, context: Any) -> list[tuple[int, Any]]:
        """How many layers read how many of `context` cached tokens a request: all of them, or a window's."""
        whole = (self.layers - self.windowed, context)
        return [each for each in (whole, (self.windowed, np.minimum(context, self.window))) if each[0]]

    def operators(
        self, tokens: Any, *, batch: Any = 1, context: Any = 0, tensor_parallel: int = 1, kv_bits: float = 16.0
    ) -> tuple[Operator, ...]:
        """Every operator of a forward on one device; `tokens`, `batch` and `context` may be arrays that broadcast.

        Parameters
        ----------
        tokens : (...)
            Tokens of all requests together.
        batch : (...)
            Requests.
        context : (...)
            Tokens already cached, a request.
        tensor_parallel : int
            Devices that share each operator.
        """
        require(
            bool(
                np.all(np.asarray(tokens) >= batch)
                and np.all(np.asarray(batch) > 0)
                and np.all(np.asarray(context) >= 0)
            )
            and tensor_parallel >= 1,
            "`tokens` must be at least `batch`, which must be positive; `context` >= 0, `tensor_parallel` >= 1",
            got=(tokens, batch, context, tensor_parallel),
            fix="Count the tokens of all requests together.",
        )
        dense = self.layers - self.expert_layers()
        parts = [
            self._linear("attention projections", self.layers, self.attention_parameters(), tokens, tensor_parallel, 2),
            self._attention(tokens, batch, context, tensor_parallel, kv_bits),
        ]
        if dense:
            weights = self.feed_forward_parameters(self.intermediate)
            parts.append(self._linear("feed-forward", dense, weights, tokens, tensor_parallel, 2))
        if self.experts is not None:
            parts.append(self._experts_operator(self.experts, tokens, tensor_parallel))
        parts.append(self._pointwise(tokens))
        parts.append(self._head(tokens, tensor_parallel))
        return tuple(parts)

    def _linear(self, name: str, layers: int, weights: float, tokens: Any, tp: int, launches: int) -> Operator:
        held = layers * weights * self.weight_bits / 8 / tp
        moved = held + 2.0 * layers * tokens * (3 * self.hidden + 2 * weights / self.hidden / tp)
        flops = 2.0 * layers * weights * tokens / tp
        return Operator(
            name=name, kind="linear", weight_bytes=held, moved_bytes=moved, flops=flops, launches=layers * launches
        )

    def _attention(self, tokens: Any, batch: Any, context: Any, tp: int, kv_bits: float) -> Operator:
        queries = tokens / batch
        kv = self.kv_bytes_per_token(bits=kv_bits, tensor_parallel=tp)
        width = self.head_dim if self.latent is None else self.latent.kv_rank + self.latent.rope_dim
        seen = sum(layers * cached for layers, cached in self.reaches(context)) / self.layers
        flops = 4.0 * self.layers * self.heads / tp * width * tokens * (seen + (queries + 1) / 2)
        moved = kv * (batch * (seen + queries)) + 4.0 * self.layers * tokens * self.heads / tp * width
        return Operator(
            name="attention", kind="attention", weight_bytes=0.0, moved_bytes=moved, flops=flops, launches=self.layers
        )

    def _experts_operator(self, experts: Experts, tokens: Any, tp: int) -> Operator:
        one, shared = (
            self.feed_forward_parameters(experts.intermediate),
            self.feed_forward_parameters(experts.shared_intermediate),
        )
        layers, scale = self.expert_layers(), self.weight_bits / 8 / tp
        read = layers * (experts.touched(tokens) * one + shared) * scale
        held = layers * (experts.count * one + shared) * scale
        flops = 2.0 * layers * tokens * (experts.active * one + shared) / tp
        moved = read + 4.0 * layers * tokens * experts.active * self.hidden
        return Operator(
            name="experts", kind="experts", weight_bytes=held, moved_bytes=moved, flops=flops, launches=3 * layers
        )

    def _pointwise(self, tokens: Any) -> Operator:
        moved = 2.0 * self.layers * tokens * 8 * self.hidden
        return Operator(
            name="norms and residuals",
            kind="pointwise",
            weight_bytes=0.0,
            moved_bytes=moved,
            flops=moved,
            launches=4 * self.layers,
        )

    def _head(self, tokens: Any, tp: int) -> Operator:
        held = 2.0 * self.vocabulary * self.hidden / tp
        moved = held + 2.0 * tokens * (self.hidden + self.vocabulary / tp)
        flops = 2.0 * tokens * self.hidden * self.vocabulary / tp
        return Operator(name="head", kind="head", weight_bytes=held, moved_bytes=moved, flops=flops, launches=1)


def _first(error: ValidationError) -> str:
    told = error.errors()[0]
    return f"`{'.'.join(map(str, told['loc']))}` {told.get('input')!r}: {told['msg']}"
