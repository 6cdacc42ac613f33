"""Without replacement: siblings are distinct draws; after each rejection both laws lose what was tried.

Prefer it for sampled trees: no node is spent twice on one token.
Chen et al. 2024, "Sequoia: scalable, robust, and hardware-aware speculative decoding".
"""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from reader_theory.rules.base import Verifier, walk_down
from reader_theory.rules.draft_law import DraftLaw
from reader_theory.rules.laws import residual, without_token
from reader_theory.rules.streams import VerifyUniforms

__all__ = ["WithoutReplacement"]


class WithoutReplacement(Verifier):
    """The draft law is renormalised over the tokens that are left after each rejection."""

    name = "without_replacement"
    lossless = True
    schemes = frozenset({"chain", "without_replacement"})
    streams = frozenset({"acceptance", "recovery"})

    def _walk(self, draft: DraftLaw, target: NDArray[Any], uniforms: VerifyUniforms) -> tuple[list[int], int]:
        return walk_down(draft, target, uniforms, _decide)


def _decide(
    draft: DraftLaw, node: int, target: NDArray[Any], acceptance: NDArray[Any]
) -> tuple[int | None, NDArray[Any]]:
    law = draft.law_at(node) if draft.children(node) else target
    for child in draft.children(node):
        token = int(draft.tokens[child])
        if acceptance[child] * law[token] < target[token]:
            return child, target
        target, law = residual(target, law), without_token(law, token)
    return None, target
