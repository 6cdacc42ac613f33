"""What a fitted judge needs beside a step's forward: the final states of target and draft at tokens that differ.

LOSSY by what it is for. States at the draft's tokens are those of the tree; those at the target's own tokens, where a
judge reads the difference, take a second forward of the target over one more node for each place of a mismatch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from reader_theory.documents.judge import Judge
from reader_theory.errors import InvalidInputError
from reader_theory.rules.judge import JudgeLossy
from reader_theory.trees import TokenTrees
from runtime.cache.rows import RowCache
from runtime.drafters.base import Drafter
from runtime.drafters.neural import NeuralDrafter
from runtime.engine.request import Request
from runtime.models.base import LanguageModel
from runtime.models.states import check_probe, final_states

__all__ = ["Judging", "looks_at"]

Ints = NDArray[np.int64]


def looks_at(request: Request) -> Judge | None:
    """The judge whose features a request's verification reads; none where its threshold decides alone."""
    rule = request.params.rule
    return rule.classifier if isinstance(rule, JudgeLossy) and 0 < rule.threshold <= 1 else None


@dataclass(frozen=True)
class _Nodes:
    """A row's tree with the target's own tokens beside those that are not; `beside[n]`: what node n is compared to."""

    tokens: list[int]
    parents: list[int]
    beside: list[int]

    @classmethod
    def of(cls, tokens: list[int], parents: list[int], own: Sequence[int], room: int, difference: bool) -> _Nodes:
        """With at most `room` nodes more; a node that finds none for its alternative is compared to none: -1."""
        place = {(above, token): node for node, (above, token) in enumerate(zip(parents, tokens, strict=True)) if node}
        tokens, parents, beside, drafted = list(tokens), list(parents), [0], len(tokens)
        for node in range(1, drafted):
            above = parents[node]
            key = above, own[above]
            if difference and key not in place and len(tokens) - drafted < room:
                place[key] = len(tokens)
                tokens.append(own[above])
                parents.append(above)
            beside.append(place.get(key, -1))
        return cls(tokens, parents, beside)


class Judging:
    """The judges of an engine's requests.

    Parameters
    ----------
    target : LanguageModel
    drafters : mapping from name to Drafter
        One of them runs the draft model that a judge was fitted for.

    Attributes
    ----------
    looked : int
        Tokens that the target has forwarded for judges alone.
    """

    def __init__(self, target: LanguageModel, drafters: Mapping[str, Drafter]) -> None:
        self.target, self.drafters, self.looked = target, drafters, 0
        self._found: dict[int, tuple[Judge, NeuralDrafter]] = {}

    def drafter_of(self, judge: Judge) -> NeuralDrafter:
        """The drafter that runs the judge's draft model.

        Raises
        ------
        InvalidInputError
            If the target is not the judge's, or no drafter's model is.
        """
        if id(judge) not in self._found:
            check_probe(self.target, judge.target_probe, "target")
            self._found[id(judge)] = judge, self._with(judge)
        return self._found[id(judge)][1]

    def _with(self, judge: Judge) -> NeuralDrafter:
        why: InvalidInputError | None = None
        for drafter in self.drafters.values():
            if not isinstance(drafter, NeuralDrafter):
                continue
            try:
                check_probe(drafter.model, judge.draft_probe, "draft")
                return drafter
            except InvalidInputError as error:
                why = error
        raise why or InvalidInputError(
            "a judge must be used with the draft that it was fitted for",
            got="an engine without a draft model",
            fix=f"Pass {judge.draft} as the draft, or fit a judge for other models with `reader judge`.",
        )

    def importance(
        self,
        rows: Sequence[Request],
        trees: TokenTrees,
        own: Mapping[int, Sequence[int]],
        cache: RowCache,
        states: torch.Tensor | None = None,
    ) -> dict[int, NDArray[np.float64]]:
        """P(important) of each node's token, the root's first, for judged rows.

        Parameters
        ----------
        own : mapping from row to (N + 1,) tokens
            The target's own token after each node of the rows that are judged.
        cache : RowCache
            The target's, the trees written in its scratch.
        states : (B, Q, H), optional
            Final states of the target at the trees' nodes; forwarded again where they are not given.
        """
        found: dict[int, NDArray[np.float64]] = {}
        for drafter in {self.drafter_of(judge).name for row in own if (judge := looks_at(rows[row])) is not None}:
            judged = {row: each for row, each in own.items() if self._name(rows[row]) == drafter}
            found |= self._by(self.drafters[drafter], rows, trees, judged, cache, states)
        return found

    def _name(self, request: Request) -> str:
        judge = looks_at(request)
        return "" if judge is None else self.drafter_of(judge).name

    def _by(
        self,
        drafter: Drafter,
        rows: Sequence[Request],
        trees: TokenTrees,
        own: Mapping[int, Sequence[int]],
        cache: RowCache,
        states: torch.Tensor | None,
    ) -> dict[int, NDArray[np.float64]]:
        assert isinstance(drafter, NeuralDrafter), "`drafter_of` finds no other"
        reach, width = drafter.reach(rows), trees.tokens.shape[1]
        if any(drafter.pending[row] for row in own):
            drafter.take_in(len(rows), reach)
        caches = (cache, drafter.cache)
        room = min(min(each.slots - int(each.lengths[: len(rows)].max()), each.reach + 1) for each in caches) - width
        nodes: dict[int, _Nodes] = {}
        for row, tokens in own.items():
            tree, judge = _tree_of(trees, row), looks_at(rows[row])
            if 1 < len(tree.tokens) <= reach[row] + 1 and room >= 0 and judge is not None:
                nodes[row] = _Nodes.of(tree.tokens, tree.parents, tokens, room, judge.features == "difference")
        if not nodes:
            return {row: np.ones(int(trees.counts[row])) for row in own}
        of_target = self._of_target(nodes, trees, cache, states, len(rows))
        of_draft = _forwarded(drafter.model, drafter.cache, nodes, len(rows), first=1)
        return {
            row: self._told(rows[row], nodes[row], (of_draft[row], of_target[row]))
            if row in nodes
            else np.ones(int(trees.counts[row]))
            for row in own
        }

    def _told(self, request: Request, nodes: _Nodes, states: Sequence[NDArray[np.float32]]) -> NDArray[np.float64]:
        judge, beside = looks_at(request), np.array(nodes.beside)
        assert judge is not None
        both = np.concatenate(states, axis=1)
        drafted = both[: len(beside)]
        if judge.features == "difference":
            told = judge.importance(drafted - both[beside])
            told[beside < 0] = 1.0
        else:
            told = judge.importance(drafted)
        return told

    def _of_target(
        self, nodes: Mapping[int, _Nodes], trees: TokenTrees, cache: RowCache, states: torch.Tensor | None, rows: int
    ) -> dict[int, NDArray[np.float32]]:
        """States at each row's nodes and alternatives; alternatives alone are forwarded where the others are known.

        Where they are not, the trees of all rows are forwarded again, those that nobody judges too: padding would
        overwrite what their commit keeps.
        """
        if states is None:
            whole = {row: nodes.get(row) or _tree_of(trees, row) for row in range(rows)}
            self.looked += sum(len(each.tokens) for each in nodes.values())
            return _forwarded(self.target, cache, whole, rows)
        start = trees.counts
        self.looked += sum(len(each.tokens) - int(start[row]) for row, each in nodes.items())
        more = {row: each for row, each in nodes.items() if len(each.tokens) > int(start[row])}
        fresh = _forwarded(self.target, cache, more, rows, written=start) if more else {}
        known = {row: states[row, : int(start[row])].float().numpy(force=True) for row in nodes}
        return {row: np.concatenate((each, fresh[row])) if row in fresh else each for row, each in known.items()}


def _tree_of(trees: TokenTrees, row: int) -> _Nodes:
    count = int(trees.counts[row])
    return _Nodes(trees.tokens[row, :count].tolist(), trees.parents[row, :count].tolist(), [])


def _forwarded(
    model: LanguageModel,
    cache: RowCache,
    nodes: Mapping[int, _Nodes],
    rows: int,
    *,
    first: int = 0,
    written: Ints | None = None,
) -> dict[int, NDArray[np.float32]]:
    """States at rows' nodes from `written` on, padded to line up with their trees: 0 for a root that is left out.

    `first` is 1 for a model whose cache holds the root already.
    """
    start = np.zeros(rows, dtype=np.int64) if written is None else written
    whole = max(int(start.max()), *(len(each.tokens) - first for each in nodes.values()))
    parents = np.full((rows, whole), -1, dtype=np.int64)
    counts = np.zeros(rows, dtype=np.int64)
    for row, each in nodes.items():
        above = np.array(each.parents[first:]) - first
        parents[row, : len(above)] = np.maximum(above, -1)
        counts[row] = len(above) - int(start[row])
    tokens = np.zeros((rows, int(counts.max())), dtype=np.int64)
    for row, each in nodes.items():
        tokens[row, : counts[row]] = each.tokens[first + int(start[row]) :]
    scratch = None if written is None else start
    found = final_states(model, cache, tokens, parents, counts, scratch).numpy(force=True)
    return {row: np.pad(found[row, : counts[row]], ((first, 0), (0, 0))) for row in nodes}
