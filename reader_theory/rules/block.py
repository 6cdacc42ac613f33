"""Block verification: settle a sampled chain as a whole, keeping the longest prefix that any position lets through.

Prefer it to chain rejection wherever a chain is sampled: the expected number of tokens is never less.
Sun et al. 2025, "Block verification accelerates speculative decoding".
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from reader_theory.rules.base import Rule
from reader_theory.rules.draft_law import DraftLaw
from reader_theory.rules.laws import Laws, check_count, one_draw
from reader_theory.rules.pick import pick_token
from reader_theory.rules.streams import VerifyUniforms

__all__ = ["Block"]


class Block(Rule):
    """Keeps the deepest node whose own uniform falls below the chance to end there.

    A seed alone does not fix the text: it depends on what is drafted too, its law does not.

    With r the probability that the block up to a node is kept in the end, r = min(1, r p(x)/q(x)) from node to node.
    The chance to end at a node that has a successor is S / (S + 1 - r), where S is the mass of the surplus r p - q
    over the next token; at the last node it is r. The token added after an inner node follows the normalised surplus.
    """

    name = "block"
    lossless = True
    scheme = "chain"
    schemes = frozenset({"chain"})
    streams = frozenset({"acceptance", "recovery"})

    def acceptance(self, target: ArrayLike, draft: ArrayLike, draws: int = 1) -> NDArray[Any]:
        """One draw survives with 1 - TV(p, q), as in a chain; see `Rule.acceptance`, and `expected_tokens` for more."""
        return one_draw(target, draft, draws)

    def expected_tokens(self, target: Laws, draft: Laws, length: int) -> Any:
        r"""Tokens a step, exactly, for small vocabularies.

        .. math:: 1 + \sum_{i=1}^{D} \sum_{x^i} w(x^i), \quad w(x^i) = \min(w(x^{i-1}) p(x_i | x^{i-1}), q(x^i)), \quad
                  w() = 1

        w(x^i) is the probability that x^i is drafted and kept: the largest that the joint laws of the two models allow
        at every prefix at once. Chain rejection keeps the product of min(p, q), which is never more.
        """
        total: Any = 1
        level: dict[tuple[int, ...], tuple[Any, Any]] = {(): (1, 1)}
        for _ in range(length):
            check_count(len(level) * len(target(())), "strings")
            level = {
                (*text, token): (min(kept * p, drafted * q), drafted * q)
                for text, (kept, drafted) in level.items()
                for token, (p, q) in enumerate(zip(target(text), draft(text), strict=True))
                if p > 0 and q > 0
            }
            total += sum(kept for kept, _ in level.values())
        return total

    def _walk(self, draft: DraftLaw, target: NDArray[Any], uniforms: VerifyUniforms) -> tuple[list[int], int]:
        kept, law = 0, _surplus(draft, target, 0, 1)
        reach: Any = 1
        for depth in range(1, len(draft.tree)):
            token = int(draft.tokens[depth])
            reach = min(reach * target[depth - 1][token] / draft.law_at(depth - 1)[token], 1)
            surplus = _surplus(draft, target, depth, reach)
            if uniforms.acceptance[depth] < _chance_to_end(surplus, reach, last=depth == draft.tree.nodes):
                kept, law = depth, surplus
        law = law if law.sum() > 0 else target[kept]
        return list(range(1, kept + 1)), pick_token(law, uniforms.recovery[kept])


def _surplus(draft: DraftLaw, target: NDArray[Any], depth: int, reach: Any) -> NDArray[Any]:
    """(V,) what the target puts on the next token beyond the draft; the whole target after the last node."""
    if depth == draft.tree.nodes:
        return target[depth]
    return np.maximum(reach * target[depth] - draft.law_at(depth), 0)


def _chance_to_end(surplus: NDArray[Any], reach: Any, *, last: bool) -> Any:
    if last:
        return reach
    mass = surplus.sum()
    return mass / (mass + 1 - reach) if mass > 0 else mass
