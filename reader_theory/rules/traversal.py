"""Traversal verification: settle a sampled tree from its leaves up, so that each whole path has its chance.

Prefer it for sampled trees; on a chain it is block verification.
Weng et al. 2025, "Traversal verification for speculative tree decoding".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from reader_theory.rules.base import Rule
from reader_theory.rules.draft_law import DraftLaw
from reader_theory.rules.laws import without_token
from reader_theory.rules.pick import pick_token
from reader_theory.rules.streams import VerifyUniforms
from reader_theory.rules.without_replacement import WithoutReplacement

__all__ = ["Traversal"]


class Traversal(Rule):
    """Visits the children of a node in turn, each with all that hangs below it, and the node itself last.

    A seed alone does not fix the text: it depends on what is drafted too, its law does not.

    A node is reached with r = min(1, r' p(x)/q(x)), where r', p and q are its parent's as the elder siblings left
    them. When a child and all below it are rejected, p becomes the normalised surplus of r' p over q, and r' becomes S
    / (S + 1 - r'), S being the mass of that surplus; q loses the child's token where siblings are drawn without
    replacement.
    """

    name = "traversal"
    lossless = True
    scheme = "without_replacement"
    schemes = frozenset({"chain", "iid", "without_replacement"})
    streams = frozenset({"acceptance", "recovery"})

    def acceptance(self, target: ArrayLike, draft: ArrayLike, draws: int = 1) -> NDArray[Any]:
        """At one node, that of rejection without replacement; it is deeper down that traversal keeps more."""
        return WithoutReplacement().acceptance(target, draft, draws)

    def _walk(self, draft: DraftLaw, target: NDArray[Any], uniforms: VerifyUniforms) -> tuple[list[int], int]:
        end = _settle(_Step(draft, target, uniforms.acceptance), 0, 1)
        assert end is not None
        node, law = end
        return draft.tree.path(node)[1:], pick_token(law, uniforms.recovery[node])


@dataclass(frozen=True)
class _Step:
    draft: DraftLaw
    target: NDArray[Any]
    acceptance: NDArray[Any]


def _settle(step: _Step, node: int, reach: Any) -> tuple[int, NDArray[Any]] | None:
    """Where the walk ends among `node` and all below it, with the law of the next token; None when all are rejected."""
    draft, target = step.draft, step.target[node]
    law = draft.law_at(node) if draft.tree.children(node) else target
    for child in draft.tree.children(node):
        token = int(draft.tokens[child])
        end = _settle(step, child, min(reach * target[token] / law[token], 1))
        if end is not None:
            return end
        reach, target = _after_rejection(reach, target, law)
        law = without_token(law, token) if draft.scheme == "without_replacement" else law
    return (node, target) if node == 0 or step.acceptance[node] < reach else None


def _after_rejection(reach: Any, target: NDArray[Any], law: NDArray[Any]) -> tuple[Any, NDArray[Any]]:
    """The node's own chance and its target once one more child is rejected."""
    surplus = np.maximum(reach * target - law, 0)
    mass = surplus.sum()
    return (mass / (mass + 1 - reach), surplus / mass) if mass > 0 else (mass, target)
