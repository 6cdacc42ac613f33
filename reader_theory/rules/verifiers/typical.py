"""Typical acceptance, LOSSY: keep a token that the target finds likely enough, whatever its law.

Prefer it only where the text may change: it accepts more than any lossless rule, and the emitted law is not the
target's. Cai et al. 2024, "Medusa: simple LLM inference acceleration framework with multiple decoding heads";
threshold after Hewitt, Manning, Liang 2022, "Truncation sampling as language model desmoothing".
"""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from reader_theory.errors import require
from reader_theory.rules.base import Verifier
from reader_theory.rules.draft_law import ROOT, SCHEMES, DraftLaw
from reader_theory.rules.pick import pick_token
from reader_theory.rules.streams import VerifyUniforms
from reader_theory.rules.typical import acceptable

__all__ = ["TypicalLossy"]


class TypicalLossy(Verifier):
    """Accepts the longest path whose every token has p > min(epsilon, delta exp(-H(p))); lossy.

    Parameters
    ----------
    epsilon : float, in (0, 1)
        Probability that is always enough.
    delta : float, in (0, 1)
        Share of exp(-entropy) that is enough.
    """

    name = "typical_lossy"
    lossless = False
    schemes = frozenset(SCHEMES)
    streams = frozenset({"recovery"})

    def __init__(self, epsilon: float = 0.09, delta: float = 0.3) -> None:
        inside = 0 < epsilon < 1 and 0 < delta < 1
        require(
            inside, "`epsilon` and `delta` must lie in (0, 1)", got=(epsilon, delta), fix="Medusa has 0.09 and 0.3."
        )
        self.epsilon, self.delta = epsilon, delta

    def _walk(self, draft: DraftLaw, target: NDArray[Any], uniforms: VerifyUniforms) -> tuple[list[int], int]:
        path = self._longest(draft, target, ROOT)
        row = path[-1] + 1 if path else 0
        return path, pick_token(target[row], uniforms.recovery[row])

    def _longest(self, draft: DraftLaw, target: NDArray[Any], node: int) -> list[int]:
        if not draft.children(node):
            return []
        likely = acceptable(target[node + 1], self.epsilon, self.delta)
        kept = (child for child in draft.children(node) if likely[draft.tokens[child]])
        return max(([child, *self._longest(draft, target, child)] for child in kept), key=len, default=[])
