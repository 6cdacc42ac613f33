"""What a step drafts: each row's retrieved chain and neural tree in one trie, or a draft drawn for the row's rule."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from reader_theory.documents import Grown, Policy
from reader_theory.trees import TokenTree
from runtime.drafters.joined import JoinedDrafter
from runtime.drafters.neural import NeuralDrafter
from runtime.drafters.sampled import Ask, DrawnDraft, draw_drafts, shape_for
from runtime.drafters.trie import DraftTrie
from runtime.engine.request import Request
from runtime.retrieval.index import RetrievalIndex

__all__ = ["Drafting", "Drafts"]

Drafts = list[DraftTrie | DrawnDraft]
"""One a row."""
Spare = Callable[[Request], int]
"""Draft nodes that a request's row has slots for."""


_Shape = tuple[TokenTree, list[int], list[int]]
"""A tree by level, its parents, and how many nodes it has down to depth 0, 1, 2, ..."""


def _shape_of(policy: Policy) -> _Shape:
    tree = policy.tree.by_level()
    return tree, tree.parents.tolist(), np.cumsum([0, *tree.level_widths]).tolist()


class Drafting:
    """Drafts for the rows of an engine, in two calls so that each source is timed by itself."""

    def __init__(self, drafter: NeuralDrafter | None) -> None:
        self.drafter, self.joined = drafter, JoinedDrafter(drafter)
        self._shaped: tuple[Policy, _Shape] | None = None

    def retrieve(self, policy: Policy, rows: Sequence[Request], spare: Spare) -> tuple[list[DraftTrie], list[int]]:
        """A trie a row with its retrieved chain, and the rows on which the neural draft is to run."""
        tries = [DraftTrie(request.output[-1]) for request in rows]
        if policy.kind == "grown":
            return tries, list(range(len(rows)))
        neural = list(range(len(rows))) if policy.fixed is not None and self.drafter else []
        if (chain := policy.retrieved) is not None:
            for request, trie in zip(rows, tries, strict=True):
                cap = min(chain.cap(_index(request).match_length), request.room - 1, spare(request))
                if cap > 0:
                    trie.add_chain(_index(request).chain(cap).tolist())
        if policy.kind == "union" and policy.skip_at_match is not None:
            neural = [row for row in neural if _index(rows[row]).match_length < policy.skip_at_match]
        return tries, neural

    def draft(
        self, policy: Policy, rows: Sequence[Request], tries: list[DraftTrie], want: list[int], spare: Spare
    ) -> Drafts:
        """The neural draft of the rows `want` beside what was retrieved; `want` is emptied where it cannot run.

        Nodes that a row could never emit, or has no slot for, are left out.
        """
        if policy.kind == "grown":
            return self._joined(policy, rows, tries, want, spare)
        if not want or self.drafter is None:
            return [*tries]
        if self._shaped is None or self._shaped[0] is not policy:  # a policy's hash takes longer than the rest
            self._shaped = policy, _shape_of(policy)
        tree, parents, down_to = self._shaped[1]
        if max(len(r.prompt) + len(r.output) for r in rows) + tree.depth > self.drafter.model.max_positions:
            want.clear()
            return [*tries]
        if any(rows[row].params.rule.scheme != "deterministic" for row in want):
            return self._drawn(tree, rows, tries, want, spare)
        tokens = self.drafter.propose(len(tries), tree)
        for row in want:
            request, trie = rows[row], tries[row]
            kept = min(down_to[min(request.room - 1, tree.depth)], spare(request) - len(trie) + 1)
            trie.add_tree(tokens[row, 1 : kept + 1].tolist(), [above - 1 for above in parents[1 : kept + 1]])
        return [*tries]

    def _joined(
        self, policy: Grown, rows: Sequence[Request], tries: list[DraftTrie], want: list[int], spare: Spare
    ) -> Drafts:
        """Both sources in one tree; rows whose rule needs drafts drawn from a law get none."""
        own = [r.params.rule.scheme == "deterministic" for r in rows]
        room = np.array([min(r.room - 1, spare(r)) if o else 0 for r, o in zip(rows, own, strict=True)], dtype=np.int64)
        budgets = np.where(room > 0, np.array([spare(r) for r in rows], dtype=np.int64), 0)
        longest = max(len(request.text) for request in rows)
        static = policy.tree if policy.asked is not None else None
        grown, asked = self.joined.propose(policy, [_index(r) for r in rows], budgets, static, longest)
        if not asked:
            want.clear()
        offered_by = grown._replace(tokens=grown.sources)
        for row, trie in enumerate(tries):
            trie.add_tree(*grown.down_to(row, int(room[row])))
            trie.sources = offered_by.down_to(row, int(room[row]))[0]
        return [*tries]

    def _drawn(
        self, tree: TokenTree, rows: Sequence[Request], tries: list[DraftTrie], want: list[int], spare: Spare
    ) -> Drafts:
        """Drafts where some row's rule needs them drawn from the draft's law; retrieval then stays out of that row."""
        assert self.drafter is not None
        asks = [self._ask(request, tree, spare) if row in want else None for row, request in enumerate(rows)]
        drawn = draw_drafts(self.drafter, [request.output[-1] for request in rows], asks)
        drafts: Drafts = [*tries]
        for row in want:
            if drawn[row].scheme in ("deterministic", "coupled"):
                kept = max(spare(rows[row]) - len(tries[row]) + 1, 0)
                above = [parent - 1 for parent in drawn[row].parents[1:]]
                tries[row].add_tree(drawn[row].tokens[1 : kept + 1], above[:kept])
            else:
                drafts[row] = drawn[row]
        return drafts

    def _ask(self, request: Request, tree: TokenTree, spare: Spare) -> Ask:
        assert self.drafter is not None
        scheme, emitted, vocabulary = request.params.rule.scheme, len(request.output), self.drafter.model.vocabulary
        shape = shape_for(tree, scheme, request.room - 1, spare(request))
        return Ask(
            tree=shape,
            scheme=scheme,
            params=request.params,
            text=request.text if request.params.repetition_penalty != 1.0 else [],
            uniforms=np.append(0.0, request.streams("drafting", request.steps + 1, shape.nodes)),
            noise=lambda depth: request.streams("coupling", emitted + depth, vocabulary),
        )


def _index(request: Request) -> RetrievalIndex:
    assert request.index is not None, "an admitted request has its index"
    return request.index
