"""Target only: draw each token from the target, and follow the child that carries it.

Prefer it for trees that retrieval or top-k built: it needs no draft law, and is lossless for any tree built without
looking at the target's draws. A path is accepted with the product of the target's probabilities along it. Its
sampled-draft cousins accept more where the draft law is close to the target's.
"""

from __future__ import annotations

from typing import Any

from numpy.typing import ArrayLike, NDArray

from reader_theory.rules.base import At, FollowingRule
from reader_theory.rules.laws import as_pair, most_likely
from reader_theory.rules.pick import pick_token

__all__ = ["TargetOnly"]


class TargetOnly(FollowingRule):
    """One draw from the target at each position, from the recovery stream.

    A seed fixes the text, whatever is drafted.
    """

    name = "target_only"
    lossless = True
    streams = frozenset({"recovery"})

    def next_token(self, law: Any, numbers: At) -> int:
        """A draw from the law."""
        return pick_token(law, numbers("recovery", 1)[0])

    def acceptance(self, target: ArrayLike, draft: ArrayLike, draws: int = 1) -> NDArray[Any]:
        """The target's probability of each sibling; see `Rule.acceptance`."""
        p, q = as_pair(target, draft)
        return p[most_likely(q, draws)]
