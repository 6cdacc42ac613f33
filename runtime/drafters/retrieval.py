"""Retrieval drafter: a chain of what followed this context before, in the row's own text or in past outputs.

Prefer it where texts repeat themselves or each other: it costs no forward of any model. How long a chain is follows
from how long the match is that it is based on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.drafters.base import DRAFTERS, Drafter, Proposal, Row, gathered, roots_alone
from runtime.retrieval.datastore import Datastore
from runtime.retrieval.index import RetrievalIndex

__all__ = ["RetrievalDrafter"]


class RetrievalDrafter(Drafter):
    """Chains from an index over each row's text.

    Parameters
    ----------
    datastore : Datastore, optional
        Past outputs, for trees that are grown.
    """

    name = "retrieval"
    term = "retrieval"

    def __init__(self, datastore: Datastore | None = None) -> None:
        self.datastore = datastore
        self.indices: list[RetrievalIndex] = []

    def open(self, name: str, rows: int, slots: int) -> None:
        super().open(name, rows, slots)
        self.indices = [RetrievalIndex([])] * rows

    def join(self, row: int, tokens: NDArray[np.int64], hidden: Any = None) -> None:
        self.indices[row] = RetrievalIndex(tokens.astype(np.int32), self.datastore)

    def extend(self, row: int, tokens: list[int], hidden: Any = None) -> None:
        self.indices[row].extend(np.array(tokens, dtype=np.int32))

    def move(self, source: int, target: int) -> None:
        self.indices[target] = self.indices[source]

    def propose(self, policy: Any, rows: Sequence[Row], spare: Sequence[int]) -> Proposal:
        found: list[Any] = []
        matches: list[int] = []
        for index, row, left in zip(self.indices, rows, spare, strict=False):
            match = index.match_length
            cap = min(policy.cap(match), row.room - 1, left)
            found.append(index.chain(cap) if cap > 0 else ())
            matches.append(match)
        sure = np.array(matches, dtype=np.int64)
        if not any(map(len, found)):
            return roots_alone(rows, sure)
        return Proposal(gathered(rows, found, name=self.name), matches=sure)


DRAFTERS.register(RetrievalDrafter)
