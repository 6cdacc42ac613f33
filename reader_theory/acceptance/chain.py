"""Chains of one acceptance alpha: tokens a step in closed form, and alpha from the mean that engines log.

Prefer a table fitted from a trace: one number knows neither ranks nor depth nor sources.
Leviathan, Kalman, Matias 2023, equation 1.
"""

from __future__ import annotations

import numpy as np

from reader_theory.acceptance.base import as_probabilities
from reader_theory.errors import require
from reader_theory.estimate import Estimate

__all__ = ["alpha_of_mean_length", "chain_tokens_per_step", "tokens_from_mean_length"]

_WIDENING = 0.1


def chain_tokens_per_step(alpha: float, length: int) -> float:
    r"""Tokens a step of a chain of k tokens, :math:`(1 - \alpha^{k+1}) / (1 - \alpha)`; k + 1 when alpha is 1.

    Examples
    --------
    >>> chain_tokens_per_step(0.5, 2)
    1.75
    """
    alpha = float(as_probabilities("alpha", alpha))
    require(length >= 0, "`length` must be >= 0", got=length, fix="Pass 0 for no draft.")
    return float(length + 1) if alpha == 1 else (1 - alpha ** (length + 1)) / (1 - alpha)


def alpha_of_mean_length(mean_tokens: float, chain: int) -> float:
    r"""Solve :math:`(1 - \alpha^{k+1}) / (1 - \alpha) = \tau` for the acceptance of one token.

    Raises
    ------
    InvalidInputError
        If no acceptance in [0, 1] gives such a mean.

    Examples
    --------
    >>> round(alpha_of_mean_length(1.75, 2), 12)
    0.5
    """
    require(
        chain >= 1 and 1 <= mean_tokens <= chain + 1,
        "`mean_tokens` must lie between 1 and `chain` + 1, with `chain` >= 1",
        got=f"{mean_tokens} for a chain of {chain}",
        fix="Count the correction or bonus token: add 1 to a mean of accepted draft tokens.",
    )
    from scipy.optimize import brentq

    if mean_tokens in (1, chain + 1):
        return float(mean_tokens > 1)
    return float(as_probabilities("alpha", brentq(lambda a: chain_tokens_per_step(a, chain) - mean_tokens, 0.0, 1.0)))


def tokens_from_mean_length(mean_tokens: float, chain: int, length: int) -> Estimate:
    """Tokens a step of a chain of `length`, assumed, where one of `chain` was seen to give `mean_tokens`.

    The interval spans alpha 0.1 lower to 0.1 higher. At the length that the mean was seen at it is a point; it widens
    by the distance from it, to its full width at half or twice that length.
    """
    alpha = alpha_of_mean_length(mean_tokens, chain)
    far = min(abs(np.log2(max(length, 1) / chain)), 1.0) * _WIDENING
    low, value, high = (chain_tokens_per_step(float(np.clip(alpha + s, 0, 1)), length) for s in (-far, 0, far))
    return Estimate(value=value, low=low, high=high, origin="assumed")
