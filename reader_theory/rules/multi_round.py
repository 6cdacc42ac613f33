"""Multi-round rejection: independent siblings are tried in turn, each against what earlier rounds left of the target.

Prefer it where the drafter samples its siblings independently; without replacement accepts more at equal nodes. Miao
et al. 2024, "SpecInfer: accelerating large language model serving with tree-based speculative inference and
verification".
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from reader_theory.rules.base import Rule, walk_down
from reader_theory.rules.draft_law import DraftLaw
from reader_theory.rules.laws import as_pair, residual
from reader_theory.rules.streams import VerifyUniforms

__all__ = ["MultiRound", "try_in_turn"]


class MultiRound(Rule):
    """A repeated sibling is one more round, and must stay: merging it would leave the wrong residual.

    A seed alone does not fix the text: it depends on what is drafted too, its law does not.
    """

    name = "multi_round"
    lossless = True
    scheme = "iid"
    schemes = frozenset({"chain", "iid"})
    streams = frozenset({"acceptance", "recovery"})

    def acceptance(self, target: ArrayLike, draft: ArrayLike, draws: int = 1) -> NDArray[Any]:
        r"""What each round accepts; 1 - TV(p, q) in the first. See `Rule.acceptance`.

        .. math:: a_i = \beta_i \prod_{j < i} (1 - \beta_j), \quad \beta_i = \sum_v \min(p_i(v), q(v)), \quad
                  p_{i+1} \propto (p_i - q)_+

        Examples
        --------
        >>> MultiRound().acceptance([0.5, 0.5], [1.0, 0.0], 2).tolist()
        [0.5, 0.0]
        """
        left, law = as_pair(target, draft)
        rates: list[Any] = []
        survived: Any = 1
        for _ in range(draws):
            rate = np.minimum(left, law).sum()
            rates.append(survived * rate)
            survived, left = survived * (1 - rate), residual(left, law)
        return np.array(rates, dtype=left.dtype)

    def _walk(self, draft: DraftLaw, target: NDArray[Any], uniforms: VerifyUniforms) -> tuple[list[int], int]:
        return walk_down(draft, target, uniforms, try_in_turn)


def try_in_turn(
    draft: DraftLaw, node: int, target: NDArray[Any], acceptance: NDArray[Any]
) -> tuple[int | None, NDArray[Any]]:
    """Try the children of `node` in turn: the first one accepted, or None with what is left of the target."""
    for child in draft.tree.children(node):
        law, token = draft.law_at(node), int(draft.tokens[child])
        if acceptance[child] * law[token] < target[token]:
            return child, target
        target = residual(target, law)
    return None, target
