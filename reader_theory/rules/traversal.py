"""Traversal verification of a sampled tree: the law of what it emits and its expected tokens, by exact enumeration.

Prefer it for sampled trees; on a chain it is block verification.
Weng et al. 2025, "Traversal verification for speculative tree decoding".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from reader_theory.rules.chain import Laws
from reader_theory.rules.laws import without_token
from reader_theory.trees import TokenTree
from reader_theory.trees.law import Choose, Law, emitted_law

__all__ = ["expected_tokens", "traversal_law"]

Scheme = Literal["chain", "iid", "without_replacement"]


def traversal_law(tree: TokenTree, scheme: Scheme, target: Laws, draft: Laws) -> Law:
    """Law of the emitted string over drafts and verification, for small vocabularies and trees.

    Parameters
    ----------
    tree : TokenTree
        Shape; siblings are drawn in order, and a node that the draft law cannot fill is left out with all below it.
    scheme : {"chain", "iid", "without_replacement"}
        How siblings are drawn.
    target, draft : callable
        Law after a string, (V,) object array of fractions.
    """

    def run(choose: Choose) -> Sequence[int]:
        return _Run(choose, tree, scheme, target, draft).emitted()

    return emitted_law(run)


def expected_tokens(tree: TokenTree, scheme: Scheme, target: Laws, draft: Laws) -> Fraction:
    """Tokens a step, exactly; see `traversal_law`."""
    law = traversal_law(tree, scheme, target, draft)
    return sum((probability * len(text) for text, probability in law.items()), Fraction(0))


@dataclass
class _Run:
    """One way that the draws and the coins can fall."""

    choose: Choose
    tree: TokenTree
    scheme: Scheme
    target: Laws
    draft: Laws
    paths: dict[int, tuple[int, ...]] = field(default_factory=lambda: {0: ()})

    def emitted(self) -> tuple[int, ...]:
        for parent in range(len(self.tree)):
            if parent in self.paths:
                self._draw_below(parent)
        end = self._settle(0, Fraction(1))
        assert end is not None
        node, law = end
        return (*self.paths[node], self.choose(law.tolist()))

    def _draw_below(self, parent: int) -> None:
        law = self.draft(self.paths[parent])
        for child in self.tree.children(parent):
            if not np.any(law > 0):
                return
            token = self.choose(law.tolist())
            self.paths[child] = (*self.paths[parent], token)
            law = self._left_to_draw(law, token)

    def _settle(self, node: int, reach: Any) -> tuple[int, NDArray[Any]] | None:
        """Where the walk ends, at or below `node`, and the law of the token added; None when all are rejected."""
        left, law = self.target(self.paths[node]), self.draft(self.paths[node])
        for child in (child for child in self.tree.children(node) if child in self.paths):
            token = self.paths[child][-1]
            end = self._settle(child, min(reach * left[token] / law[token], Fraction(1)))
            if end is not None:
                return end
            surplus = np.maximum(reach * left - law, 0)
            mass = surplus.sum()
            reach, left = (mass / (mass + 1 - reach), surplus / mass) if mass > 0 else (mass, left)
            law = self._left_to_draw(law, token)
        return (node, left) if node == 0 or self.choose([reach, 1 - reach]) == 0 else None

    def _left_to_draw(self, law: NDArray[Any], token: int) -> NDArray[Any]:
        return without_token(law, token) if self.scheme == "without_replacement" else law
