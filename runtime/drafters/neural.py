"""Neural drafter: a smaller causal model drafts a static tree of its own most likely tokens, level by level.

Prefer it when the target is many times dearer than the draft. Its tree is deterministic given the prefix, so that
greedy and target-only verification keep it lossless; rows whose rule needs drafts drawn from a law get them drawn. The
first level comes out of the forward that takes in the tokens emitted since; each further level costs one forward over
the nodes that have children. A model that drafts a block has all levels out of the first forward, with a mask token
behind the others for each further level: a level's law is then the same below all its nodes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from time import perf_counter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from reader_theory.documents.forwards import DraftForwards
from reader_theory.trees import TokenTree, TokenTrees
from runtime.cache.rows import RowCache
from runtime.drafters.base import DRAFTERS, Drafter, Proposal, Row, gathered, roots_alone
from runtime.drafters.sampled import Ask, draw_drafts
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


@dataclass(frozen=True)
class _Shape:
    """A static tree as rows are filled with it."""

    tree: TokenTree
    above: NDArray[np.int64]
    down_to: list[int]
    inner: list[int]

    @classmethod
    def of(cls, tree: TokenTree) -> _Shape:
        """By level, with each node's parent, how many there are down to each depth, and those that a forward takes."""
        tree = tree.by_level()
        above = tree.parents.astype(np.int64)
        inner = [len(level.inner) for level in _levels(tree) if len(level.inner)]
        return cls(tree, above, np.cumsum([1, *tree.level_widths]).tolist(), inner)


class NeuralDrafter(Drafter):
    """Drafts for the rows of a batch from one model with a cache of its own.

    Parameters
    ----------
    model : LanguageModel
        The draft; its vocabulary must be the target's.

    Attributes
    ----------
    pending : list of list of int
        Tokens of each row that its cache does not hold yet.
    prefill_s : float
        Seconds spent so far on taking in prompts, and whatever else was pending at such length.
    """

    name = "neural"
    takes = DraftForwards()

    def __init__(self, model: LanguageModel) -> None:
        self._model, self.features = model, model.features
        if model.block:
            self.takes = DraftForwards(kind="block", masks=1, rooted=True)
        self.pending: list[list[int]] = []
        self.prefill_s = 0.0
        self._shaped: tuple[Any, _Shape] | None = None
        self._tree: TokenTree | None = None
        self._steps: dict[int, tuple[list[_Step], NDArray[np.int64]]] = {}
        self._block: list[torch.Tensor] = []

    @property
    def model(self) -> LanguageModel:
        return self._model

    @property
    def cache(self) -> RowCache:
        return self._cache

    def open(self, name: str, rows: int, slots: int) -> None:
        super().open(name, rows, slots)
        self._cache = self._model.new_cache(rows, slots)
        self.pending = [[] for _ in range(rows)]

    def join(self, row: int, tokens: NDArray[np.int64], hidden: Any = None) -> None:
        """A request takes `row`; its prompt is taken in when a draft is first asked for."""
        self.again(row, tokens)
        if self.features:
            self._model.give(self._cache, row, 0, hidden)

    def again(self, row: int, tokens: NDArray[np.int64]) -> None:
        self._cache.lengths[row] = 0
        self.pending[row] = tokens[self._first :].tolist()

    def extend(self, row: int, tokens: list[int], hidden: Any = None) -> None:
        if self.features and tokens:
            self._model.give(self._cache, row, int(self._cache.lengths[row]) + len(self.pending[row]), hidden)
        self.pending[row].extend(tokens)

    @property
    def _first(self) -> int:
        """The first token of a row that it takes in: a head has nothing to enter the very first with."""
        return 1 if self.features else 0

    def move(self, source: int, target: int) -> None:
        self._cache.move_row(source, target)
        self.pending[target], self.pending[source] = self.pending[source], []

    def shape(self, policy: Any) -> _Shape:
        """The policy's tree, remembered as long as it stays: its hash takes longer than the rest."""
        if self._shaped is None or self._shaped[0] is not policy:
            self._shaped = policy, _Shape.of(policy.tree)
        return self._shaped[1]

    def propose(self, policy: Any, rows: Sequence[Row], spare: Sequence[int]) -> Proposal:
        """Nodes that a row could never emit, has no slot for, or that lie past the model's positions are left out."""
        shape = self.shape(policy)
        tree, reach = shape.tree, self.reach(rows)
        if min(reach) <= 0:
            spare = [left if far > 0 else 0 for left, far in zip(spare, reach, strict=True)]
        if not tree.nodes or max(spare) <= 0:
            return roots_alone(rows)
        pending = np.array([len(tokens) for tokens in self.pending[: len(rows)]], dtype=np.int64)
        drawn = (row.scheme != "deterministic" or row.constrained for row in rows)
        if any(each and left > 0 for each, left in zip(drawn, spare, strict=True)):
            return self._drawn(tree, rows, spare, reach)
        tokens = np.empty((len(rows), len(tree)), dtype=np.int64)
        tokens[:, 0] = [row.output[-1] for row in rows]
        self.fill(tree, tokens, reach)
        kept = [
            max(1, min(shape.down_to[max(min(row.room - 1, tree.depth, far), 0)], left + 1))
            for row, left, far in zip(rows, spare, reach, strict=True)
        ]
        most = max(kept)
        if most < len(tree):
            tokens = tokens[:, :most].copy()
        parents = np.repeat(shape.above[None, :most], len(rows), axis=0)
        for row, count in enumerate(kept):
            if count < most:
                tokens[row, count:], parents[row, count:] = 0, -1
        counts = np.array(kept, dtype=np.int64)
        further = [] if self._model.block else shape.inner
        taken = pending + self._masks(len(rows), reach, tree.depth)
        forwards = (taken, *(np.full(len(rows), size) for size in further))
        return Proposal(TokenTrees(tokens, parents, counts, names=("", self.name)), forwards=forwards)

    def reach(self, rows: Sequence[Row]) -> list[int]:
        """Depth down to which the model can draft each row's nodes; none for a row that is past its positions."""
        return [self.deepest(row.length) for row in rows]

    def deepest(self, length: int) -> int:
        """Depths that it can draft after a text of `length`: as far as it has positions, or as its block is long."""
        room = self._model.max_positions - length
        return min(room, self._model.block) if self._model.block else room

    def _masks(self, rows: int, reach: Sequence[int], depth: int) -> NDArray[np.int64]:
        """(B,) masks of each row for so many levels of a block; none for any other model."""
        most = max(min(depth, self._model.block) - 1, 0)
        return np.clip(np.array(list(reach) or [most + 1] * rows, dtype=np.int64) - 1, 0, most)

    def _drawn(self, tree: TokenTree, rows: Sequence[Row], spare: Sequence[int], reach: Sequence[int]) -> Proposal:
        """Drafts where some row's rule needs them drawn from the draft's law."""
        vocabulary = self._model.vocabulary
        asks = [
            Ask.of(row, tree, left, vocabulary, far) if left > 0 else None
            for row, left, far in zip(rows, spare, reach, strict=True)
        ]
        taken = np.array([len(tokens) for tokens in self.pending[: len(rows)]], dtype=np.int64)
        masks = self._masks(len(rows), reach, tree.depth)
        forwards, first = [taken + masks], self.take_in(len(rows), reach, masks)
        drawn = draw_drafts(self.deeper, first, asks, [] if self._model.block else forwards)
        tokens, parents = [draft.tokens[1:] for draft in drawn], [draft.tree.parents[1:] for draft in drawn]
        trees = gathered(rows, tokens, parents, self.name)
        laws = [None if draft.scheme in ("deterministic", "coupled") else draft for draft in drawn]
        return Proposal(trees, laws, forwards=tuple(forwards))

    def fill(self, tree: TokenTree, tokens: NDArray[np.int64], reach: Sequence[int] = ()) -> None:
        """Write the token of every drafted node of `tree`, by level, into `tokens` (B, N + 1), for rows 0 .. B - 1.

        A row takes part in levels down to its `reach`; in all when left out.
        """
        rows = len(tokens)
        levels, parents = self._prepared(tree, rows)
        if self._model.block:
            logits = self.take_in(rows, reach, self._masks(rows, reach, tree.depth))
            for level, *_ in levels[: self._model.block]:
                _fill(logits, level, np.zeros((rows, len(level.nodes)), dtype=np.int64), tokens)
                logits = self._block.pop(0) if self._block else logits
            return
        logits, last = self._catch_up(rows, reach)
        short = bool(reach) and min(reach) < tree.depth
        for depth, (level, queries, counts, written) in enumerate(levels, start=1):
            _fill(logits, level, queries if written is not levels[0][-1] else _at(last, level), tokens)
            if len(level.inner):
                if short:
                    counts = np.where(np.array(reach) > depth, counts, 0)
                logits = forward_trees(self._model, self._cache, tokens[:, level.inner], parents, counts, written)

    def _prepared(self, tree: TokenTree, rows: int) -> tuple[list[_Step], NDArray[np.int64]]:
        """`_for_rows`, remembered for each number of rows as long as the tree stays: to hash a tree takes longer."""
        if self._tree is not tree:
            self._tree, self._steps = tree, {}
        if rows not in self._steps:
            self._steps[rows] = _for_rows(tree, rows)
        return self._steps[rows]

    def _catch_up(
        self, rows: int, reach: Sequence[int] = (), masks: NDArray[np.int64] | None = None
    ) -> tuple[torch.Tensor, list[int]]:
        """Run every row's pending tokens into the cache; (rows, P, V) logits, and the query of each row's last.

        Rows past the model's positions take part with nothing. Masks of each row stand behind its tokens, and are not
        kept.
        """
        past = [row for row, far in enumerate(reach) if far <= 0]
        for row in past:
            self.pending[row] = []
        for row in range(rows):
            early = self.pending[row][:-1]
            if len(early) >= CATCH_UP:
                start = perf_counter()
                prefill(self._model, self._cache, np.array(early, dtype=np.int64), row)
                self.pending[row] = self.pending[row][-1:]
                self.prefill_s += perf_counter() - start
        pending, self.pending[:rows] = self.pending[:rows], [[] for _ in range(rows)]
        lengths = [len(fresh) for fresh in pending]
        counts = np.array(lengths, dtype=np.int64)
        if masks is not None:
            counts = counts + np.where(counts > 0, masks, 0)
            mask = [self._model.vocabulary]
            pending = [fresh + mask * (int(n) - len(fresh)) for fresh, n in zip(pending, counts, strict=True)]
        most = int(counts.max())
        tokens = np.array([fresh + [0] * (most - len(fresh)) for fresh in pending], dtype=np.int64)
        logits = forward_trees(self._model, self._cache, tokens, _chain(rows, most), counts)
        for row, fresh in enumerate(lengths):
            self._cache.lengths[row] += fresh
        return logits, [max(fresh - 1, 0) for fresh in lengths]

    def take_in(self, rows: int, reach: Sequence[int] = (), masks: NDArray[np.int64] | None = None) -> torch.Tensor:
        """Run every row's pending tokens into the cache; (rows, 1, V) logits after the last of each.

        Parameters
        ----------
        masks : (rows,) int64, optional
            Of a block, which drafts all its levels now: how many each row is asked for beyond the first.
        """
        logits, last = self._catch_up(rows, reach, masks)
        numbers, queries = torch.arange(rows), torch.tensor(last)
        further = 0 if masks is None else int(masks.max())
        places = [(queries + level).clamp(max=logits.shape[1] - 1) for level in range(further + 1)]
        first, *self._block = (logits[numbers, place].unsqueeze(1) for place in places)
        return first

    def deeper(
        self,
        tokens: NDArray[np.int64],
        parents: NDArray[np.int64],
        counts: NDArray[np.int64],
        written: NDArray[np.int64],
    ) -> torch.Tensor:
        """(B, Q, V) logits below the nodes of one level; arguments as `forward_trees` takes them.

        A block has them already, the same below every node: it looks at none of the tokens.
        """
        if not self._model.block:
            return forward_trees(self._model, self._cache, tokens, parents, counts, written)
        return self._block.pop(0).expand(-1, tokens.shape[1], -1)


DRAFTERS.register(NeuralDrafter)
