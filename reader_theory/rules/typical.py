"""Typical acceptance, LOSSY: which tokens it keeps, and how far the emitted law is from the target's.

Prefer a lossless rule; this states what is paid for the tokens gained.
Cai et al. 2024, "Medusa: simple LLM inference acceleration framework with multiple decoding heads".
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from reader_theory.rules.laws import as_laws

__all__ = ["acceptable", "acceptance_probability", "distortion", "emitted_law"]


def acceptable(target: ArrayLike, epsilon: float = 0.09, delta: float = 0.3) -> NDArray[np.bool_]:
    r"""Tokens that the rule keeps.

    .. math:: p_i > \min(\epsilon, \delta e^{-H(p)})

    Parameters
    ----------
    target : (V,), sums to 1
        Law p.
    epsilon, delta : float, in (0, 1)
        Probability that is always enough; share of exp(-entropy) that is.

    Examples
    --------
    >>> acceptable([0.9, 0.1, 0.0]).tolist()
    [True, True, False]
    """
    law = as_laws(target, "target")
    entropy = -sum(float(p) * math.log(p) for p in law if p > 0)
    threshold = min(epsilon, delta * math.exp(-entropy))
    return np.array([bool(p > threshold) for p in law])


def acceptance_probability(
    target: ArrayLike, tokens: Sequence[int], epsilon: float = 0.09, delta: float = 0.3
) -> float:
    """1 when one of the offered `tokens` is likely enough, 0 otherwise: the rule tosses no coin."""
    return float(bool(np.any(acceptable(target, epsilon, delta)[list(tokens)])))


def emitted_law(target: ArrayLike, tokens: Sequence[int], epsilon: float = 0.09, delta: float = 0.3) -> NDArray[Any]:
    """(V,) law of the first emitted token when `tokens` are offered in this order; a point mass if one is kept."""
    law = as_laws(target, "target")
    likely = acceptable(law, epsilon, delta)
    kept = next((token for token in tokens if likely[token]), None)
    if kept is None:
        return law
    point = 0 * law
    point[kept] = point[kept] + 1
    return point


def distortion(target: ArrayLike, tokens: Sequence[int], epsilon: float = 0.09, delta: float = 0.3) -> Any:
    """Total variation between the emitted token's law and the target's; 0 only where nothing is kept or p is a point.

    Examples
    --------
    >>> distortion([0.75, 0.25], [0])
    0.25
    """
    law = as_laws(target, "target")
    gap = np.abs(emitted_law(law, tokens, epsilon, delta) - law).sum() / 2
    return gap if law.dtype == object else float(gap)
