"""Gumbel coupling: target and draft take the winners of races run on the same noise; drafts that agree are kept.

Prefer it where the text must not depend on the drafter, or on how steps cut it up: for given noise it is a function of
the target. It accepts less than rejection, by a factor of 1 + TV at most. Daliri, Musco, Suresh 2025, "Coupling without
communication and drafter-invariant speculative decoding".
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from reader_theory.rules.base import At, FollowingRule
from reader_theory.rules.laws import as_pair, check_count
from reader_theory.rules.race import race

__all__ = ["GumbelCoupled"]


class GumbelCoupled(FollowingRule):
    """Any tree will do; one whose children are the first finishers of the draft's race is the one that agrees most.

    A seed fixes the text, whatever is drafted.
    """

    name = "gumbel"
    lossless = True
    scheme = "coupled"
    schemes = frozenset({"coupled", "deterministic"})
    streams = frozenset({"coupling"})

    def next_token(self, law: Any, numbers: At) -> int:
        """The winner of the target's race."""
        return race(law, numbers("coupling", len(law)))[0]

    def acceptance(self, target: ArrayLike, draft: ArrayLike, draws: int = 1) -> NDArray[Any]:
        r"""Probability that the target's winner is the draft's first, second, ... finisher; see `Rule.acceptance`.

        .. math:: a_1 = \sum_{i : p_i, q_i > 0} \Big( \sum_j \max(p_j / p_i, q_j / q_i) \Big)^{-1} \in
                  [(1 - TV) / (1 + TV), 1 - TV]

        Token i wins both when its exponential time, divided by either rate, is the least: an exponential of rate
        max(p_j / p_i, q_j / q_i) must outlast it for every j. The maximum is the first term where p_j / q_j >= p_i /
        q_i, so that sums over tokens in order of p / q give every inner sum: O(V log V) for one draw.
        """
        p, q = as_pair(target, draft)
        check_count(len(p) ** draws if draws > 1 else draws, "tokens ahead in the draft's race", 10**5)
        both = np.flatnonzero((p > 0) & (q > 0))
        if draws > 1:
            return sum((_ranks(p / p[i], q / q[i], i, draws) for i in both.tolist()), 0 * np.resize(p, draws))
        order = both[np.argsort(p[both] / q[both], kind="stable")]
        ranked_p, ranked_q = p[order], q[order]
        below_q = q[p == 0].sum() + np.cumsum(ranked_q) - ranked_q
        above_p = p[q == 0].sum() + ranked_p.sum() - (np.cumsum(ranked_p) - ranked_p)
        return np.array([(1 / (above_p / ranked_p + below_q / ranked_q)).sum()], dtype=p.dtype)


def _ranks(p: NDArray[Any], q: NDArray[Any], winner: int, draws: int) -> NDArray[Any]:
    """Probability that `winner` wins the target's race with 0, 1, ... tokens ahead of it in the draft's.

    Given its time t, token j stays behind in both with exp(-t max(p_j, q_j)), and is ahead in the draft's race alone
    with exp(-t p_j) less that; products of these integrate term by term.
    """
    terms: dict[tuple[int, Any], Any] = {(0, 0 * p[0] + 1): 1}
    for slow, fast in ((p[j], max(p[j], q[j])) for j in range(len(p)) if j != winner):
        grown: defaultdict[tuple[int, Any], Any] = defaultdict(int)
        for (ahead, rate), share in terms.items():
            grown[ahead, rate + fast] += share
            if fast > slow and ahead + 1 < draws:
                grown[ahead + 1, rate + slow] += share
                grown[ahead + 1, rate + fast] -= share
        terms = dict(grown)
    found = 0 * np.resize(p, draws)
    for (ahead, rate), share in terms.items():
        found[ahead] += share / rate
    return found
