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
from runtime.drafters.chains import offered_chains
from runtime.retrieval.datastore import Datastore
from runtime.retrieval.index import RetrievalIndex

__all__ = ["RetrievalDrafter"]


class RetrievalDrafter(Drafter):
    """Chains from an index over each row's text.

    Parameters
    ----------
    datastore : Datastore, optional
        Past outputs. Chains are then the likeliest over both, the row's own text and these.
    learn : bool
        Finished outputs join the datastore of their tenant, which has the given one's sorted part and grows by itself.
    """

    name = "retrieval"
    term = "retrieval"

    def __init__(self, datastore: Datastore | None = None, *, learn: bool = False) -> None:
        self.datastore, self.learning = datastore, learn
        self.stores: dict[str, Datastore] = {}
        self._next = datastore
        self.indices: list[RetrievalIndex] = []

    def open(self, name: str, rows: int, slots: int) -> None:
        super().open(name, rows, slots)
        self.indices = [RetrievalIndex([])] * rows

    def join(self, row: int, tokens: NDArray[np.int64], hidden: Any = None) -> None:
        self.indices[row] = RetrievalIndex(tokens.astype(np.int32), self._next)

    def extend(self, row: int, tokens: list[int], hidden: Any = None) -> None:
        self.indices[row].extend(np.array(tokens, dtype=np.int32))

    def move(self, source: int, target: int) -> None:
        self.indices[target] = self.indices[source]

    def serve(self, tenant: str) -> None:
        self._next = self._store_of(tenant) if self.learning else self.datastore

    def learn(self, tenant: str, output: list[int]) -> None:
        if self.learning and (store := self._store_of(tenant)) is not None:
            store.add(output)

    def _store_of(self, tenant: str) -> Datastore | None:
        if tenant not in self.stores and self.datastore is not None:
            self.stores[tenant] = self.datastore.for_tenant()
        return self.stores.get(tenant)

    def propose(self, policy: Any, rows: Sequence[Row], spare: Sequence[int]) -> Proposal:
        most = np.array([min(row.room - 1, left) for row, left in zip(rows, spare, strict=True)], dtype=np.int64)
        beside = self.datastore is not None
        found, sure = offered_chains(self.indices[: len(rows)], policy, most, beside=beside)
        if not any(map(len, found)):
            return roots_alone(rows, sure)
        return Proposal(gathered(rows, found, name=self.name), matches=sure)


DRAFTERS.register(RetrievalDrafter)
