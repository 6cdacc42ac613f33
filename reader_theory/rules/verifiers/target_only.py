"""Target only: draw each token from the target, and follow the child that carries it.

Prefer it for trees that retrieval or top-k built: it needs no draft law, and is lossless for any tree built without
looking at the target's draws. A path is accepted with the product of the target's probabilities along it. Its
sampled-draft cousins accept more where the draft law is close to the target's.
"""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from reader_theory.rules.base import Verifier
from reader_theory.rules.draft_law import SCHEMES, DraftLaw
from reader_theory.rules.greedy import follow
from reader_theory.rules.pick import pick_token
from reader_theory.rules.streams import VerifyUniforms

__all__ = ["TargetOnly"]


class TargetOnly(Verifier):
    """One draw from the target at each position, from the recovery stream."""

    name = "target_only"
    lossless = True
    schemes = frozenset(SCHEMES)
    streams = frozenset({"recovery"})

    def _walk(self, draft: DraftLaw, target: NDArray[Any], uniforms: VerifyUniforms) -> tuple[list[int], int]:
        return follow(draft, lambda node: pick_token(target[node + 1], uniforms.recovery[node + 1]))
