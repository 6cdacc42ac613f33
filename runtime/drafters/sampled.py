"""Drafts drawn from the draft model's own law, level by level, each row under its own request's sampling parameters.

Draft and target go through the same processors (temperature, filters, penalty on the path's own prefix), and the law
that was sampled travels with the tokens, so that a verifier can check it. Shapes depend on the prefix alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from reader_theory.rules.draft_law import DRAWN, DraftLaw, Scheme
from reader_theory.rules.drawing import draw_children
from reader_theory.rules.race import race
from reader_theory.trees import TokenTree
from runtime.drafters.base import Row

__all__ = ["Ask", "draw_drafts"]


@dataclass(frozen=True)
class Ask:
    """What one row wants drafted.

    Parameters
    ----------
    tree : TokenTree, by level
        Shape; ranks are read by the deterministic scheme only.
    row : Row
        Whose law drafts are drawn from, and how.
    uniforms : (N + 1,) in [0, 1)
        Of the drafting stream; one a node, that of the root not read.
    noise : callable from a depth to (V,) in [0, 1)
        Coupling uniforms of the token below a node at that depth; read by the coupled scheme only.
    """

    tree: TokenTree
    row: Row
    uniforms: NDArray[Any]
    noise: Callable[[int], NDArray[Any]]

    @classmethod
    def of(cls, row: Row, tree: TokenTree, spare: int, vocabulary: int, reach: int) -> Ask:
        """What `row` can use of a tree by level, no deeper than `reach`, with the numbers of its own streams."""
        shape, emitted = shape_for(tree, row.scheme, min(row.room - 1, reach), spare), len(row.output)
        uniforms = np.append(0.0, row.streams("drafting", row.steps + 1, shape.nodes))
        return cls(shape, row, uniforms, lambda depth: row.streams("coupling", emitted + depth, vocabulary))


@lru_cache(maxsize=1024)
def shape_for(tree: TokenTree, scheme: Scheme, depth: int, nodes: int) -> TokenTree:
    """What a scheme can draw of a tree: no deeper than `depth`, at most `nodes` nodes, a chain where it draws one."""
    if scheme == "chain":
        return TokenTree.chain(min(tree.depth, depth, nodes))
    return tree.prune(nodes=nodes, depth=depth)


def draw_drafts(
    deeper: Callable[..., torch.Tensor],
    logits: torch.Tensor,
    asks: Sequence[Ask | None],
    forwards: list[NDArray[np.int64]],
) -> list[DraftLaw]:
    """Draft for rows 0, 1, ...: one forward a level for all rows together; tokens of roots are -1.

    Parameters
    ----------
    deeper : callable
        Logits below the nodes of a level, as `forward_trees` gives them to tokens, parents, counts and scratch.
    logits : (B, 1, V)
        After the last token of each row.
    asks : sequence of B Ask or None
        None drafts nothing.
    forwards : list
        The tokens of each row in each forward are appended.
    """
    rows = [_Row(ask) for ask in asks]
    written = np.zeros(len(rows), dtype=np.int64)
    while True:
        asked = [row.grow(logits[b]) for b, row in enumerate(rows)]
        counts = np.array([len(nodes) for nodes in asked], dtype=np.int64)
        if not counts.any():
            return [row.drawn() for row in rows]
        tokens = np.zeros((len(rows), int(counts.max())), dtype=np.int64)
        parents = np.full((len(rows), int((written + counts).max())), -1, dtype=np.int64)
        for b, (row, nodes) in enumerate(zip(rows, asked, strict=True)):
            tokens[b, : counts[b]] = [row.tokens[node] for node in nodes]
            above = row.forwarded_parents(nodes)
            parents[b, : len(above)] = above
        logits = deeper(tokens, parents, counts, written)
        forwards.append(counts)
        written = written + counts


class _Row:
    """One row's draft while it grows."""

    def __init__(self, ask: Ask | None) -> None:
        self.ask: Ask | None = ask
        self.tokens, self.parents = [-1], [-1]
        self.laws: list[NDArray[Any]] = []
        self.drawn_with: list[Any] = [0.0]
        self.frontier: list[tuple[int, int, int]] = [(0, 0, 0)]  # (node, query of the last forward, node of the tree)
        self.place = {0: -1}  # where a node stands among those forwarded
        self.above: list[int] = []
        self.depth = 0

    def grow(self, logits: torch.Tensor) -> list[int]:
        """Draw the next level below the frontier; the nodes that must be forwarded for the one after it."""
        ask = self.ask
        if ask is None:
            return []
        parents = [entry for entry in self.frontier if ask.tree.children(entry[2])]
        laws = self._laws(logits, parents)
        grown: list[tuple[int, int]] = []
        for (node, _, shape), law in zip(parents, laws, strict=True):
            if not np.isfinite(law.max()):  # no law to draw from: nothing is drafted below
                continue
            children = ask.tree.children(shape)
            tokens = self._draw(law, children)
            self.laws += [law] if tokens else []
            for child, token in zip(children, tokens, strict=False):
                grown.append((len(self.tokens), child))
                self.tokens.append(token)
                self.parents.append(node)
                self.drawn_with.append(ask.uniforms[child])
        self.depth += 1
        inner = [(node, shape) for node, shape in grown if ask.tree.children(shape)]
        self.frontier = [(node, query, shape) for query, (node, shape) in enumerate(inner)]
        return [node for node, _ in inner]

    def drawn(self) -> DraftLaw:
        """The draft as a rule verifies it."""
        scheme: Scheme = "deterministic" if self.ask is None else self.ask.row.scheme
        tree = TokenTree(self.parents, tokens=self.tokens)
        if scheme not in DRAWN:
            return DraftLaw(tree, scheme)
        return DraftLaw(tree, scheme, np.array(self.laws) if self.laws else np.zeros((0, 0)), np.array(self.drawn_with))

    def forwarded_parents(self, nodes: list[int]) -> list[int]:
        """Parents of all nodes forwarded so far and of `nodes`, as places among them; -1 for the root."""
        for node in nodes:
            self.above.append(self.place[self.parents[node]])
            self.place[node] = len(self.place) - 1
        return self.above

    def _laws(self, logits: torch.Tensor, parents: list[tuple[int, int, int]]) -> NDArray[np.float64]:
        assert self.ask is not None
        if not parents:
            return np.zeros((0, logits.shape[-1]))
        queries = [query for _, query, _ in parents]
        row = self.ask.row
        prefixes = [[*row.text, *self._path(node)] for node, _, _ in parents] if row.reads_prefix else None
        return row.law(logits[queries], prefixes).numpy(force=True)

    def _draw(self, law: NDArray[np.float64], children: list[int]) -> list[int]:
        assert self.ask is not None
        ask, scheme = self.ask, self.ask.row.scheme
        if scheme == "coupled":
            return race(law, ask.noise(self.depth), len(children))
        if scheme in DRAWN:
            return draw_children(law, ask.uniforms[children], scheme)
        order = np.argsort(-law, kind="stable")
        return [int(order[rank]) for rank in ask.tree.ranks[children]]

    def _path(self, node: int) -> list[int]:
        path: list[int] = []
        while node > 0:
            path.append(self.tokens[node])
            node = self.parents[node]
        return path[::-1]
