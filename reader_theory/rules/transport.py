"""Optimal transport: the acceptance that no one-step verifier of n offered tokens exceeds.

Prefer it as the yardstick of the others. Prefixes of the tokens in order of p / q suffice.
Sun et al. 2023, "SpecTr: fast speculative decoding via optimal transport"; Hu et al. 2025, "Towards optimal multi-draft
speculative decoding".
"""

from __future__ import annotations

from itertools import permutations
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from reader_theory.errors import require
from reader_theory.rules.laws import as_pair, check_count

__all__ = ["Offer", "offered_inside", "optimal_acceptance"]

Offer = Literal["iid", "without_replacement"]
FloatArray = NDArray[np.float64]


def optimal_acceptance(target: ArrayLike, draft: ArrayLike, draws: int = 1, offer: Offer = "iid") -> Any:
    r"""Probability that the best coupling emits one of n offered tokens.

    .. math:: \alpha^* = 1 + \min_A \, [p(A) - Q(A)]

    Parameters
    ----------
    target, draft : (V,), each sums to 1
        Laws p and q; object arrays of fractions give a fraction.
    draws : int, >= 1
        Tokens offered.
    offer : {"iid", "without_replacement"}
        How they are drawn from q.

    Returns
    -------
    float or Fraction
        In [0, 1]; 1 - TV for one token.

    Examples
    --------
    >>> round(optimal_acceptance([0.5, 0.5], [0.9, 0.1], draws=2, offer="without_replacement"), 9)
    1.0
    """
    p, q = as_pair(target, draft)
    require(draws >= 1, "`draws` must be at least 1", got=draws, fix="A node without children accepts nothing.")
    drawn = np.flatnonzero(q > 0)
    order = drawn[np.argsort(p[drawn] / q[drawn], kind="stable")]
    inside = offered_inside(q[order], draws, offer)
    best = 1 + min((p[order].cumsum() - inside).min(), 0)
    return best if p.dtype == object else float(best)


def offered_inside(draft: NDArray[Any], draws: int, offer: Offer = "iid") -> NDArray[Any]:
    """(V,) probability that all offered tokens lie among the first 1, 2, ..., V tokens of a positive law.

    Without replacement, n tokens all lie in A when the n-th finisher in A of a race at rates q comes before the first
    one outside: an integral over the time of the latter, taken by the trapezoid rule in log time for all A at once, or
    a sum over orders for fractions. A law of fewer than n tokens offers them all; drawn independently, it offers some
    of them again.
    """
    if offer == "iid":
        return np.minimum(draft.cumsum(), 1) ** draws
    draws = min(draws, len(draft))
    return _inside_by_orders(draft, draws) if draft.dtype == object else _inside_by_race(draft, draws)


def _inside_by_orders(draft: NDArray[Any], draws: int) -> NDArray[Any]:
    check_count(len(draft) ** draws, "orders", 10**5)
    inside = 0 * draft
    for tokens in permutations(range(len(draft)), draws):
        mass: Any = 1
        left: Any = 1
        for token in tokens:
            mass, left = mass * draft[token] / left, left - draft[token]
        inside[max(tokens) :] += mass
    return inside


def _inside_by_race(draft: FloatArray, draws: int) -> FloatArray:
    step = 0.2
    times = np.exp(np.arange(-30.0, 36.0, step))
    outside = np.maximum(1.0 - np.cumsum(draft), 0.0)
    finished = np.zeros((draws, len(times)))
    finished[0] = 1.0
    inside = np.ones(len(draft))
    for place, rate in enumerate(draft[:-1].tolist()):
        arrived = -np.expm1(-rate * times)
        finished[1:] = finished[1:] * (1 - arrived) + finished[:-1] * arrived
        finished[0] *= 1 - arrived
        gone = outside[place]
        if gone < 1e-13:
            inside[place] = float(place + 1 >= draws)
            continue
        inside[place] = step * float(np.sum((1 - finished.sum(axis=0)) * gone * times * np.exp(-gone * times)))
    return np.clip(inside, 0.0, 1.0)
