"""Without replacement: siblings are distinct draws; after each rejection both laws lose what was tried.

Prefer it for sampled trees: no node is spent twice on one token.
Chen et al. 2024, "Sequoia: scalable, robust, and hardware-aware speculative decoding".
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from reader_theory.rules.base import Rule, walk_down
from reader_theory.rules.draft_law import DraftLaw
from reader_theory.rules.laws import as_pair, check_count, residual, without_token
from reader_theory.rules.streams import VerifyUniforms

__all__ = ["WithoutReplacement"]


class WithoutReplacement(Rule):
    """The draft law is renormalised over the tokens that are left after each rejection.

    A seed alone does not fix the text: it depends on what is drafted too, its law does not.
    """

    name = "without_replacement"
    lossless = True
    scheme = "without_replacement"
    schemes = frozenset({"chain", "without_replacement"})
    streams = frozenset({"acceptance", "recovery"})

    def acceptance(self, target: ArrayLike, draft: ArrayLike, draws: int = 1) -> NDArray[Any]:
        """What each round accepts, by recursion over the rejected tokens; see `Rule.acceptance`.

        No closed form is known beyond one draw. Rounds beyond q's support accept nothing.

        Examples
        --------
        >>> WithoutReplacement().acceptance([0.5, 0.5], [0.9, 0.1], 2).round(12).tolist()
        [0.6, 0.4]
        """
        left, law = as_pair(target, draft)
        check_count(len(law) ** (draws - 1), "strings of rejected tokens", 10**5)
        rates = 0 * np.resize(left, draws)
        _add_rounds(rates, 0, 1, left, law)
        return rates

    def _walk(self, draft: DraftLaw, target: NDArray[Any], uniforms: VerifyUniforms) -> tuple[list[int], int]:
        return walk_down(draft, target, uniforms, _decide)


def _decide(
    draft: DraftLaw, node: int, target: NDArray[Any], acceptance: NDArray[Any]
) -> tuple[int | None, NDArray[Any]]:
    law = draft.law_at(node) if draft.tree.children(node) else target
    for child in draft.tree.children(node):
        token = int(draft.tokens[child])
        if acceptance[child] * law[token] < target[token]:
            return child, target
        target, law = residual(target, law), without_token(law, token)
    return None, target


def _add_rounds(rates: NDArray[Any], place: int, reached: Any, left: NDArray[Any], law: NDArray[Any]) -> None:
    """Add what rounds from `place` on accept, once the rounds before have all rejected, with probability `reached`."""
    if place == len(rates) or not np.any(law > 0):
        return
    rates[place] += reached * np.minimum(left, law).sum()
    rejected = np.maximum(law - left, 0)
    after = residual(left, law)
    for token in np.flatnonzero(rejected > 0).tolist():
        _add_rounds(rates, place + 1, reached * rejected[token], after, without_token(law, token))
