"""Small cases for exact enumeration: laws of fractions with zeros, trees of several shapes, drafts of every scheme."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reader_theory.rules.draft_law import DRAWN, DraftLaw, Scheme
from reader_theory.rules.drawing import draw_draft
from reader_theory.rules.exact import Text
from reader_theory.rules.laws import Laws, most_likely
from reader_theory.rules.race import race
from reader_theory.trees import TokenTree

__all__ = ["Case", "cases_for", "deep_case", "node_paths", "table"]

TARGET_TWELFTHS = ((5, 0, 5, 2), (1, 5, 6, 0), (0, 0, 3, 9), (3, 3, 3, 3))
DRAFT_TWELFTHS = ((3, 3, 0, 6), (1, 5, 6, 0), (2, 4, 5, 1), (4, 4, 4, 0))
WIDE_TARGET = ((4, 0, 1, 5, 2), (0, 2, 2, 0, 8))
WIDE_DRAFT = ((2, 2, 4, 1, 3), (5, 0, 3, 4, 0))
DEEP_TARGET = ((1, 0, 3, 0), (0, 2, 0, 2), (0, 0, 1, 3), (2, 2, 0, 0))
DEEP_DRAFT = ((3, 0, 1, 0), (0, 3, 0, 1), (0, 0, 2, 2), (1, 3, 0, 0))

SHAPES: tuple[tuple[int, ...], ...] = ((-1,), (-1, 0, 0, 0), (-1, 0, 0, 1), (-1, 0, 0, 2, 2))
CHAINS: tuple[tuple[int, ...], ...] = ((-1,), (-1, 0), (-1, 0, 1, 2))


def table(parts: tuple[tuple[int, ...], ...]) -> Laws:
    """Laws that depend on the whole string: one row of `parts` for each, chosen by a small hash of it."""
    rows = [np.array([Fraction(n, sum(row)) for n in row]) for row in parts]
    return lambda text: rows[sum((2 * place + 1) * (token + 1) for place, token in enumerate(text)) % len(rows)]


@dataclass(frozen=True)
class Case:
    """One target, one drafter, one tree.

    Parameters
    ----------
    parents : tuple of int
        Shape of the tree, the root first.
    scheme : str
        How its tokens are drafted.
    target, draft : callable
        Law of the next token after a string of emitted tokens.
    """

    parents: tuple[int, ...]
    scheme: Scheme
    target: Laws
    draft: Laws

    def __str__(self) -> str:
        return f"a {self.scheme} draft with parents {list(self.parents)} over {self.vocabulary} tokens"

    @property
    def depth(self) -> int:
        """Depth of the tree."""
        return TokenTree(self.parents).depth

    @property
    def vocabulary(self) -> int:
        """V of both laws."""
        return len(self.target(()))

    def drafted(self, drafting: NDArray[Any] | None = None, noise: NDArray[Any] | None = None) -> DraftLaw:
        """The draft for these drafting uniforms (sampled schemes) or this coupling noise (coupled)."""
        tree = TokenTree(self.parents)
        if self.scheme in DRAWN:
            assert drafting is not None
            return draw_draft(tree, self.scheme, self.draft, drafting)
        paths: dict[int, Text] = {0: ()}
        for node in tree.inner:
            children, law = tree.children(node), self.draft(paths[node])
            ranked = most_likely(law, len(law)) if noise is None else _finish(law, noise[len(paths[node])])
            paths |= {child: (*paths[node], int(ranked[i])) for i, child in enumerate(children)}
        tokens = [0, *(paths[node][-1] for node in range(1, len(tree)))]
        return DraftLaw(TokenTree(self.parents, tokens=tokens), self.scheme)

    def target_rows(self, draft: DraftLaw) -> NDArray[Any]:
        """(N + 1, V) laws of the target after each node."""
        return np.array([self.target(path) for path in node_paths(draft)])


def node_paths(draft: DraftLaw) -> list[Text]:
    """Tokens from below the root to each node; none for the root."""
    paths: list[Text] = [()]
    parents: list[int] = draft.tree.parents.tolist()
    for parent, token in zip(parents[1:], draft.tokens[1:].tolist(), strict=True):
        paths.append((*paths[parent], token))
    return paths


def cases_for(scheme: Scheme) -> list[Case]:
    """Cases over 4 tokens for every shape that the scheme allows, one of them over 5."""
    target, draft = table(TARGET_TWELFTHS), table(DRAFT_TWELFTHS)
    shapes = CHAINS if scheme == "chain" else SHAPES
    wide = Case((-1, 0, 1) if scheme == "chain" else (-1, 0, 0), scheme, table(WIDE_TARGET), table(WIDE_DRAFT))
    return [*(Case(shape, scheme, target, draft) for shape in shapes), wide]


def deep_case(scheme: Scheme) -> Case:
    """A chain of 6, or a tree of depth 5, over laws of two possible tokens each: what goes wrong from some depth on."""
    parents = (-1, 0, 1, 2, 3, 4, 5) if scheme == "chain" else (-1, 0, 0, 1, 3, 4, 5)
    return Case(parents, scheme, table(DEEP_TARGET), table(DEEP_DRAFT))


def _finish(law: NDArray[Any], noise: NDArray[Any]) -> NDArray[Any]:
    """Every token in the order of the draft's race, those that never finish last."""
    finishers = race(law, noise, len(law))
    return np.array(finishers + [token for token in range(len(law)) if token not in finishers])
