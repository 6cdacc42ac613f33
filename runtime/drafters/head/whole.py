"""A head's forward over a few tokens as one call of compiled code, on a CPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch

from runtime.drafters.head.cache import HeadCache
from runtime.drafters.head.network import HeadNetwork
from runtime.drafters.head.shape import HeadShape
from runtime.kernels.around import Around
from runtime.kernels.cpu.threads import Pool
from runtime.kernels.program import Operation
from runtime.models.laid import MOST, Heads, Laid, LaidForwards, fits, operations_of
from runtime.models.linear import AdaptiveLinear
from runtime.models.packing import Packing

__all__ = ["WholeHead"]


class Headed(Protocol):
    """What is read of a `HeadModel`: its sizes, its weights and its products."""

    dtype: torch.dtype
    device: torch.device
    shape: HeadShape
    network: HeadNetwork
    around: Around
    rotations: torch.Tensor
    qkv: AdaptiveLinear
    out: AdaptiveLinear
    gate_up: AdaptiveLinear
    down: AdaptiveLinear
    head: list[AdaptiveLinear]


class WholeHead:
    """Forwards of a head as one call each, where every operation is compiled for the operands."""

    def __init__(self) -> None:
        self._made = LaidForwards["_Forward"]()
        self._places: _Places | None = None

    def __call__(
        self,
        head: Headed,
        embedded: torch.Tensor,
        states: torch.Tensor,
        positions: torch.Tensor,
        mask: torch.Tensor | None,
        cache: HeadCache,
        rows: Packing,
    ) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Logits, by the head's own tokens, and the states handed on; None where it is not to be had.

        Parameters
        ----------
        embedded, states : (tokens, width)
            What the tokens of `rows` are entered with.
        positions : (tokens,) int64
        """
        if not fits(mask, rows, cache, head.dtype):
            return None
        with self._made.lock:
            made = self._made.of(rows.tokens, lambda run: self._laid(head, rows.tokens, run))
            return None if made is None else made(head, embedded, states, positions, mask, cache, rows)

    def _laid(self, head: Headed, tokens: int, run: Pool) -> _Forward | None:
        """The operations of so many tokens on their places; None where one of them is not compiled."""
        shape = head.shape
        heads = Heads(shape.heads, shape.kv_heads, shape.head_dim, shape.head_dim**-0.5)
        products = [head.qkv, head.out, head.gate_up, head.down, *head.head]
        operations = operations_of(products, tokens, heads, head.around, head.dtype, head.device)
        if operations is None:
            return None
        if self._places is None:
            self._places = _Places(head, heads)
        return _Forward(head, tokens, heads, operations, self._places, run)


class _Places:
    """Where a forward of up to `MOST` tokens keeps what is between its operations: the same for any number."""

    def __init__(self, head: Headed, heads: Heads) -> None:
        width, inner = head.shape.width, head.gate_up.outputs // 2

        def rows_of(entries: int) -> torch.Tensor:
            return torch.empty((MOST, entries), dtype=head.dtype)

        self.embedded, self.states, self.residual, self.added = (rows_of(width) for _ in range(4))
        self.between, self.last, self.normed = (rows_of(width) for _ in range(3))
        self.entered, self.qkv, self.read = rows_of(2 * width), rows_of(heads.wide), rows_of(heads.queries * heads.size)
        self.gate_up, self.gated = rows_of(2 * inner), rows_of(inner)
        self.low = rows_of(head.head[0].outputs)
        self.turns = torch.empty((MOST, 1, heads.size // 2), dtype=head.rotations.dtype)


class _Forward:
    """Forwards of so many tokens, by the operations of the layer's four products and the output head's."""

    def __init__(
        self, head: Headed, rows: int, heads: Heads, operations: Sequence[Operation], places: _Places, run: Pool
    ) -> None:
        self._places = places
        shape, layer, width = head.shape, head.network.layer, head.shape.width
        normed, added, between = places.normed, places.added, places.between
        laid = self._laid = Laid(rows, head.dtype, heads, shape.eps, operations)
        laid.norm(places.embedded, layer.input_layernorm.weight, places.entered[:, :width])
        laid.norm(places.states, layer.hidden_norm.weight, places.entered[:, width:])
        residual = places.states
        if shape.norm_before_residual:
            residual = places.residual
            laid.norm(places.states, layer.hidden_norm.weight, residual)
        laid.multiply(places.entered, places.qkv)
        laid.attend(places.qkv, places.turns, places.read)
        laid.multiply(places.read, added)
        laid.norm(residual, layer.post_attention_layernorm.weight, normed, added, between)
        laid.multiply(normed, places.gate_up)
        laid.gate(places.gate_up, places.gated)
        laid.multiply(places.gated, added)
        laid.norm(between, head.network.norm.weight, normed, added, places.last)
        x = normed
        if len(head.head) > 1:
            laid.multiply(normed, places.low)
            x = places.low
        self._onto = laid.multiply(x, places.last)  # logits are new at each forward, which says where
        laid.close(run)

    def __call__(
        self,
        head: Headed,
        embedded: torch.Tensor,
        states: torch.Tensor,
        positions: torch.Tensor,
        mask: torch.Tensor | None,
        cache: HeadCache,
        rows: Packing,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        many, places = rows.tokens, self._places
        places.embedded[:many], places.states[:many] = embedded, states
        torch.index_select(head.rotations, 0, positions, out=places.turns[:many])
        logits = torch.empty((many, head.head[-1].outputs), dtype=head.dtype)
        self._onto(logits)
        self._laid(mask, cache, rows)
        return logits, (places.normed if head.shape.norm_output else places.last)[:many].clone()
