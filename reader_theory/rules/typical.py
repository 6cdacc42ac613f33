"""Typical acceptance, LOSSY: keep a token that the target finds likely enough, whatever its law.

Prefer it only where the text may change: it accepts more than any lossless rule, and the emitted law is not the
target's. Cai et al. 2024, "Medusa: simple LLM inference acceleration framework with multiple decoding heads";
threshold after Hewitt, Manning, Liang 2022, "Truncation sampling as language model desmoothing".
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from reader_theory.errors import require
from reader_theory.rules.base import Rule
from reader_theory.rules.draft_law import DraftLaw
from reader_theory.rules.laws import as_pair, most_likely
from reader_theory.rules.pick import pick_token
from reader_theory.rules.streams import VerifyUniforms

__all__ = ["TypicalLossy"]


@dataclass(frozen=True)
class TypicalLossy(Rule):
    """Accepts the longest path whose every token has p > min(epsilon, delta exp(-H(p))); lossy.

    A seed alone does not fix the text: it depends on what is drafted too, and so does its law.

    Parameters
    ----------
    epsilon : float, in (0, 1)
        Probability that is always enough.
    delta : float, in (0, 1)
        Share of exp(-entropy) that is enough.
    """

    name = "typical_lossy"
    lossless = False
    streams = frozenset({"recovery"})

    epsilon: float = 0.09
    delta: float = 0.3

    def __post_init__(self) -> None:
        inside = 0 < self.epsilon < 1 and 0 < self.delta < 1
        require(
            inside,
            "`epsilon` and `delta` must lie in (0, 1)",
            got=(self.epsilon, self.delta),
            fix="Medusa has 0.09 and 0.3.",
        )

    def acceptance(self, target: ArrayLike, draft: ArrayLike, draws: int = 1) -> NDArray[Any]:
        """1 at the first sibling that is likely enough: the rule tosses no coin. See `Rule.acceptance`."""
        p, q = as_pair(target, draft)
        likely = self._acceptable(p)[most_likely(q, draws)]
        return (likely & (np.cumsum(likely) == 1)) * p.sum()

    def _walk(self, draft: DraftLaw, target: NDArray[Any], uniforms: VerifyUniforms) -> tuple[list[int], int]:
        path = self._longest(draft, target, 0)
        row = path[-1] if path else 0
        return path, pick_token(target[row], uniforms.recovery[row])

    def _longest(self, draft: DraftLaw, target: NDArray[Any], node: int) -> list[int]:
        if not draft.tree.children(node):
            return []
        likely = self._acceptable(target[node])
        kept = (child for child in draft.tree.children(node) if likely[draft.tokens[child]])
        return max(([child, *self._longest(draft, target, child)] for child in kept), key=len, default=list[int]())

    def _acceptable(self, target: NDArray[Any]) -> NDArray[np.bool_]:
        entropy = -sum(float(p) * math.log(p) for p in target if p > 0)
        return np.array(target > min(self.epsilon, self.delta * math.exp(-entropy)), dtype=bool)
