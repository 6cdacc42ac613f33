"""Window rejection: chain rejection of tokens drafted in parallel, without a token more after a window kept whole.

Prefer it where the law after the last drafted token is not known: a model that attends both ways needs one input for
each verified place, so a window of w places is w forwards, and the law after the window would be one more. Drafts for
all open places come from one forward and do not see each other; the law of a place, given the places before it, is what
they are verified against. Leviathan, Kalman, Matias 2023, "Fast inference from transformers via speculative decoding".
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from reader_theory.errors import require
from reader_theory.rules.base import Verified, check_uniforms
from reader_theory.rules.draft_law import DraftLaw
from reader_theory.rules.laws import as_laws, one_draw
from reader_theory.rules.multi_round import try_in_turn
from reader_theory.rules.pick import pick_token
from reader_theory.rules.streams import VerifyUniforms
from reader_theory.trees import TokenTree

__all__ = ["WindowRejection"]


class WindowRejection:
    """Verifies the drafts of w places from left to right, each by the law of its place given the places before it.

    It is not among `RULES`, whose rules add a token of the target's to every step.
    """

    name = "window"
    lossless = True

    def acceptance(self, target: ArrayLike, draft: ArrayLike) -> NDArray[Any]:
        """(1,) probability 1 - TV(p, q) that the draft of one place is kept, where all before it were."""
        return one_draw(target, draft, 1)

    def verify(self, tokens: ArrayLike, draft: ArrayLike, target: ArrayLike, uniforms: VerifyUniforms) -> Verified:
        """Keep drafts up to the first that is rejected, which a draw from the residual replaces.

        Parameters
        ----------
        tokens : (w,) int64
            One draft a place, drawn from `draft` independently of each other.
        draft : (w, V) float64, or object array of fractions; each row sums to 1
            Law q that each was drawn from.
        target : (w, V) of the same kind
            Law p of each place, given the drafts of the places before it.
        uniforms : VerifyUniforms
            w + 1 numbers of the streams ``acceptance`` and ``recovery``: place i reads entry i + 1 of the first and
            entry i of the second.

        Returns
        -------
        Verified
            ``emitted`` has 1 to w tokens: those kept, and the one that replaces the first rejected.

        Raises
        ------
        NotADistributionError
            When a row is no law.
        InvalidInputError
            When arrays do not fit each other, or a draft has probability 0 under its own law.
        """
        drafted = np.asarray(tokens, dtype=np.int64)
        laws, offered = as_laws(target, "target"), as_laws(draft, "draft")
        fits = drafted.ndim == 1 and len(drafted) >= 1 and laws.ndim == 2 and laws.shape == offered.shape
        require(
            fits and len(drafted) == len(laws),
            "`tokens`, `draft` and `target` must have one entry or row a place, and at least one",
            got=f"shapes {drafted.shape}, {offered.shape} and {laws.shape}",
            fix="A window's target has no row after its last place: there is no bonus token.",
        )
        chain = DraftLaw(TokenTree([-1, *range(len(drafted))], tokens=[0, *drafted]), "chain", offered)
        chain.check(laws.shape[1])
        for name, numbers in (("acceptance", uniforms.acceptance), ("recovery", uniforms.recovery)):
            check_uniforms(name, numbers, len(drafted) + 1)
        return _walk(chain, laws, uniforms)


def _walk(chain: DraftLaw, target: NDArray[Any], uniforms: VerifyUniforms) -> Verified:
    kept = tuple(range(1, chain.tree.nodes + 1))
    words = tuple(int(chain.tokens[node]) for node in kept)
    for place, law in enumerate(target):
        child, left = try_in_turn(chain, place, law, uniforms.acceptance)
        if child is None:
            return Verified(kept[:place], (*words[:place], pick_token(left, uniforms.recovery[place])))
    return Verified(kept, words)
