"""Neural drafter: a smaller causal model drafts a static tree of its own most likely tokens, level by level.

Prefer it when the target is many times dearer than the draft. Its tree is deterministic given the prefix, so that
greedy and target-only verification keep it lossless. The first level comes out of the forward that takes in the
tokens emitted since; each further level costs one forward over the nodes that have children.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from time import perf_counter

import numpy as np
import torch
from numpy.typing import NDArray

from reader_theory.trees import TokenTree
from runtime.cache.rows import RowCache
from runtime.kernels.top import draft_level
from runtime.models.base import LanguageModel
from runtime.models.inputs import forward_trees, prefill

__all__ = ["NeuralDrafter"]

CATCH_UP = 32
"""Pending tokens from which they are taken in by a prefill of their own, rather than padded into the batch."""


@dataclass(frozen=True)
class _Level:
    """One level of a tree: who its nodes are, and which of them are forwarded for the next."""

    nodes: NDArray[np.int64]
    parents: NDArray[np.int64]
    ranks: NDArray[np.int64]
    inner: NDArray[np.int64]
    inner_parents: NDArray[np.int64]
    candidates: int


@lru_cache(maxsize=256)
def _levels(tree: TokenTree) -> tuple[_Level, ...]:
    """Levels of a tree; `parents` index the queries of the forward before, `inner_parents` all forwarded nodes."""
    has_child = np.isin(np.arange(len(tree)), tree.parents)
    place, levels, written = {0: 0}, [], 0
    forwarded = {0: -1}
    for depth in range(1, tree.depth + 1):
        nodes = np.flatnonzero(tree.depths == depth)
        above = tree.parents[nodes].tolist()
        inner = nodes[has_child[nodes]]
        levels.append(
            _Level(
                nodes=nodes,
                parents=np.array([place[p] for p in above], dtype=np.int64),
                ranks=tree.ranks[nodes].astype(np.int64),
                inner=inner,
                inner_parents=np.array([forwarded[p] for p in tree.parents[inner].tolist()], dtype=np.int64),
                candidates=int(tree.ranks[nodes].max()) + 1,
            )
        )
        place = {int(node): i for i, node in enumerate(inner)}
        forwarded |= {int(node): written + i for i, node in enumerate(inner)}
        written += len(inner)
    return tuple(levels)


_Step = tuple[_Level, NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]


def _for_rows(tree: TokenTree, rows: int) -> tuple[list[_Step], NDArray[np.int64]]:
    """By level, each row's queries above its nodes, how many nodes are forwarded and how many were; and all parents."""
    levels, steps, written = _levels(tree), list[_Step](), 0
    for level in levels:
        counts = np.full(rows, len(level.inner))
        steps.append((level, np.tile(level.parents, (rows, 1)), counts, np.full(rows, written)))
        written += len(level.inner)
    inner = np.concatenate([np.zeros(0, np.int64), *(level.inner_parents for level in levels)])
    return steps, np.tile(inner, (rows, 1))


@lru_cache(maxsize=256)
def _chain(rows: int, tokens: int) -> NDArray[np.int64]:
    """Parents of chains."""
    return np.tile(np.arange(tokens) - 1, (rows, 1))


def _at(last: list[int], level: _Level) -> NDArray[np.int64]:
    """The queries above a first level: the last of each row."""
    return np.array([[query] * len(level.nodes) for query in last], dtype=np.int64)


def _fill(logits: torch.Tensor, level: _Level, queries: NDArray[np.int64], tokens: NDArray[np.int64]) -> None:
    """The level's columns of `tokens`."""
    if not logits.is_cuda:
        draft_level(logits, level.candidates, queries, level.ranks, level.nodes, tokens, trusted=True)
        return
    there = [torch.from_numpy(x).to(logits.device) for x in (queries, level.ranks, level.nodes, tokens)]
    draft_level(logits, level.candidates, *there)
    tokens[:] = there[-1].cpu().numpy()


class NeuralDrafter:
    """Drafts for the rows of a batch from one model with a cache of its own.

    Parameters
    ----------
    model : LanguageModel
        The draft; its vocabulary must be the target's.
    rows, slots : int
        Room of its cache.

    Attributes
    ----------
    prefill_s : float
        Seconds spent so far on taking in prompts, and whatever else was pending at such length.
    """

    def __init__(self, model: LanguageModel, rows: int, slots: int) -> None:
        self.model = model
        self.cache: RowCache = model.new_cache(rows, slots)
        self.pending: list[list[int]] = [[] for _ in range(rows)]
        self.prefill_s = 0.0
        self._tree: TokenTree | None = None
        self._steps: dict[int, tuple[list[_Step], NDArray[np.int64]]] = {}

    def join(self, row: int, tokens: NDArray[np.int64]) -> None:
        """A request takes `row`; its prompt is taken in when a draft is first asked for."""
        self.cache.lengths[row] = 0
        self.pending[row] = tokens.tolist()

    def extend(self, row: int, tokens: list[int]) -> None:
        """The target emitted `tokens` in `row`."""
        self.pending[row].extend(tokens)

    def move_row(self, source: int, target: int) -> None:
        """Row `source` takes the place of row `target`."""
        self.cache.move_row(source, target)
        self.pending[target], self.pending[source] = self.pending[source], []

    def propose(self, rows: int, tree: TokenTree) -> NDArray[np.int64]:
        """(rows, N + 1) int64: the token of every drafted node of `tree`, for rows 0 .. rows - 1; 0 at the root."""
        logits, last = self._catch_up(rows)
        tokens = np.zeros((rows, len(tree)), dtype=np.int64)
        levels, parents = self._prepared(tree, rows)
        for level, queries, counts, written in levels:
            _fill(logits, level, queries if written is not levels[0][-1] else _at(last, level), tokens)
            if len(level.inner):
                logits = forward_trees(self.model, self.cache, tokens[:, level.inner], parents, counts, written)
        return tokens

    def _prepared(self, tree: TokenTree, rows: int) -> tuple[list[_Step], NDArray[np.int64]]:
        """`_for_rows`, remembered for each number of rows as long as the tree stays: to hash a tree takes longer."""
        if self._tree is not tree:
            self._tree, self._steps = tree, {}
        if rows not in self._steps:
            self._steps[rows] = _for_rows(tree, rows)
        return self._steps[rows]

    def _catch_up(self, rows: int) -> tuple[torch.Tensor, list[int]]:
        """Run every row's pending tokens into the cache; (rows, P, V) logits, and the query of each row's last."""
        for row in range(rows):
            early = self.pending[row][:-1]
            if len(early) >= CATCH_UP:
                start = perf_counter()
                prefill(self.model, self.cache, np.array(early, dtype=np.int64), row)
                self.pending[row] = self.pending[row][-1:]
                self.prefill_s += perf_counter() - start
        pending, self.pending[:rows] = self.pending[:rows], [[] for _ in range(rows)]
        lengths = [len(fresh) for fresh in pending]
        most = max(lengths)
        tokens = np.array([fresh + [0] * (most - len(fresh)) for fresh in pending], dtype=np.int64)
        logits = forward_trees(self.model, self.cache, tokens, _chain(rows, most), np.array(lengths, dtype=np.int64))
        for row, fresh in enumerate(lengths):
            self.cache.lengths[row] += fresh
        return logits, [fresh - 1 for fresh in lengths]

    def _take_in(self, rows: int) -> torch.Tensor:
        """The same, but (rows, 1, V) logits after the last token of each."""
        logits, last = self._catch_up(rows)
        return logits[torch.arange(rows), torch.tensor(last)].unsqueeze(1)
