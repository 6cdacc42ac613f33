"""Grown drafter: a neural draft and retrieval grow one tree, on one scale of probability, down to one price.

Prefer it where texts both repeat themselves and go on in new ways. Every node asks retrieval anew; the likeliest
nodes ask the draft, a level a forward, whoever offered them. Equal tokens are one node, whose score is retrieval's
share and the draft's share of what retrieval leaves; maps fitted by who offered the token turn scores into
acceptance. The tree is a function of the prefix, so that greedy and target-only verification stay lossless.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reader_theory.documents.policy import Grown
from reader_theory.errors import require
from reader_theory.trees import TokenTree
from runtime.drafters.base import DRAFTERS, Drafter, Proposal, Row
from runtime.drafters.laws import NeuralLaws, gridded
from runtime.drafters.neural import CATCH_UP, NeuralDrafter
from runtime.drafters.retrieval import RetrievalDrafter
from runtime.drafters.water import kept_sizes
from runtime.retrieval.growing import Grow, growing
from runtime.retrieval.index import GrowthArrays, RetrievalIndex

__all__ = ["GrownDrafter"]

_NOTHING = RetrievalIndex([])

Chosen = list[tuple[NDArray[np.int64], NDArray[np.int64]]]
"""By row, the nodes where the draft is asked: the law above each, and its token."""


_NONE = np.zeros(0, np.int64), np.zeros(0, np.int64)


class GrownDrafter(Drafter):
    """Grows a tree for each row of a batch from two drafters, each of which keeps its own rows.

    Parameters
    ----------
    neural : NeuralDrafter or None
        Whose rows are the batch's; retrieval alone when left out.
    retrieval : RetrievalDrafter, optional
        The same; not needed by `grow`, which is handed indices.

    Attributes
    ----------
    taken : list of (B,) int64
        Tokens of each row in each forward of the draft that the last step took; 0 where a row only took part.
    """

    name = "grown"

    def __init__(self, neural: NeuralDrafter | None, retrieval: RetrievalDrafter | None = None) -> None:
        self.neural, self.retrieval = neural, retrieval
        self.taken: list[NDArray[np.int64]] = []
        self._made: tuple[Grown, TokenTree | None, NeuralLaws] | None = None

    def join(self, row: int, tokens: NDArray[np.int64], hidden: Any = None) -> None:
        for one in (self.neural, self.retrieval):
            if one is not None:
                one.join(row, tokens, hidden)

    def extend(self, row: int, tokens: list[int], hidden: Any = None) -> None:
        for one in (self.neural, self.retrieval):
            if one is not None:
                one.extend(row, tokens, hidden)

    def again(self, row: int, tokens: NDArray[np.int64]) -> None:
        for one in (self.neural, self.retrieval):
            if one is not None:
                one.again(row, tokens)

    def move(self, source: int, target: int) -> None:
        for one in (self.neural, self.retrieval):
            if one is not None:
                one.move(source, target)

    def propose(self, policy: Any, rows: Sequence[Row], spare: Sequence[int]) -> Proposal:
        """Both sources in one tree; rows whose rule needs drafts drawn from a law get none."""
        room = [
            0 if row.scheme != "deterministic" else min(row.room - 1, left)
            for row, left in zip(rows, spare, strict=True)
        ]
        budgets = np.array([left if deep > 0 else 0 for deep, left in zip(room, spare, strict=True)], dtype=np.int64)
        lengths = [row.length for row in rows]
        indices = self.retrieval.indices[: len(rows)] if self.retrieval else [_NOTHING] * len(rows)
        static = policy.tree if policy.asked is not None else None
        grown, _ = self.grow(policy, indices, budgets, static, lengths)
        names = (self.retrieval.name if self.retrieval else "", self.neural.name if self.neural else "", "both")
        trees = grown.trees([row.output[-1] for row in rows], names).prune(depth=room)
        return Proposal(trees, forwards=tuple(self.taken))

    def grow(
        self,
        policy: Grown,
        indices: Sequence[RetrievalIndex],
        budgets: NDArray[np.int64],
        static: TokenTree | None = None,
        lengths: Sequence[int] = (),
    ) -> tuple[GrowthArrays, bool]:
        """Trees of rows 0 .. B - 1, and whether the draft was asked.

        Parameters
        ----------
        indices : sequence of B RetrievalIndex
            Over each row's text; they share a datastore.
        budgets : (B,) int64
            Most nodes of each row, beside the policy's own; 0 for no tree.
        static : TokenTree, optional
            Ranks at which the draft is asked, instead of the likeliest nodes.
        lengths : sequence of B int
            Tokens of each row, so that no draft runs beyond its model's positions; no row is near them when left out.
        """
        require(
            len(indices) > 0,
            "`indices` must hold at least one row",
            got="none",
            fix="Do not ask for drafts of an empty batch.",
        )
        texts = indices if policy.retrieval else [_NOTHING] * len(indices)
        most = np.minimum(np.maximum(budgets, 0), policy.nodes)
        laws = self._laws(policy, static, len(texts))
        grow = growing(texts, np.maximum(most, 1), policy.price, laws.addresses)
        levels = policy.levels if static is None else static.depth
        reach = np.full(len(texts), levels)
        if policy.drafter is None or self.neural is None:
            reach[:] = 0
        elif lengths:
            reach = np.minimum(reach, [self.neural.deepest(length) for length in lengths])
        self.taken = []
        asked = bool((most[reach > 0] > 0).any()) and not self._rests(policy, grow)
        if asked:
            self._ask(policy, static, reach, laws, grow)
        grown = grow()
        return grown._replace(sizes=kept_sizes(grown.chances, grown.sizes, most, policy.share)), asked

    def _laws(self, policy: Grown, static: TokenTree | None, rows: int) -> NeuralLaws:
        """Empty laws; those of the step before where it had as many rows under the same policy."""
        if self._made is not None:
            last, below, laws = self._made
            if last is policy and below is static and len(laws.counts) == rows:
                laws.clear()
                return laws
        laws = NeuralLaws(rows, _laws(policy, static), policy.candidates, gridded(policy.maps, policy.trust))
        self._made = (policy, static, laws)
        return laws

    def _rests(self, policy: Grown, grow: Grow) -> bool:
        """Whether retrieval alone is sure of what follows in every row."""
        if policy.skip_draft_at is None or not policy.retrieval:
            return False
        first: GrowthArrays = grow()
        return bool((first.sizes > 0).all() and (first.chances[:, 0] >= policy.skip_draft_at).all())

    def _ask(
        self, policy: Grown, static: TokenTree | None, reach: NDArray[np.int64], laws: NeuralLaws, grow: Grow
    ) -> None:
        """Fill `laws`: the root's, then a forward a level, for each row as deep as it reaches."""
        assert self.neural is not None
        rows, levels = len(laws.counts), int(reach.max())
        pending = np.array([len(tokens) for tokens in self.neural.pending[:rows]], dtype=np.int64)
        block = self.neural.model.block
        masks = np.clip(reach, 0, max(block - 1, 0))
        self.taken.append(np.where(pending > CATCH_UP, 1, pending) + masks * (block > 0))
        tokens, chances = laws.top(self.neural.take_in(rows, reach.tolist(), masks if block else None))
        for row in np.flatnonzero(reach > 0).tolist():
            laws.add(row, np.array([-1]), np.array([-1]), np.array([-1]), tokens[row], chances[row])
        written, low = np.zeros(rows, np.int64), np.zeros(rows, np.int64)
        held = np.full((rows, laws.parents.shape[1] + levels), -1, np.int64)
        for level in range(1, min(levels, block - 1 if block else levels) + 1):
            high = laws.counts.copy()
            chosen = _likeliest(policy, laws, grow(), low, high) if static is None else _at_ranks(static, level, laws)
            if int(reach.min()) <= level:
                chosen = [some if far > level else _NONE for some, far in zip(chosen, reach.tolist(), strict=True)]
            if not any(len(above) for above, _ in chosen):
                break
            self._forward(laws, chosen, held, written)
            low = high

    def _forward(
        self,
        laws: NeuralLaws,
        chosen: Chosen,
        held: NDArray[np.int64],
        written: NDArray[np.int64],
    ) -> None:
        """Ask the draft at `chosen`; a row with nothing to ask takes part with a token that nothing looks at.

        `held` (rows, P) has the parents of the draft's scratch entries, `written` (rows,) their number; both grow.
        """
        assert self.neural is not None
        counts = np.array([len(above) for above, _ in chosen], dtype=np.int64)
        if not self.neural.model.block:
            self.taken.append(counts)
        counts = np.maximum(counts, 1)
        asked = np.zeros((len(chosen), int(counts.max())), dtype=np.int64)
        for row, (above, tokens) in enumerate(chosen):
            asked[row, : len(tokens)] = tokens
            held[row, written[row] : written[row] + len(above)] = laws.slots[row, above]
        logits = self.neural.deeper(asked, held, counts, written)
        best, chances = laws.top(logits)
        for row, (above, tokens) in enumerate(chosen):
            if (n := len(above)) > 0:
                slots = written[row] + np.arange(n)
                laws.add(row, above, tokens, slots, best[row, :n], chances[row, :n])
        written += counts


DRAFTERS.register(GrownDrafter)


def _laws(policy: Grown, static: TokenTree | None) -> int:
    """Most laws of a row, the root's among them."""
    if policy.drafter is None:
        return 1
    return 1 + policy.levels * policy.width if static is None else len(static)


def _likeliest(
    policy: Grown, laws: NeuralLaws, grown: GrowthArrays, low: NDArray[np.int64], high: NDArray[np.int64]
) -> Chosen:
    """The grown nodes right below the newest laws, `low` .. `high` - 1, that have no law yet."""
    found: Chosen = []
    for row, size in enumerate(grown.sizes.tolist()):
        parents, own = grown.parents[row, :size], grown.laws[row, :size]
        above = np.where(parents >= 0, own[parents], 0)
        fresh = (own < 0) & (above >= low[row]) & (above < high[row]) & (grown.chances[row, :size] > policy.draft_price)
        nodes = np.flatnonzero(fresh)[: policy.width]
        found.append((above[nodes].astype(np.int64), grown.tokens[row, nodes].astype(np.int64)))
    return found


def _at_ranks(static: TokenTree, level: int, laws: NeuralLaws) -> Chosen:
    """The same for the inner nodes of a static tree's level: its ranks say which tokens."""
    order, place = _inner(static)
    nodes = [node for node in order if static.depths[node] == level]
    above = np.array([place[int(static.parents[node])] for node in nodes], dtype=np.int64)
    ranks = static.ranks[nodes].astype(np.int64) if nodes else np.zeros(0, np.int64)
    return [(above, laws.tokens[row, above, ranks].astype(np.int64)) for row in range(len(laws.counts))]


def _inner(static: TokenTree) -> tuple[list[int], dict[int, int]]:
    """Drafted nodes with children, by level, and the law that each has; the root has law 0."""
    order = sorted(static.inner, key=lambda node: (int(static.depths[node]), node))
    return order[1:], {node: number for number, node in enumerate(order)}
