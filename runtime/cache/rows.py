"""Key-value cache with a length of its own for every row; tree nodes are scratch behind it until they are committed.

Row b holds its committed tokens in slots ``0 .. lengths[b] - 1``. A forward over Q tokens a row writes slots
``lengths[b] .. lengths[b] + Q - 1``; committing moves the accepted ones together and the rest is overwritten by the
next forward. Nothing else moves: a step that accepts a tokens copies at most a entries a layer, whatever the context.
Memory is taken as rows and tokens come, never more than was asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from transformers.cache_utils import Cache, CacheLayerMixin

from reader_theory.errors import InvalidInputError, require
from reader_theory.memory import KVFormat
from runtime.kernels.commit import KVPool, commit
from runtime.kernels.tree_inputs import TreeInputs

__all__ = ["RowCache", "compact"]

T = TypeVar("T")

GROWTH = 128
"""Slots are added by multiples of this where nobody has said how many will be needed."""


class RowLayer(CacheLayerMixin):
    """Keys and values of one layer, (rows, kv heads, slots, head dim), written where the cache's forward says."""

    def __init__(self, cache: RowCache) -> None:
        super().__init__()
        self.cache = cache

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        shape = (self.cache.held_rows, key_states.shape[1], self.cache.held_slots)
        self.keys = key_states.new_zeros((*shape, key_states.shape[-1]))
        self.values = value_states.new_zeros((*shape, value_states.shape[-1]))
        self.is_initialized = True

    def resize(self, rows: int, slots: int) -> None:
        """Storage of another size with what fits of the old one in it."""
        if self.is_initialized:
            assert self.keys is not None and self.values is not None
            self.keys, self.values = (_resized(old, rows, slots) for old in (self.keys, self.values))

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: object, **kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None and self.values is not None
        cache = self.cache
        rows = slice(cache.first_row, cache.first_row + key_states.shape[0])
        if cache.start is not None:
            end = cache.start + key_states.shape[2]
            self.keys[rows, :, cache.start : end] = key_states
            self.values[rows, :, cache.start : end] = value_states
        else:
            where = (cache.row_index, slice(None), cache.slot_index)
            self.keys[where] = key_states.transpose(1, 2)
            self.values[where] = value_states.transpose(1, 2)
        return self.keys[rows, :, : cache.width], self.values[rows, :, : cache.width]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.cache.width, 0

    def get_seq_length(self) -> int:
        return int(self.cache.lengths.max(initial=0))

    def get_max_length(self) -> int:
        return self.cache.slots

    def reset(self) -> None:
        self.cache.lengths[:] = 0

    def reorder_cache(self, beam_idx: torch.LongTensor) -> None:
        assert self.keys is not None and self.values is not None
        self.keys, self.values = self.keys[beam_idx], self.values[beam_idx]


def _resized(old: torch.Tensor, rows: int, slots: int) -> torch.Tensor:
    new = old.new_zeros((rows, old.shape[1], slots, old.shape[3]))
    kept_rows, kept_slots = min(rows, old.shape[0]), min(slots, old.shape[2])
    new[:kept_rows, :, :kept_slots] = old[:kept_rows, :, :kept_slots]
    return new


def _commit(pool: KVPool, lengths: NDArray[np.int64], path: NDArray[np.int64], kept: NDArray[np.int64]) -> None:
    there = pool.stores[0].device
    if there.type == "cpu":
        commit(pool, lengths, path, kept, trusted=True)
        return
    held = torch.from_numpy(lengths).to(there)
    commit(pool, held, torch.from_numpy(path).to(there), torch.from_numpy(kept).to(there))
    lengths[:] = held.cpu().numpy()


@lru_cache(maxsize=256)
def _rows(first: int, last: int) -> torch.Tensor:
    return torch.arange(first, last).unsqueeze(1)


def compact(rows: list[T], done: Callable[[T], bool]) -> list[tuple[int, int]]:
    """Take out the rows that are done, the last row into each gap; the moves (from row, to row), in order.

    Examples
    --------
    >>> rows = ["a", "-", "b", "-", "c"]
    >>> compact(rows, "-".__eq__), rows
    ([(4, 3), (3, 1)], ['a', 'c', 'b'])
    """
    moves: list[tuple[int, int]] = []
    for row in range(len(rows) - 1, -1, -1):
        if done(rows[row]):
            last = rows.pop()
            if row < len(rows):
                rows[row] = last
                moves.append((len(rows), row))
    return moves


class RowCache(Cache):
    """A transformers `Cache` whose rows grow, commit and leave on their own.

    Parameters
    ----------
    layers : int
        Layers of the model.
    rows, slots : int
        Most rows at once, and most tokens a row, scratch included.

    Attributes
    ----------
    held_rows, held_slots : int
        What memory is held for; grows when a forward needs it, and is set by `fit`.
    counts : (B,) int64, optional
        Tokens of each row in the next forward, where they are not as many in all: what lies behind them is padding.
    """

    def __init__(self, layers: int, rows: int, slots: int, layer: Callable[[RowCache], RowLayer] = RowLayer) -> None:
        require(
            rows >= 1 and slots >= 2,
            "`rows` and `slots` must be at least 1 and 2",
            got=f"rows {rows}, slots {slots}",
            fix="Give the cache room for one row of a prompt and a token.",
        )
        self.rows, self.slots = rows, slots
        self.held_rows, self.held_slots = 1, min(slots, GROWTH)
        self.lengths: NDArray[np.int64] = np.zeros(rows, dtype=np.int64)
        self.start: int | None = 0
        self.first_row = 0
        self.width = 0
        self.row_index = torch.zeros((1, 1), dtype=torch.int64)
        self.slot_index = torch.zeros((1, 1), dtype=torch.int64)
        self.counts: NDArray[np.int64] | None = None
        self.inputs: dict[tuple[int, int], TreeInputs] = {}
        self._held: list[torch.Tensor | None] = []
        self._pooled: list[KVPool] = []
        self.stores = [layer(self) for _ in range(layers)]
        super().__init__(layers=list(self.stores))

    in_place = True
    """Whether keys and values lie in `stores` as attention reads them: else a layer's `update` says where."""

    @property
    def seen(self) -> int:
        """Slots that the next forward's attention sees."""
        return self.width

    @property
    def reach(self) -> int:
        """Most tokens of a row that one forward may take, and most that its last may lie beyond the committed ones."""
        return self.slots

    def begin(
        self,
        starts: Sequence[int],
        tokens: int,
        first_row: int = 0,
        whole: int = 1,
    ) -> int:
        """Aim the next forward at slots ``starts[b] .. starts[b] + tokens - 1`` of rows `first_row` + b; its width.

        The width is the number of slots that the forward's attention sees, the next multiple of `whole` where the
        cache holds as many: a mask must have as many columns. Where rows start in different slots, the caller sets
        `slot_index`, (B, tokens).
        """
        low, high, last_row = min(starts), max(starts), first_row + len(starts)
        end = high + tokens
        if end > self.slots:
            raise InvalidInputError(
                "a row must have room for the tokens of a forward",
                got=f"a row of {high} tokens and {tokens} more in a cache of {self.slots} slots",
                fix="Open the engine with a longer `max_context`, or shorten the prompt or the draft.",
            )
        if last_row > self.held_rows or end > self.held_slots:
            slots = self.held_slots if end <= self.held_slots else min(-(-end // GROWTH) * GROWTH, self.slots)
            self.fit(max(last_row, self.held_rows), slots)
        self.width, self.first_row = min(-(-end // whole) * whole, self.held_slots), first_row
        self.start, self.counts = low if low == high else None, None
        if self.start is None:
            self.row_index = _rows(first_row, last_row)
        return self.width

    @torch.no_grad()
    def fit(self, rows: int, slots: int) -> None:
        """Hold memory for exactly `rows` rows of `slots` tokens; what lies beyond them is given back."""
        if (rows, slots) != (self.held_rows, self.held_slots):
            self.held_rows, self.held_slots = rows, slots
            for layer in self.stores:
                layer.resize(rows, slots)

    def commit(self, path: NDArray[np.int64], kept: NDArray[np.int64]) -> None:
        """Keep the accepted scratch entries of rows 0 .. B - 1, in order.

        Parameters
        ----------
        path : (B, Q) int64
            Scratch entries on each row's path: increasing, 0 the root.
        kept : (B,) int64
            How many of them count.
        """
        self._committed(path, kept)

    def _committed(self, path: NDArray[np.int64], kept: NDArray[np.int64]) -> None:
        self._keep(self.lengths[: len(kept)], path, kept)

    def _keep(self, lengths: NDArray[np.int64], path: NDArray[np.int64], kept: NDArray[np.int64]) -> None:
        """Move the accepted entries behind the first `lengths` slots of each row, and count them in."""
        pools = self._pools()
        for pool in pools[1:]:
            _commit(pool, lengths.copy(), path, kept)
        if pools:
            _commit(pools[0], lengths, path, kept)
        else:
            lengths += kept

    def _pools(self) -> list[KVPool]:
        """Keys and values of one shape together; made anew when a layer's tensors have been replaced."""
        held = [tensor for layer in self.stores for tensor in (layer.keys, layer.values)]
        if len(held) != len(self._held) or any(new is not old for new, old in zip(held, self._held, strict=True)):
            alike: dict[torch.Size, list[torch.Tensor]] = {}
            for tensor in held:
                if tensor is not None:  # a layer that reads another's keys and values has none
                    alike.setdefault(tensor.shape, []).append(tensor)
            self._pooled, self._held = [KVPool.over(group) for group in alike.values()], held
        return self._pooled

    @torch.inference_mode()
    def move_row(self, source: int, target: int) -> None:
        """Put row `source` in the place of row `target`."""
        length = int(self.lengths[source])
        for layer in self.stores:
            if layer.is_initialized and length:
                assert layer.keys is not None and layer.values is not None
                layer.keys[target, :, :length] = layer.keys[source, :, :length]
                layer.values[target, :, :length] = layer.values[source, :, :length]
        self.lengths[target] = length
        self.lengths[source] = 0

    @torch.inference_mode()
    def clean(self, row: int, start: int) -> None:
        """Zero a row from a slot on: what is not a number counts even where a mask hides it."""
        for layer in self.stores:
            if layer.is_initialized and row < self.held_rows:
                assert layer.keys is not None and layer.values is not None
                layer.keys[row, :, start:] = 0
                layer.values[row, :, start:] = 0

    def masked(self, mask: torch.Tensor, positions: torch.Tensor, hidden: float) -> torch.Tensor:
        """The mask of the forward that `begin` aimed, given its (B, Q) positions: for a cache that shows more slots."""
        return mask

    @property
    def format(self) -> KVFormat:
        """The bytes that it takes; known after the first forward."""
        values = sum(
            tensor.shape[1] * tensor.shape[3]
            for layer in self.stores
            if layer.is_initialized
            for tensor in (layer.keys, layer.values)
            if tensor is not None
        )
        return KVFormat(name="plain", values_per_token=values, token_bytes=self.kv_bytes_per_token())

    def kv_bytes_per_token(self) -> int:
        """Bytes of keys and values that one token takes over all layers; 0 before the first forward."""
        total = 0
        for layer in self.stores:
            if layer.is_initialized:
                assert layer.keys is not None and layer.values is not None
                for tensor in (layer.keys, layer.values):
                    total += tensor.shape[1] * tensor.shape[3] * tensor.element_size()
        return total
