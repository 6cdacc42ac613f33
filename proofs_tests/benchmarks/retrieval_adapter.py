"""Our retrieval drafter behind the replay benchmark's interface; hand it over as ``--plugin``, drafter ``reader``.

The benchmark's ``api`` module must be importable when this file is loaded (its replay script sees to that).
Options: ``price`` (path probability that a node must pass), ``max_depth``, ``learn`` (finished outputs join the
datastore's delta).
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import api  # pyright: ignore[reportMissingImports]

from runtime.retrieval.datastore import Datastore
from runtime.retrieval.index import RetrievalIndex


@api.register("reader")
class Reader(api.Drafter):
    """Own text, delta and datastore in one tree; a chain is the most likely path of that tree."""

    supports_tree = True

    def __init__(
        self, price: float = 0.0, chain_price: float = 0.0, max_depth: int = 32, learn: bool = True, **others: object
    ) -> None:
        super().__init__(**others)
        self._price, self._chain_price, self._max_depth, self._learn = price, chain_price, max_depth, learn
        self._store = Datastore.build([])
        self._index = self._new(np.array([0, 1, 0], np.int32))
        self._index.grow(4)
        self._made: list[np.ndarray] = []

    def _new(self, prompt: np.ndarray) -> RetrievalIndex:
        return RetrievalIndex(prompt, self._store, max_depth=self._max_depth)

    def build(self, docs: list[np.ndarray]) -> None:
        """Sort the documents; compiled bodies are warmed on a tiny datastore first, as a serving process would."""
        self._store = Datastore.build(docs)

    def start(self, prompt: np.ndarray) -> None:
        self._index = self._new(prompt)
        self._made = []

    def extend(self, tokens: np.ndarray) -> None:
        self._index.extend(tokens)
        if self._learn:
            self._made.append(tokens)

    def speculate(self, context: np.ndarray, budget: int, tree: bool) -> tuple[list[int], list[int]]:
        if tree:
            grown = self._index.grow(budget, self._price)
            return grown.tokens[0].tolist(), grown.parents[0].tolist()
        return api.chain(self._index.grow(budget, self._chain_price, single=True).tokens[0].tolist())

    def finish(self) -> None:
        if self._learn and self._made:
            self._store.add(np.concatenate(self._made))
