"""Gumbel coupling: how often target and draft, run on the same noise, pick the same token.

Prefer it where the text must not depend on the drafter; it accepts less than rejection, by a factor of 1 + TV at most.
Daliri, Musco, Suresh 2025, "Coupling without communication and drafter-invariant speculative decoding".
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from reader_theory.rules.laws import as_laws

__all__ = ["acceptance_probability"]


def acceptance_probability(target: ArrayLike, draft: ArrayLike) -> Any:
    r"""Probability that both races have one winner, in O(V log V).

    .. math:: \sum_{i : p_i, q_i > 0} \Big( \sum_j \max(p_j / p_i, q_j / q_i) \Big)^{-1}

    Token i wins both when its exponential time, divided by either rate, is the least: an exponential of rate max(p_j /
    p_i, q_j / q_i) must outlast it for every j. The maximum is the first term where p_j / q_j >= p_i / q_i, so that
    sums over tokens in order of p / q give every inner sum.

    Parameters
    ----------
    target, draft : (V,), each sums to 1
        Laws p and q; object arrays of fractions give a fraction.

    Returns
    -------
    float or Fraction
        In [(1 - TV) / (1 + TV), 1 - TV].

    Examples
    --------
    >>> round(float(acceptance_probability([0.5, 0.5], [0.75, 0.25])), 12)
    0.75
    """
    p, q = as_laws(target, "target"), as_laws(draft, "draft")
    both = np.flatnonzero((p > 0) & (q > 0))
    order = both[np.argsort(p[both] / q[both], kind="stable")]
    ranked_p, ranked_q = p[order], q[order]
    below_q = np.cumsum(ranked_q) - ranked_q
    above_p = p[q == 0].sum() + ranked_p.sum() - (np.cumsum(ranked_p) - ranked_p)
    below_q = below_q + q[p == 0].sum()
    return (1 / (above_p / ranked_p + below_q / ranked_q)).sum() if len(order) else 0 * p[0]
