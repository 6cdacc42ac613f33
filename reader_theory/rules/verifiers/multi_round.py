"""Multi-round rejection: independent siblings are tried in turn, each against what earlier rounds left of the target.

Prefer it where the drafter samples its siblings independently; without replacement accepts more at equal nodes. Miao
et al. 2024, "SpecInfer: accelerating large language model serving with tree-based speculative inference and
verification".
"""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from reader_theory.rules.base import Verifier, walk_down
from reader_theory.rules.draft_law import DraftLaw
from reader_theory.rules.laws import residual
from reader_theory.rules.streams import VerifyUniforms

__all__ = ["MultiRound", "try_in_turn"]


class MultiRound(Verifier):
    """A repeated sibling is one more round, and must stay: merging it would leave the wrong residual."""

    name = "multi_round"
    lossless = True
    schemes = frozenset({"chain", "iid"})
    streams = frozenset({"acceptance", "recovery"})

    def _walk(self, draft: DraftLaw, target: NDArray[Any], uniforms: VerifyUniforms) -> tuple[list[int], int]:
        return walk_down(draft, target, uniforms, try_in_turn)


def try_in_turn(
    draft: DraftLaw, node: int, target: NDArray[Any], acceptance: NDArray[Any]
) -> tuple[int | None, NDArray[Any]]:
    """Try the children of `node` in turn: the first one accepted, or None with what is left of the target."""
    for child in draft.children(node):
        law, token = draft.law_at(node), int(draft.tokens[child])
        if acceptance[child] * law[token] < target[token]:
            return child, target
        target = residual(target, law)
    return None, target
