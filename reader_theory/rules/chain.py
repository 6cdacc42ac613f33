"""Chain rejection: keep a drawn token with probability min(1, p/q); otherwise draw from the positive part of p - q.

Prefer it for one sampled chain when each token must be settled as soon as it is known; block verification never
accepts less. Leviathan, Kalman, Matias 2023, "Fast inference from transformers via speculative decoding"; Chen et al.
2023, "Accelerating large language model decoding with speculative sampling".
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from reader_theory.rules.base import Rule, walk_down
from reader_theory.rules.draft_law import DraftLaw
from reader_theory.rules.laws import Laws, check_count, one_draw
from reader_theory.rules.multi_round import try_in_turn
from reader_theory.rules.streams import VerifyUniforms

__all__ = ["ChainRejection"]


class ChainRejection(Rule):
    """At most one child a node, drawn from the declared law.

    A seed alone does not fix the text: it depends on what is drafted too, its law does not.
    """

    name = "chain"
    lossless = True
    scheme = "chain"
    schemes = frozenset({"chain"})
    streams = frozenset({"acceptance", "recovery"})

    def acceptance(self, target: ArrayLike, draft: ArrayLike, draws: int = 1) -> NDArray[Any]:
        r"""One draw survives with 1 - TV(p, q); see `Rule.acceptance`."""
        return one_draw(target, draft, draws)

    def expected_tokens(self, target: Laws, draft: Laws, length: int) -> Any:
        r"""Tokens a step of a chain when both laws depend on the whole path, exactly, for small vocabularies.

        .. math:: 1 + \sum_{i=1}^{D} \sum_{x^i} \prod_{j \le i} \min(p(x_j | x^{j-1}), q(x_j | x^{j-1}))
        """
        total: Any = 1
        level: dict[tuple[int, ...], Any] = {(): 1}
        for _ in range(length):
            check_count(len(level) * len(target(())), "strings")
            level = {
                (*text, token): mass * share
                for text, mass in level.items()
                for token, share in enumerate(np.minimum(target(text), draft(text)))
                if share > 0
            }
            total += sum(level.values())
        return total

    def _walk(self, draft: DraftLaw, target: NDArray[Any], uniforms: VerifyUniforms) -> tuple[list[int], int]:
        return walk_down(draft, target, uniforms, try_in_turn)
