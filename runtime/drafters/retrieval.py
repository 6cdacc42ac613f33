"""Retrieval drafting for one request: what followed this context before, in its own text or in past outputs.

Costs no forward of any model. The request's own text is a suffix index that grows with every token; an optional
datastore of past outputs is shared by all requests. Trees are grown best first by estimated path probability, and
every node looks its own context up anew. Sources only ever see what the prefix determines.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from reader_theory.errors import require
from runtime.drafters.datastore import Datastore
from runtime.drafters.suffix_index import MAX_DEPTH, SuffixIndex, record_positions
from runtime.kernels.cpu.suffix import growth as kernel

__all__ = ["Evidence", "RetrievalIndex", "RetrievedTree", "record_positions", "speculate_batch"]


@dataclass(frozen=True, slots=True)
class RetrievedTree:
    """Draft tree in the order in which it was grown; parents come before children.

    Attributes
    ----------
    tokens : (N,) int32
    parents : (N,) int32
        Row of the parent; -1 hangs off the last token of the text.
    path_probability : (N,) float64
        Estimate that every token on the path is emitted, never larger than the parent's.
    match_length : (N,) int32
        Tokens of context (text and path) that the longest occurrence behind this node shares with it.
    """

    tokens: NDArray[np.int32]
    parents: NDArray[np.int32]
    path_probability: NDArray[np.float64]
    match_length: NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Evidence:
    """How much a match counts: odds of a single occurrence, by source and match length.

    p(token) = W(token) / (escape + sum W), where an occurrence adds its odds to the token that followed it, divided
    by the square root of the number of occurrences beside it.

    Attributes
    ----------
    odds : (3, 33) float64, >= 0
        Rows: own text, delta, datastore; columns: match length, 32 for longer ones.
    escape : float, > 0
        Weight of everything that retrieval does not offer.
    """

    odds: NDArray[np.float64]
    escape: float = 1.0

    @classmethod
    def smooth(
        cls, scale: Sequence[float] = (0.3, 0.2, 0.2), power: Sequence[float] = (1.5, 1.5, 1.5), escape: float = 1.0
    ) -> Evidence:
        """odds(source, m) = scale * m ** power."""
        length = np.arange(33.0)
        return cls(np.stack([s * length**p for s, p in zip(scale, power, strict=True)]), escape)


_DEFAULT = Evidence.smooth()
_NO_STORE = Datastore.build([])


class RetrievalIndex:
    """Retrieval state of one request.

    Parameters
    ----------
    prompt : (P,) int32, >= 0
        Token ids of the prompt.
    datastore : Datastore, optional
        Past outputs, shared between requests.
    evidence : Evidence, optional
        A fitted calibration instead of the default.
    max_depth : int
        Longest context of the request's own text told apart, in tokens; longer matches count as this long.
    """

    def __init__(
        self,
        prompt: ArrayLike,
        datastore: Datastore | None = None,
        *,
        evidence: Evidence | None = None,
        max_depth: int = MAX_DEPTH,
    ) -> None:
        self._index = SuffixIndex(prompt, max_depth=max_depth)
        self._store = datastore or _NO_STORE
        self._evidence = evidence or _DEFAULT
        self._odds = np.ascontiguousarray(self._evidence.odds, np.float64).ravel()

    def extend(self, tokens: ArrayLike) -> None:
        """Append emitted tokens, (n,) int32; raises InvalidInputError, and appends nothing, when one is no token id."""
        self._index.extend(tokens)

    @property
    def match_length(self) -> int:
        """Tokens of the longest suffix of the request's text that occurred in it before; 0 for none."""
        return self._index.match_length

    @property
    def match_count(self) -> int:
        """Earlier occurrences of that suffix."""
        return self._index.match_count

    def chain(self, max_tokens: int) -> NDArray[np.int32]:
        """Continuation of the most recent longest match, (n,) int32, n <= `max_tokens`; looked up anew where it ends."""
        return self._index.chain(max_tokens)

    def tree(self, budget: int, price: float = 0.0) -> RetrievedTree:
        """Draft tree of at most `budget` nodes, each with a path probability above `price`."""
        tokens, parents, matches = np.empty(budget, np.int32), np.empty(budget, np.int32), np.empty(budget, np.int32)
        chances = np.empty(budget, np.float64)
        made = kernel.grow(
            self._index.header,
            self._store.delta.header,
            self._store.header,
            self._odds,
            self._evidence.escape,
            budget,
            price,
            tokens,
            parents,
            chances,
            matches,
        )
        return RetrievedTree(tokens[:made], parents[:made], chances[:made], matches[:made])

    @property
    def nbytes(self) -> int:
        """Bytes held for this request (the datastore is shared and not counted)."""
        return self._index.nbytes


def speculate_batch(
    indices: Sequence[RetrievalIndex], budgets: ArrayLike, prices: ArrayLike = 0.0, *, threads: int = 1
) -> list[RetrievedTree]:
    """Trees of many requests that share a datastore and evidence; the same as `tree` of each.

    Parameters
    ----------
    indices : sequence of B RetrievalIndex
    budgets : (B,) or scalar int
        Largest number of nodes, by request.
    prices : (B,) or scalar float
        Path probability that a node must pass, by request.
    threads : int
        The batch is cut in this many parts, one compiled call each, none of which holds the GIL.
    """
    count = len(indices)
    if count == 0:
        return []
    first = indices[0]
    require(
        all(index._store is first._store and index._evidence is first._evidence for index in indices),
        "`indices` must share one datastore and one evidence",
        got="several",
        fix="Speculate for each group in a call of its own.",
    )
    most = np.ascontiguousarray(np.broadcast_to(np.asarray(budgets, np.int64), count))
    floor = np.ascontiguousarray(np.broadcast_to(np.asarray(prices, np.float64), count))
    width = int(most.max())
    addresses = np.array([index._index.address for index in indices], np.int64)
    tokens, parents, matches = (np.empty((count, width), np.int32) for _ in range(3))
    chances, made = np.empty((count, width)), np.empty(count, np.int64)

    def part(cut: slice) -> None:
        kernel.grow_many(
            addresses[cut],
            first._store.delta.header,
            first._store.header,
            first._odds,
            first._evidence.escape,
            most[cut],
            floor[cut],
            tokens[cut],
            parents[cut],
            chances[cut],
            matches[cut],
            made[cut],
        )

    edges = np.linspace(0, count, min(threads, count) + 1).astype(int).tolist()
    cuts = [slice(low, high) for low, high in zip(edges, edges[1:], strict=False)]
    waiting = [_pool(len(cuts) - 1).submit(part, cut) for cut in cuts[1:]]
    part(cuts[0])
    for task in waiting:
        task.result()
    sizes = made.tolist()
    return [
        RetrievedTree(tokens[row, :n], parents[row, :n], chances[row, :n], matches[row, :n])
        for row, n in enumerate(sizes)
    ]


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max(threads, 1), thread_name_prefix="retrieval")
