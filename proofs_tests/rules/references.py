"""Rules written a second time, from their papers alone, as programs that draw by `Forks.choose`."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reader_theory.rules.draft_law import Scheme
from reader_theory.rules.exact import Forks, Law, outcome_law
from reader_theory.rules.laws import Laws, without_token
from reader_theory.trees import TokenTree


def traversal_law(tree: TokenTree, scheme: Scheme, target: Laws, draft: Laws) -> Law:
    """Law of what traversal emits, drafting included; a node that the draft law cannot fill is left out."""
    return outcome_law(lambda forks: _Run(forks, tree, scheme, target, draft).emitted())


@dataclass
class _Run:
    """One way that the draws and the coins can fall."""

    forks: Forks
    tree: TokenTree
    scheme: Scheme
    target: Laws
    draft: Laws
    paths: dict[int, tuple[int, ...]] = field(default_factory=lambda: {0: ()})

    def emitted(self) -> tuple[int, ...]:
        for parent in self.tree.inner:
            if parent in self.paths:
                self._draw_below(parent)
        end = self._settle(0, Fraction(1))
        assert end is not None
        node, law = end
        return (*self.paths[node], self.forks.choose(law.tolist()))

    def _draw_below(self, parent: int) -> None:
        law = self.draft(self.paths[parent])
        for child in self.tree.children(parent):
            if not np.any(law > 0):
                return
            token = self.forks.choose(law.tolist())
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
        return (node, left) if node == 0 or self.forks.choose([reach, 1 - reach]) == 0 else None

    def _left_to_draw(self, law: NDArray[Any], token: int) -> NDArray[Any]:
        return without_token(law, token) if self.scheme == "without_replacement" else law
