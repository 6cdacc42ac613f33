"""Indices of a batch whose rows an engine names by nothing but their texts: rows join, move and leave without a word.

What an index knows is a function of the text that it has read. So any index that has read the beginning of a row's
text is the row's, and where none has, a new one reads it; those that no row took are freed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from runtime.retrieval.bodies import rows as kernel
from runtime.retrieval.datastore import Datastore
from runtime.retrieval.index import RetrievalIndex

__all__ = ["Followed", "Texts"]


class Texts(NamedTuple):
    """Where the texts of a batch lie.

    Attributes
    ----------
    addresses : (B,) int64
        Of the int32 tokens of each row.
    lengths : (B,) int64
        Tokens of each row; 0 for one that is not to be drafted for.
    rows : sequence of B or more (n,) int32
        The tokens, and perhaps more behind them.
    """

    addresses: NDArray[np.int64]
    lengths: NDArray[np.int64]
    rows: Sequence[NDArray[np.int32]] | NDArray[np.int32]

    @classmethod
    def of_matrix(cls, tokens: NDArray[np.int32], lengths: NDArray[np.int64]) -> Self:
        """The first `lengths` (B,) tokens of rows 0 .. B - 1 of a matrix."""
        rows = tokens if tokens.dtype == np.int32 and tokens.strides[1] == 4 else np.ascontiguousarray(tokens, np.int32)
        return cls(rows.ctypes.data + rows.strides[0] * np.arange(len(lengths)), lengths, rows)

    def of(self, row: int) -> NDArray[np.int32]:
        """(n,) int32: the tokens of a row."""
        return self.rows[row][: int(self.lengths[row])]

    @classmethod
    def of_rows(cls, rows: Sequence[NDArray[np.integer]]) -> Self:
        """One array a row."""
        held = [np.ascontiguousarray(row, np.int32) for row in rows]
        places = np.array([row.ctypes.data for row in held], np.int64)
        return cls(places, np.array([row.size for row in held], np.int64), held)


class Followed:
    """Indices that follow the texts of a batch.

    Parameters
    ----------
    datastore : Datastore, optional
        Past outputs, shared by all rows.

    Attributes
    ----------
    indices : list of B (RetrievalIndex or None)
        Of the rows followed last; None where there is no text, or one with a number that is no token id.
    addresses : (B,) int64
        Of their headers, as the compiled bodies take them; 0 for none.
    """

    def __init__(self, datastore: Datastore | None = None) -> None:
        self.datastore = datastore
        self.clear()

    def follow(self, texts: Texts) -> list[RetrievalIndex | None]:
        """Take in the texts of a step: every row's index has then read all of its text."""
        rows = len(texts.lengths)
        spare = [index for index in self.indices[rows:] if index is not None]
        if rows != len(self.indices):
            self._keep([*self.indices[:rows], *[None] * (rows - len(self.indices))])
        left = np.empty(rows, np.int64)
        if kernel.follow_many(self.addresses, texts.addresses, texts.lengths, left):
            self._keep(self._settled(texts, left, spare))
        return self.indices

    def clear(self) -> None:
        """Forget all rows."""
        self._keep([])

    def _keep(self, indices: list[RetrievalIndex | None]) -> None:
        self.indices = indices
        self.addresses = np.array([0 if index is None else index.addresses[0] for index in indices], np.int64)

    def _settled(
        self, texts: Texts, left: NDArray[np.int64], spare: list[RetrievalIndex]
    ) -> list[RetrievalIndex | None]:
        """The indices of the rows once nothing is `left` to do; of those in `spare`, too, some may have read a text."""
        held = list(self.indices)
        strange = np.flatnonzero(left == kernel.OTHER).tolist()
        for row in strange:
            if (index := held[row]) is not None:
                spare.append(index)
        for row in strange:
            held[row] = self._of(spare, texts, row)
        for row in np.flatnonzero(left > 0).tolist():
            index = held[row]
            assert index is not None, "only what has an index has no room in it"
            index.extend(texts.of(row)[-int(left[row]) :])
        for row in np.flatnonzero(left == kernel.BAD).tolist():
            held[row] = None
        return held

    @property
    def nbytes(self) -> int:
        """Bytes held for the rows; the datastore is not counted."""
        return sum(index.nbytes for index in self.indices if index is not None)

    def _of(self, spare: list[RetrievalIndex], texts: Texts, row: int) -> RetrievalIndex | None:
        """The index of a row that had none of its text: the one that has read most of it, or a new one."""
        text, place = texts.of(row), texts.addresses[row]
        if not text.size or int(text.min()) < 0:
            return None
        known = [index for index in spare if kernel.begins(index.addresses[0], place, text.size)]
        if not known:
            return RetrievalIndex(text, self.datastore)
        found = max(known, key=lambda index: index.tokens)
        spare.remove(found)
        found.extend(text[found.tokens :])
        return found
