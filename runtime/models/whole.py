"""A step's forward of a `LeanModel` as one call of compiled code, on a CPU.

Each of a step's 300 operators takes 10 to 30 microseconds to be called from Python, a third of a step of a small
model. Here their places in memory are laid down once for a number of tokens, and a call runs them all. The operations
are those that `LeanModel` calls one by one, but for the gates, which are torch's to rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from threading import Lock
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from runtime.cache.rows import RowCache
from runtime.kernels.around import CompiledAround
from runtime.kernels.attention import CompiledAttention, attention
from runtime.kernels.cpu.lanes import LINE
from runtime.kernels.cpu.threads import Pool, float_bits, pool
from runtime.kernels.program import Operation, Program, Task
from runtime.models.base import Output
from runtime.models.packing import Packing

__all__ = ["Whole"]

MOST = 64
"""Tokens of a forward, at most: more, as in prompts, take so long that calls do not count."""


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
        self._made: dict[tuple[int, int], _Forward | None] = {}
        self._places: _Places | None = None
        self._lock = Lock()

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
        if rows.tokens > MOST or type(cache) is not RowCache or not _fits(mask, rows.batch, rows.queries, cache, model):
            return None
        with self._lock:  # places are those of one forward at a time
            made = self._of(model, rows.tokens)
            return None if made is None else made(model, tokens, positions, mask, cache, hidden, rows)

    def _of(self, model: Layered, tokens: int) -> _Forward | None:
        key = tokens, torch.get_num_threads()
        if key not in self._made:
            self._made[key] = self._laid(model, tokens)
        return self._made[key]

    def _laid(self, model: Layered, tokens: int) -> _Forward | None:
        """The operations of so many tokens on their places; None where one of them is not compiled."""
        run, operations = pool(), _operations(model, tokens)
        if run is None or operations is None:
            return None
        if self._places is None:
            self._places = _Places(model)
        return _Forward(model, tokens, operations, self._places, run)


def _fits(mask: torch.Tensor | None, batch: int, queries: int, cache: RowCache, model: Layered) -> bool:
    keys = cache.stores[0].keys
    assert keys is not None
    seen = mask is None or (mask.shape == (batch, 1, queries, cache.width) and mask.stride(-1) == 1)
    return seen and keys.dtype == model.dtype and (mask is None or mask.dtype == model.dtype)


class _Places:
    """Where a forward of up to `MOST` tokens keeps what is between its operations: the same for any number."""

    def __init__(self, model: Layered) -> None:
        width, inner, size = model.embedding.weight.shape[1], model.layers[0].gate_up.outputs // 2, model.head_dim
        wide = (model.heads + 2 * model.kv_heads) * size

        def rows_of(entries: int) -> torch.Tensor:
            return torch.empty((MOST, entries), dtype=model.dtype)

        self.between, self.last, self.normed, self.added = (rows_of(width) for _ in range(4))
        self.qkv, self.read = rows_of(wide), rows_of(model.heads * size)
        self.gate_up, self.gated = rows_of(2 * inner), rows_of(inner)
        self.streams = [rows_of(width) for _ in model.layers]
        self.turns = torch.empty((MOST, 1, size // 2), dtype=model.rotations.dtype)


def _operations(model: Layered, rows: int) -> list[Operation] | None:
    """Those of a forward's products; None where one of them, or of what is around them, is not compiled."""
    made = attention(None, rows, model.heads // model.kv_heads, model.scale, dtype=model.dtype, device=model.device)
    compiled = isinstance(made, CompiledAttention) and isinstance(model.around, CompiledAround)
    if not compiled:
        return None
    from runtime.kernels.cpu import attention as twin

    products: list[Any] = [each for layer in model.layers for each in (layer.qkv, layer.out, layer.gate_up, layer.down)]
    operations: list[Operation | None] = [each.operation(rows) for each in (*products, model.head)]
    found = [each for each in operations if each is not None]
    plain = all(layer.norm_q is None and layer.norm_k is None for layer in model.layers)
    if not plain or model.head.bias is not None or model.head_dim % twin.STEP or len(found) < len(operations):
        return None
    return found


class _Forward:
    """Forwards of so many tokens, by the operations of each layer's four products and the output head's."""

    def __init__(self, model: Layered, rows: int, operations: list[Operation], places: _Places, run: Pool) -> None:
        from runtime.kernels.cpu import around
        from runtime.kernels.cpu import attention as twin

        self._places, self._twin = places, twin
        entry, size, heads, kv_heads = model.dtype.itemsize, model.head_dim, model.heads, model.kv_heads
        width, inner, wide = places.normed.shape[1], places.gated.shape[1], places.qkv.shape[1]
        between, normed, added, qkv, read = places.between, places.normed, places.added, places.qkv, places.read
        self._aside = torch.empty(max(each.room_bytes for each in operations) + LINE, dtype=torch.uint8)
        self._read_aside = torch.empty(0, dtype=torch.uint8)
        room = self._room = -(-self._aside.data_ptr() // LINE) * LINE
        eps, of_qkv = float_bits(model.eps), qkv.data_ptr()
        parts: list[tuple[int, Task]] = []
        left = iter(operations)

        def norm(x: torch.Tensor, more: torch.Tensor | None, weight: torch.Tensor, total: torch.Tensor) -> None:
            held = (x.data_ptr(), 0 if more is None else more.data_ptr(), weight.data_ptr(), total.data_ptr())
            parts.append((around.share_of_norms.address, (entry, *held, normed.data_ptr(), rows, width, eps)))

        def multiply(product: Any, x: torch.Tensor, out: torch.Tensor) -> None:
            operation = next(left)
            parts.append((operation.share, operation.task(x.data_ptr(), out.data_ptr(), room)))
            if product.bias is not None:
                task = (entry, out.data_ptr(), product.bias.data_ptr(), rows, out.shape[1])
                parts.append((around.share_of_biases.address, task))

        self._kept, self._reads = list[int](), list[int]()
        for i, (layer, stream) in enumerate(zip(model.layers, places.streams, strict=True)):
            norm(between if i else stream, added if i else None, layer.norm_in.weight, stream)
            multiply(layer.qkv, normed, qkv)
            turns = (entry, of_qkv, places.turns.data_ptr(), rows, wide, heads + kv_heads, size)
            parts.append((around.share_of_turns.address, turns))
            self._kept.append(len(parts))
            told = (entry, of_qkv + heads * size * entry, 0, 0, 0, kv_heads, size, wide * entry, *[0] * 9)
            parts.append((around.share_of_entries.address, told))
            self._reads.append(len(parts))
            told = (entry, of_qkv, 0, 0, 0, read.data_ptr(), 0, 0, kv_heads, heads // kv_heads, 0, size, 0)
            apart = (wide * entry, size * entry, *[0] * 8, float_bits(model.scale), 0)
            parts.append((twin.share_of_attention.address, (*told, *apart)))
            multiply(layer.out, read, added)
            norm(stream, added, layer.norm_mlp.weight, between)
            multiply(layer.gate_up, normed, places.gate_up)
            task = (entry, places.gate_up.data_ptr(), places.gated.data_ptr(), rows, inner)
            parts.append((around.share_of_gates.address, task))
            multiply(layer.down, places.gated, added)
        norm(between, added, model.norm.weight, places.last)
        self._head, self._finish = len(parts), operations[-1]
        multiply(model.head, normed, places.last)  # logits are new at each forward, which says where
        self._program = Program(run, parts)

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
        aimed = self._aim(mask, cache, model.head_dim, rows)
        logits = torch.empty((many, model.vocabulary), dtype=model.dtype)
        task = self._finish.task(places.normed.data_ptr(), logits.data_ptr(), self._room)
        self._program.tasks[self._head, : len(task)] = task
        self._program()
        del aimed
        states = (places.normed if i == model.final_layer else places.streams[i] for i in hidden)
        kept = tuple(rows.pad(each[:many].clone()) for each in states)
        return Output(rows.pad(logits), kept, many)

    def _aim(
        self, mask: torch.Tensor | None, cache: RowCache, size: int, rows: Packing
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Tell where keys and values lie, and what queries see of them; what is given back holds what was told."""
        batch, queries = rows.batch, rows.queries
        firsts = np.concatenate([[0], np.cumsum(rows.counts)])
        if cache.start is not None:
            slots_of = np.tile(cache.start + np.arange(queries), (batch, 1))
        else:
            slots_of = np.ascontiguousarray(cache.slot_index.numpy())
        keys, values = cache.stores[0].keys, cache.stores[0].values
        assert keys is not None and values is not None
        entry, slots = keys.element_size(), cache.width
        apart = [[entry * stride for stride in each.stride()[:3]] for each in (keys, values)]
        first = [cache.first_row * strides[0] for strides in apart]
        lie = np.array([(store.keys.data_ptr(), store.values.data_ptr()) for store in cache.stores]) + first  # pyright: ignore[reportOptionalMemberAccess]
        needed = torch.get_num_threads() * self._twin.room_bytes(slots, size)
        if self._read_aside.numel() < needed:
            self._read_aside = torch.empty(needed, dtype=torch.uint8)
        tasks = self._program.tasks
        kept, reads = self._kept, self._reads
        tasks[kept, 2], tasks[kept, 3], tasks[kept, 4] = slots_of.ctypes.data, batch, queries
        tasks[kept, 8], tasks[kept, 12] = lie.T
        tasks[kept, 9:12], tasks[kept, 13:16], tasks[kept, 16] = *apart, firsts.ctypes.data
        tasks[reads, 2], tasks[reads, 3] = lie.T
        tasks[reads, 4], tasks[reads, 6], tasks[reads, 12] = 0, self._read_aside.data_ptr(), slots
        tasks[reads, 7], tasks[reads, 10], tasks[reads, 24] = batch, queries, firsts.ctypes.data
        tasks[reads, 15:18], tasks[reads, 18:21] = apart
        if mask is not None:
            tasks[reads, 4] = mask.data_ptr()
            tasks[reads, 21], tasks[reads, 22] = entry * mask.stride(0), entry * mask.stride(2)
        return firsts, slots_of
