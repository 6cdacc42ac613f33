"""A step's forward of a `LeanModel` as one call of compiled code, on a CPU; one a layer over a quantised cache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch

from runtime.cache.rows import RowCache
from runtime.kernels.cpu.threads import Pool
from runtime.kernels.program import Operation
from runtime.models.base import Output
from runtime.models.laid import MOST, Heads, Laid, LaidForwards, fits, operations_of
from runtime.models.packing import Packing

__all__ = ["Whole"]


class Layered(Protocol):
    """What is read of a `LeanModel`: its sizes, its weights and its products."""

    dtype: torch.dtype
    device: torch.device
    vocabulary: int
    heads: int
    kv_heads: int
    head_dim: int
    eps: float
    scale: float
    rotations: torch.Tensor
    around: Any
    embedding: Any
    layers: Any
    norm: Any
    head: Any

    @property
    def final_layer(self) -> int: ...


class Whole:
    """Forwards of a model as one call each, where every operation is compiled for the operands.

    It holds where the model's weights lie, and not the model, which holds it.
    """

    def __init__(self) -> None:
        self._made = LaidForwards["_Forward"]()
        self._places: _Places | None = None

    def __call__(
        self,
        model: Layered,
        tokens: torch.Tensor,
        positions: torch.Tensor,
        mask: torch.Tensor | None,
        cache: RowCache,
        hidden: Sequence[int],
        rows: Packing,
    ) -> Output | None:
        """As `LanguageModel.forward` of its model; None where it is not to be had."""
        if not fits(mask, rows, cache, model.dtype):
            return None
        with self._made.lock:
            made = self._made.of(rows.tokens, lambda run: self._laid(model, rows.tokens, run))
            return None if made is None else made(model, tokens, positions, mask, cache, hidden, rows)

    def _laid(self, model: Layered, tokens: int, run: Pool) -> _Forward | None:
        """The operations of so many tokens on their places; None where one of them is not compiled."""
        heads = Heads(model.heads, model.kv_heads, model.head_dim, model.scale)
        products = [each for layer in model.layers for each in (layer.qkv, layer.out, layer.gate_up, layer.down)]
        plain = all(layer.norm_q is None and layer.norm_k is None for layer in model.layers)
        if not plain or model.head.bias is not None:
            return None
        operations = operations_of([*products, model.head], tokens, heads, model.around, model.dtype, model.device)
        if operations is None:
            return None
        if self._places is None:
            self._places = _Places(model, heads)
        return _Forward(model, tokens, heads, operations, self._places, run)


class _Places:
    """Where a forward of up to `MOST` tokens keeps what is between its operations: the same for any number."""

    def __init__(self, model: Layered, heads: Heads) -> None:
        width, inner = model.embedding.weight.shape[1], model.layers[0].gate_up.outputs // 2

        def rows_of(entries: int) -> torch.Tensor:
            return torch.empty((MOST, entries), dtype=model.dtype)

        self.between, self.last, self.normed, self.added = (rows_of(width) for _ in range(4))
        self.qkv, self.read = rows_of(heads.wide), rows_of(heads.queries * heads.size)
        self.gate_up, self.gated = rows_of(2 * inner), rows_of(inner)
        self.streams = [rows_of(width) for _ in model.layers]
        self.turns = torch.empty((MOST, 1, heads.size // 2), dtype=model.rotations.dtype)


class _Forward:
    """Forwards of so many tokens, by the operations of each layer's four products and the output head's."""

    def __init__(
        self, model: Layered, rows: int, heads: Heads, operations: list[Operation], places: _Places, run: Pool
    ) -> None:
        self._places = places
        between, normed, added = places.between, places.normed, places.added
        laid = self._laid = Laid(rows, model.dtype, heads, model.eps, operations)
        for i, (layer, stream) in enumerate(zip(model.layers, places.streams, strict=True)):
            laid.norm(between if i else stream, layer.norm_in.weight, normed, added if i else None, stream)
            laid.multiply(normed, places.qkv, layer.qkv.bias)
            laid.attend(places.qkv, places.turns, places.read)
            laid.multiply(places.read, added, layer.out.bias)
            laid.norm(stream, layer.norm_mlp.weight, normed, added, between)
            laid.multiply(normed, places.gate_up, layer.gate_up.bias)
            laid.gate(places.gate_up, places.gated)
            laid.multiply(places.gated, added, layer.down.bias)
        laid.norm(between, model.norm.weight, normed, added, places.last)
        self._onto = laid.multiply(normed, places.last)  # logits are new at each forward, which says where
        laid.close(run)

    def __call__(
        self,
        model: Layered,
        tokens: torch.Tensor,
        positions: torch.Tensor,
        mask: torch.Tensor | None,
        cache: RowCache,
        hidden: Sequence[int],
        rows: Packing,
    ) -> Output:
        many, places = rows.tokens, self._places
        torch.index_select(model.embedding.weight, 0, rows.pack(tokens.reshape(-1)), out=places.streams[0][:many])
        torch.index_select(model.rotations, 0, rows.pack(positions.reshape(-1)), out=places.turns[:many])
        logits = torch.empty((many, model.vocabulary), dtype=model.dtype)
        self._onto(logits)
        self._laid(mask, cache, rows)
        states = (places.normed if i == model.final_layer else places.streams[i] for i in hidden)
        kept = tuple(rows.pad(each[:many].clone()) for each in states)
        return Output(rows.pad(logits), kept, many)
