"""A head's cache: keys and values, and for every entry the state that a token after it is drafted from."""

from __future__ import annotations

import torch

from runtime.cache.rows import RowCache

__all__ = ["HeadCache", "own_places", "places_above", "rows_of"]


class HeadCache(RowCache):
    """Entries of a head's rows; entry i is the pair (token i + 1 of the row's text, state at token i).

    Attributes
    ----------
    states : (rows, slots + 1, width)
        Entry i reads ``states[i]`` where it follows entry i - 1, and leaves its own in ``states[i + 1]``.
    known : (rows,) int64
        How many of a row's states are the target's, of committed tokens: no draft writes over these.
    """

    def __init__(self, rows: int, slots: int, width: int, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__(1, rows, slots)
        self.known = torch.zeros(rows, dtype=torch.int64, device=device)
        self.states = torch.zeros((self.held_rows, self.held_slots + 1, width), dtype=dtype, device=device)

    @torch.no_grad()
    def fit(self, rows: int, slots: int) -> None:
        if (rows, slots) != (self.held_rows, self.held_slots):
            old, kept = self.states, (min(rows, self.held_rows), min(slots, self.held_slots) + 1)
            self.states = old.new_zeros((rows, slots + 1, old.shape[2]))
            self.states[: kept[0], : kept[1]] = old[: kept[0], : kept[1]]
        super().fit(rows, slots)

    @torch.inference_mode()
    def give(self, row: int, start: int, states: torch.Tensor) -> None:
        """States of committed tokens `start` .. of a row, (n, width): all that it knows from here on."""
        end = start + len(states)
        if row >= self.held_rows or end > self.held_slots:
            self.fit(max(row + 1, self.held_rows), min(max(end + 1, self.held_slots), self.slots))
        self.states[row, start:end] = states
        self.known[row] = end

    @torch.inference_mode()
    def read(self, rows: slice, places: torch.Tensor) -> torch.Tensor:
        """(B, Q, width) states at (B, Q) places of some rows."""
        return self.states[torch.arange(rows.start, rows.stop, device=places.device).unsqueeze(1), places]

    @torch.inference_mode()
    def leave(self, rows: slice, places: torch.Tensor, states: torch.Tensor) -> None:
        """Write (B, Q, width) states at (B, Q) places, but for those that are known."""
        where = torch.arange(rows.start, rows.stop, device=places.device).unsqueeze(1), places
        kept = (places < self.known[rows].unsqueeze(1)).unsqueeze(-1)
        self.states[where] = torch.where(kept, self.states[where], states)

    @torch.inference_mode()
    def move_row(self, source: int, target: int) -> None:
        super().move_row(source, target)
        known = int(self.known[source])
        self.states[target, :known] = self.states[source, :known]
        self.known[target] = known
        self.known[source] = 0

    @torch.inference_mode()
    def clean(self, row: int, start: int) -> None:
        """As for any cache; states of committed tokens stay: the target gave them, and no bad step was committed."""
        super().clean(row, start)
        if row < self.held_rows:
            self.states[row, int(self.known[row]) :] = 0


def own_places(cache: RowCache, batch: int, queries: int, device: torch.device) -> torch.Tensor:
    """(B, Q) slots that a forward's queries are written to."""
    if cache.start is None:
        return cache.slot_index.expand(batch, queries)
    return (cache.start + torch.arange(queries, device=device)).expand(batch, queries)


def places_above(mask: torch.Tensor | None, own: torch.Tensor) -> torch.Tensor:
    """(B, Q) slot after that of each query's parent: the last that its row of a tree mask sees before its own.

    Ancestors lie in slots in their order, so that the last one seen is the parent; 0 where there is none.
    """
    if mask is None:
        return own
    slots = torch.arange(mask.shape[-1], device=mask.device)
    seen = (mask[:, 0] == 0) & (slots < own.unsqueeze(-1))
    return torch.where(seen, slots + 1, 0).amax(-1)


def rows_of(cache: RowCache, batch: int) -> slice:
    """Rows of a forward over `batch` rows."""
    return slice(cache.first_row, cache.first_row + batch)
