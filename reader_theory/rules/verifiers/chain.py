"""Chain rejection: keep a drawn token with probability min(1, p/q); otherwise draw from the positive part of p - q.

Prefer it for one sampled chain when each token must be settled as soon as it is known; block verification never
accepts less. Leviathan, Kalman, Matias 2023, "Fast inference from transformers via speculative decoding"; Chen et al.
2023, "Accelerating large language model decoding with speculative sampling".
"""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from reader_theory.rules.base import Verifier, walk_down
from reader_theory.rules.draft_law import DraftLaw
from reader_theory.rules.streams import VerifyUniforms
from reader_theory.rules.verifiers.multi_round import try_in_turn

__all__ = ["ChainRejection"]


class ChainRejection(Verifier):
    """At most one child a node, drawn from the declared law."""

    name = "chain"
    lossless = True
    schemes = frozenset({"chain"})
    streams = frozenset({"acceptance", "recovery"})

    def _walk(self, draft: DraftLaw, target: NDArray[Any], uniforms: VerifyUniforms) -> tuple[list[int], int]:
        return walk_down(draft, target, uniforms, try_in_turn)
