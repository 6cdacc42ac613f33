"""Who drafts by a policy: its parts, each a drafter with what is asked of it, and their trees in one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np

from reader_theory.documents import Chain, Grown, Off, Policy, Static, Union
from reader_theory.errors import require
from reader_theory.trees import TokenTrees
from runtime.drafters.base import Drafter, NoDrafter, Proposal, Row
from runtime.drafters.grown import GrownDrafter
from runtime.drafters.neural import NeuralDrafter
from runtime.drafters.retrieval import RetrievalDrafter

__all__ = ["Part", "TreeBuilder", "merged", "parts_of", "proposed"]

_NOBODY = NoDrafter()


class Part(NamedTuple):
    """A drafter, and what a policy asks of it.

    Attributes
    ----------
    skip : int, optional
        Rows of which the part before is as sure as this get nothing from this one.
    """

    name: str
    drafter: Drafter
    policy: Any
    skip: int | None = None


def parts_of(policy: Policy, drafters: Mapping[str, Drafter]) -> tuple[Part, ...]:
    """The parts of a policy among an engine's drafters; one that the engine does not have is left out."""
    match policy:
        case Off():
            parts = []
        case Static() | Chain():
            parts = [(policy.drafter, policy, None)]
        case Union():
            parts = [
                (policy.chain.drafter, policy.chain, None),
                (policy.static.drafter, policy.static, policy.skip_at_match),
            ]
        case Grown():
            return (Part("+".join(policy.drafters), _grown(policy, drafters), policy),)
    found = [Part(name, drafters[name], part, skip) for name, part, skip in parts if name in drafters]
    return tuple(found) or (Part("", _NOBODY, policy),)


def _grown(policy: Grown, drafters: Mapping[str, Drafter]) -> GrownDrafter:
    neural, retrieval = (None if name is None else drafters.get(name) for name in (policy.drafter, policy.retrieval))
    require(
        isinstance(neural, NeuralDrafter | None) and isinstance(retrieval, RetrievalDrafter | None),
        "a grown tree must come from a model and retrieval",
        got=f"{type(neural).__name__} and {type(retrieval).__name__}",
        fix="Ask drafters of other classes for static trees or chains.",
    )
    assert isinstance(neural, NeuralDrafter | None) and isinstance(retrieval, RetrievalDrafter | None)
    return GrownDrafter(neural, retrieval)


def proposed(parts: Sequence[Part], rows: Sequence[Row], spare: Sequence[int], seconds: dict[str, float]) -> Proposal:
    """What all parts offer, in one tree a row; adds to `seconds` what each term took."""
    whole: Proposal | None = None
    start = perf_counter()
    for _, drafter, policy, skip in parts:
        left = spare if whole is None else after(whole, spare, skip)
        one = drafter.propose(policy, rows, left)
        whole = one if whole is None else merged(whole, one)
        end = perf_counter()
        seconds[drafter.term] = seconds.get(drafter.term, 0.0) + end - start
        start = end
    assert whole is not None, "a policy has parts"
    return _within_languages(whole, rows)


def _within_languages(proposal: Proposal, rows: Sequence[Row]) -> Proposal:
    """The same without drafts that no row may emit; drawn ones stay, as their rule knows the law that they are of."""
    trees, laws = proposal.trees, proposal.laws or [None] * len(rows)
    asked = [row for row, each in enumerate(rows) if each.constrained and laws[row] is None]
    if not asked or trees.tokens.shape[1] == 1:
        return proposal
    kept = np.arange(trees.tokens.shape[1]) < trees.counts[:, None]
    for row in asked:
        tokens, parents = trees.tokens[row].tolist(), trees.parents[row].tolist()
        paths: list[tuple[int, ...]] = [()]
        for node in range(1, int(trees.counts[row])):
            paths.append((*paths[parents[node]], tokens[node]))
            kept[row, node] = kept[row, parents[node]] and rows[row].lies_within(paths[node])
    return proposal._replace(trees=trees.keep(kept))


def after(first: Proposal, spare: Sequence[int], skip: int | None) -> list[int]:
    """Nodes that each row has slots for beside what was offered; none where that is sure enough."""
    left = [had - count + 1 for had, count in zip(spare, first.trees.counts.tolist(), strict=True)]
    if skip is None or first.matches is None:
        return left
    return [0 if match >= skip else nodes for match, nodes in zip(first.matches.tolist(), left, strict=True)]


def merged(first: Proposal, second: Proposal) -> Proposal:
    """Both in one tree a row, the first's nodes first, equal siblings once; drawn drafts stand alone."""
    forwards, names = first.forwards + second.forwards, ("", first.trees.names[1], second.trees.names[1])
    if first.trees.tokens.shape[1] == 1:
        return second._replace(forwards=forwards)
    if second.trees.tokens.shape[1] == 1 and second.laws is None:
        return first._replace(forwards=forwards)
    whole: list[TreeBuilder] = []
    sources: list[list[int]] = []
    laws = second.laws or [None] * len(first.trees)
    for row, law in enumerate(laws):
        tree = TreeBuilder(int(first.trees.tokens[row, 0]), *(_nodes(first.trees, row) if law is None else ((), ())))
        before = len(tree.tokens)
        tree.add(*_nodes(second.trees, row), merge=law is None)
        whole.append(tree)
        sources.append([0, *[1] * (before - 1), *[2] * (len(tree.tokens) - before)])
    trees = TokenTrees.of([tree.tokens for tree in whole], [tree.parents for tree in whole], names)
    told = TokenTrees.of(sources, sources).tokens
    return Proposal(replace(trees, sources=told), second.laws, forwards)


def _nodes(trees: TokenTrees, row: int) -> tuple[list[int], list[int]]:
    count = int(trees.counts[row])
    return trees.tokens[row, 1:count].tolist(), trees.parents[row, 1:count].tolist()


class TreeBuilder:
    """A tree to which others are added, equal siblings merged.

    Attributes
    ----------
    tokens, parents : list of int
        Of each node; node 0 is the root, whose parent is -1.
    """

    def __init__(self, root: int, tokens: Iterable[int] = (), parents: Iterable[int] = ()) -> None:
        self.tokens, self.parents = [root, *tokens], [-1, *parents]
        keys = zip(self.parents[1:], self.tokens[1:], strict=True)
        self.children = {key: node for node, key in enumerate(keys, start=1)}

    def add(self, tokens: Iterable[int], parents: Iterable[int], *, merge: bool = True) -> None:
        """Hang a tree off the root: its own nodes count from 1, and 0 is the root."""
        place = [0]
        for token, above in zip(tokens, parents, strict=True):
            key = place[above], token
            node = self.children.get(key)
            if node is None or not merge:
                node = self.children[key] = len(self.tokens)
                self.tokens.append(token)
                self.parents.append(key[0])
            place.append(node)
