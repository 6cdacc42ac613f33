"""Greedy tree: follow the target's most likely token for as long as the draft holds it.

Prefer it at temperature 0; it reads no uniform, and any draft will do.
Stern, Shazeer, Uszkoreit 2018, "Blockwise parallel decoding for deep autoregressive models".
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from reader_theory.rules.base import At, FollowingRule
from reader_theory.rules.laws import as_pair, most_likely

__all__ = ["Greedy"]


class Greedy(FollowingRule):
    """Emits what plain decoding at temperature 0 emits; of equal logits the lowest id, as argmax takes it."""

    name = "greedy"
    lossless = True
    decodes = "greedy"

    def next_token(self, law: Any, numbers: At) -> int:
        """The most likely token."""
        return int(law.argmax())

    def acceptance(self, target: ArrayLike, draft: ArrayLike, draws: int = 1) -> NDArray[Any]:
        """1 at the rank that the draft gives to the target's most likely token; see `Rule.acceptance`."""
        p, q = as_pair(target, draft)
        return (most_likely(q, draws) == np.argmax(p)) * p.sum()
