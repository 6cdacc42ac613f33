"""A row cache whose older tokens lie in few bits; it is aimed, written, committed and read like any other.

Row b holds its first tokens and its latest ones as they are, in a buffer; what leaves the buffer has been written as a
record, once. Which chunks a query sees as records is decided by its position alone (`Window.chunks`): where the nodes
of one forward lie on both sides of a border, the chunk is there twice, and the mask shows each node its own. So the
law of a token depends on the tokens before it, and on nothing else: neither drafts nor batch move a border.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from reader_theory.errors import require
from reader_theory.memory import KVFormat
from runtime.cache.quantised.codec import Codec
from runtime.cache.quantised.scheme import Codecs, Scheme
from runtime.cache.rows import RowCache, RowLayer

__all__ = ["QuantisedCache"]

Pair = tuple[NDArray[np.float32], NDArray[np.float32]]
Fill = Callable[[int, torch.Tensor], None]
"""Writes the chunks that a row shows to (heads, tokens, entries of a head)."""


class QuantisedLayer(RowLayer):
    """Buffer and records of one layer.

    Attributes
    ----------
    keys, values : (rows, kv heads, buffer, head dim)
        First and latest tokens, and scratch.
    records : pair of (rows, chunks, bytes) uint8
        Of keys and of values.
    """

    cache: QuantisedCache
    codecs: Codecs

    def __init__(self, cache: QuantisedCache) -> None:
        super().__init__(cache)
        self.place = len(cache.made)
        cache.made.append(self)

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        cache, shapes = self.cache, [(x.shape[1], x.shape[3]) for x in (key_states, value_states)]
        self.codecs = cache.scheme.codecs(self.place, *shapes)
        self.kind = key_states.new_empty(0)
        sizes = [(cache.held_rows, heads, cache.held_buffer, size) for heads, size in shapes]
        self.keys, self.values = (self.kind.new_zeros(size) for size in sizes)
        self.records = self._records(cache.held_rows, cache.held_chunks)
        self.is_initialized = True

    def _records(self, rows: int, chunks: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        made = (
            np.zeros((rows, chunks, each.record_bytes), np.uint8) for each in (self.codecs.keys, self.codecs.values)
        )
        keys, values = made
        return keys, values

    def resize(self, rows: int, slots: int) -> None:
        if not self.is_initialized:
            return
        super().resize(rows, self.cache.held_buffer)
        old, self.records = self.records, self._records(rows, self.cache.held_chunks)
        for new, before in zip(self.records, old, strict=True):
            kept = tuple(slice(min(a, b)) for a, b in zip(new.shape[:2], before.shape[:2], strict=True))
            new[kept] = before[kept]

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: object, **kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None and self.values is not None
        cache, batch = self.cache, key_states.shape[0]
        where = (cache.row_index, slice(None), cache.buffer_index)
        self.keys[where], self.values[where] = key_states.transpose(1, 2), value_states.transpose(1, 2)
        shown = cache.shown[cache.first_row : cache.first_row + batch]
        if not shown.any():
            rows = slice(cache.first_row, cache.first_row + batch)
            if cache.width <= self.keys.shape[2]:
                return self.keys[rows, :, : cache.width], self.values[rows, :, : cache.width]
        keys, values = self._by_record(shown) if cache.scheme.by_record else self._by_layer(shown)
        return cache.view("keys", self.keys, keys, shown), cache.view("values", self.values, values, shown)

    def _by_record(self, shown: NDArray[np.int64]) -> tuple[Fill, Fill]:
        """What writes the keys, and the values, of the chunks that a row shows."""

        def fill(codec: Codec, records: NDArray[np.uint8]) -> Fill:
            first = self.cache.first_row
            return lambda row, out: codec.decode_to(records[first + row, : shown[row]], out)

        return fill(self.codecs.keys, self.records[0]), fill(self.codecs.values, self.records[1])

    def _by_layer(self, shown: NDArray[np.int64]) -> tuple[Fill, Fill]:
        """The same, where all rows are read at once, from what the layer before was read as."""
        ends = np.cumsum(shown) * self.cache.window.chunk

        def fill(numbers: NDArray[np.float32]) -> Fill:
            def write(row: int, out: torch.Tensor) -> None:
                own = torch.from_numpy(numbers[ends[row] - out.shape[1] : ends[row]])
                out.copy_(own.view(out.shape[1], len(out), -1).transpose(0, 1))

            return write

        read = self._read(shown)
        return fill(read[0]), fill(read[1])

    def _read(self, shown: NDArray[np.int64]) -> Pair:
        """Keys and values of all chunks that the rows show, one row behind the other."""
        cache = self.cache
        records = [
            np.concatenate([each[cache.first_row + row, :count] for row, count in enumerate(shown)])
            for each in self.records
        ]
        read = self.codecs.read(records[0], records[1], cache.before)
        cache.before = read
        return cache.turned(read[0], cache.positions_of(shown)), read[1]

    def write(self, row: int, chunk: int, slot: int, before: Pair | None) -> Pair:
        """Write the chunk that lies from `slot` of the buffer on; what it is read back as, keys not yet turned."""
        assert self.keys is not None and self.values is not None
        size = self.cache.window.chunk
        held = (
            each[row, :, slot : slot + size].transpose(0, 1).reshape(size, -1).float().numpy(force=True)
            for each in (self.keys, self.values)
        )
        keys, values = held
        first = self.cache.window.first + chunk * size
        keys = self.cache.turned(keys, np.arange(first, first + size), back=True)
        key_record, value_record, read = self.codecs.write(keys, values, before)
        self.records[0][row, chunk], self.records[1][row, chunk] = key_record, value_record
        return read

    def shift(self, row: int, tokens: int) -> None:
        """Drop the oldest chunk of a row's buffer, of which so many slots are in use."""
        first, size = self.cache.window.first, self.cache.window.chunk
        for each in (self.keys, self.values):
            assert each is not None
            each[row, :, first : tokens - size] = each[row, :, first + size : tokens].clone()


class QuantisedCache(RowCache):
    """Rows whose older tokens are records.

    Parameters
    ----------
    scheme : Scheme
    rotations : (positions, 1, head dim / 2) complex64, optional
        What turns pairs of a key that lie side by side; for a scheme that writes keys as they were before.

    Attributes
    ----------
    gone, written : (rows,) int64
        Chunks that have left each row's buffer, and chunks that have been written.
    shown : (rows,) int64
        Chunks that the forward in course sees as records.
    """

    def __init__(
        self, layers: int, rows: int, slots: int, scheme: Scheme, rotations: torch.Tensor | None = None
    ) -> None:
        self.scheme, self.window, self.rotations = scheme, scheme.window, rotations
        self.gone, self.written, self.shown, self.last = np.zeros((4, rows), dtype=np.int64)
        self.before: Pair | None = None
        self.made: list[QuantisedLayer] = []
        self.views: dict[str, torch.Tensor] = {}
        self.doubled = False
        super().__init__(layers, rows, slots, layer=QuantisedLayer)  # pyright: ignore[reportArgumentType]

    in_place = False

    @property
    def seen(self) -> int:
        return self.width + self.window.chunk * self.doubled

    @property
    def reach(self) -> int:
        return self.window.reach

    @property
    def held_buffer(self) -> int:
        """Slots of a row's buffer."""
        return min(self.held_slots, self.window.buffer)

    @property
    def held_chunks(self) -> int:
        """Records that a row has room for."""
        return int(self.window.chunks(self.held_slots))

    def begin(self, starts: Sequence[int], tokens: int, first_row: int = 0, whole: int = 1) -> int:
        width = super().begin(starts, tokens, first_row, whole)
        rows = range(first_row, first_row + len(starts))
        for row in rows:
            self._settle(row, int(self.lengths[row]))
        local = np.array(starts) - self.gone[list(rows)] * self.window.chunk
        require(
            tokens <= self.reach + 1 and int(local.max()) + tokens <= self.held_buffer,
            "a forward over a quantised cache must fit in its buffer",
            got=f"{tokens} tokens a row; the buffer leaves room for {self.reach}, the root not counted",
            fix="Draft fewer nodes, or open the cache with a larger buffer.",
        )
        self.row_index = torch.arange(first_row, first_row + len(starts)).unsqueeze(1)
        self.buffer_index = torch.from_numpy(local[:, None] + np.arange(tokens))
        self.shown[:] = self.gone
        self.before, self.doubled = None, False
        return width

    @torch.inference_mode()
    def _settle(self, row: int, length: int) -> None:
        """Take out of the buffer what no query sees any more as it was; a row that got shorter is another one."""
        if length < self.last[row]:
            self.gone[row] = self.written[row] = 0
        self.last[row] = length
        while self.gone[row] < int(self.window.chunks(length)):
            if self.written[row] == self.gone[row]:
                self._write(row)
            used = min(length - int(self.gone[row]) * self.window.chunk, self.held_buffer)
            for layer in self.made:
                if layer.is_initialized:
                    layer.shift(row, used)
            self.gone[row] += 1

    @torch.inference_mode()
    def _write(self, row: int) -> None:
        """Write a row's next chunk in all layers, each from what those before it are read back as."""
        before: Pair | None = None
        for layer in self.made:
            if layer.is_initialized:
                slot = self.window.first + int(self.written[row] - self.gone[row]) * self.window.chunk
                before = layer.write(row, int(self.written[row]), slot, before)
        self.written[row] += 1

    def masked(self, mask: torch.Tensor, positions: torch.Tensor, hidden: float) -> torch.Tensor:
        batch = len(positions)
        rows = slice(self.first_row, self.first_row + batch)
        late = self.window.chunks(positions.numpy(force=True)) > self.gone[rows, None]
        crossing = np.flatnonzero(late.any(axis=1))
        if not len(crossing):
            return mask
        size = self.window.chunk
        wide = torch.full((*mask.shape[:3], mask.shape[3] + size), hidden, dtype=mask.dtype, device=mask.device)
        wide[..., :-size] = mask
        for each in crossing.tolist():
            row = self.first_row + each
            if self.written[row] == self.gone[row]:
                self._write(row)
            self.shown[row] += 1
            first, early = self.window.first + size * int(self.gone[row]), torch.from_numpy(~late[each])
            wide[each, :, early, first : first + size] = hidden
            wide[each, :, early, -size:] = 0
        self.doubled = True
        return wide

    def view(self, name: str, held: torch.Tensor, fill: Fill, shown: NDArray[np.int64]) -> torch.Tensor:
        """What attention reads: first tokens, chunks as `fill` writes them, buffer; and what is there twice."""
        first, size, width = self.window.first, self.window.chunk, self.width
        shape = (len(shown), held.shape[1], self.seen, held.shape[3])
        view = self._room(name, shape, held)
        for each, count in enumerate(shown.tolist()):
            row = self.first_row + each
            own, twice = held[row], count - int(self.gone[row])
            border = first + size * count
            view[each, :, :first] = own[:, :first]
            if count:
                fill(each, view[each, :, first:border])
            rest = own[:, first + size * twice :][:, : width - border]
            view[each, :, border : border + rest.shape[1]] = rest
            view[each, :, border + rest.shape[1] : width] = 0
            if self.doubled:
                view[each, :, width:] = own[:, first : first + size] if twice else 0
        return view

    def _room(self, name: str, shape: tuple[int, int, int, int], like: torch.Tensor) -> torch.Tensor:
        """Memory that all layers read from in turn, as large as the rows that are held need."""
        held = self.views.get(name)
        most = self.held_rows * shape[1] * (self.held_slots + self.window.chunk) * shape[3]
        if held is None or held.numel() != most or held.dtype != like.dtype:
            held = self.views[name] = like.new_zeros(most)
        size = shape[0] * shape[1] * shape[2] * shape[3]
        return held[:size].view(shape)

    def positions_of(self, shown: NDArray[np.int64]) -> NDArray[np.int64]:
        """Positions of the tokens of the rows' first chunks, one row behind the other."""
        return np.concatenate([self.window.first + np.arange(self.window.chunk * count) for count in shown.tolist()])

    def turned(
        self, keys: NDArray[np.float32], positions: NDArray[np.int64], *, back: bool = False
    ) -> NDArray[np.float32]:
        """(n, kv) keys turned to their positions, or back; as they are where the scheme writes turned ones."""
        if not self.scheme.unturned:
            return keys
        assert self.rotations is not None
        by = self.rotations[torch.from_numpy(positions)].numpy(force=True).astype(np.complex64)
        pairs = np.ascontiguousarray(keys).view(np.complex64)
        pairs = pairs.reshape(len(keys), pairs.shape[1] // by.shape[-1], by.shape[-1])
        return (pairs / by if back else pairs * by).reshape(keys.shape[0], keys.shape[1] // 2).view(np.float32)

    def _committed(self, path: NDArray[np.int64], kept: NDArray[np.int64]) -> None:
        count = len(kept)
        shift = self.gone[:count] * self.window.chunk
        held = self.lengths[:count] - shift
        self._keep(held, path, kept)
        self.lengths[:count] = held + shift

    def move_row(self, source: int, target: int) -> None:
        super().move_row(source, target)
        for layer in self.made:
            for each in layer.records if layer.is_initialized else ():
                each[target] = each[source]
        for each in (self.gone, self.written, self.last):
            each[target], each[source] = each[source], 0

    def clean(self, row: int, start: int) -> None:
        super().clean(row, max(start - int(self.gone[row]) * self.window.chunk, 0))

    @property
    def format(self) -> KVFormat:
        """The bytes that it takes; known once its layers are."""
        layers = [layer for layer in self.made if layer.is_initialized]
        each = [(layer.codecs.keys.channels + layer.codecs.values.channels) for layer in layers]
        item = layers[0].kind.element_size()
        return KVFormat(
            name=self.scheme.name,
            values_per_token=sum(each),
            token_bytes=self.kv_bytes_per_token(),
            window=self.window,
            chunk_bytes=sum(x.codecs.keys.record_bytes + x.codecs.values.record_bytes for x in layers),
            view_bytes=max(each) * (item + self._read_bytes()),
            shared_bytes=self.scheme.shared_bytes,
        )

    def _read_bytes(self) -> int:
        """Of a number before attention's copy of it: float32, and again where the next layer is predicted from it."""
        return 0 if self.scheme.by_record else 4 * (1 + any(x.codecs.predictor is not None for x in self.made))
