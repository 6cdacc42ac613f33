"""Chain rejection: how often a drawn token survives, and how many tokens a chain of them emits.

Prefer it as the base line of every sampled rule; block verification never emits less.
Leviathan, Kalman, Matias 2023, "Fast inference from transformers via speculative decoding".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from reader_theory.errors import InvalidInputError, require
from reader_theory.rules.laws import as_laws

__all__ = ["Laws", "acceptance_probability", "expected_tokens", "expected_tokens_of_laws"]

Laws = Callable[[tuple[int, ...]], NDArray[Any]]
"""Law of the next token after a string of emitted tokens, (V,) float64 or fractions."""


def acceptance_probability(target: ArrayLike, draft: ArrayLike) -> Any:
    r"""Probability that one drafted token survives verification.

    .. math:: \alpha = \sum_v \min(p_v, q_v) = 1 - TV(p, q)

    Parameters
    ----------
    target, draft : (V,), each sums to 1
        Laws p and q; object arrays of fractions give a fraction.

    Returns
    -------
    float or Fraction
        Dimensionless, in [0, 1]. One exactly when the two laws agree.

    Raises
    ------
    NotADistributionError
        If either is no law.

    Examples
    --------
    >>> float(acceptance_probability([0.5, 0.5], [1.0, 0.0]))
    0.5
    """
    return np.minimum(as_laws(target, "target"), as_laws(draft, "draft")).sum()


def expected_tokens(acceptance: ArrayLike) -> float:
    r"""Tokens a step of a chain whose token i is accepted with probability `acceptance[i]` once the ones before are.

    .. math:: 1 + \sum_k \prod_{i \le k} \alpha_i = (1 - \alpha^{D + 1}) / (1 - \alpha) \text{ for constant } \alpha

    Parameters
    ----------
    acceptance : (D,) float64, in [0, 1]

    Examples
    --------
    >>> expected_tokens([0.5, 0.5])
    1.75
    """
    rates = np.asarray(acceptance, dtype=np.float64)
    inside = rates.ndim == 1 and bool(np.all((rates >= 0) & (rates <= 1)))
    require(
        inside, "`acceptance` must hold probabilities", got=rates.tolist(), fix="Give one rate in [0, 1] a position."
    )
    return 1.0 + float(np.cumprod(rates).sum())


def expected_tokens_of_laws(target: Laws, draft: Laws, length: int, limit: int = 10**6) -> Any:
    r"""Tokens a step when both laws depend on the whole path, exactly, for small vocabularies.

    .. math:: 1 + \sum_{i=1}^{D} \sum_{x^i} \prod_{j \le i} \min(p(x_j | x^{j-1}), q(x_j | x^{j-1}))

    Parameters
    ----------
    target, draft : callable
        Laws after a string.
    length : int, >= 0
        Tokens drafted.
    limit : int
        Strings that may be visited.

    Raises
    ------
    InvalidInputError
        When there are more than `limit` strings.
    """
    total: Any = 1
    level: dict[tuple[int, ...], Any] = {(): 1}
    for _ in range(length):
        check_strings(len(level) * len(target(())), limit)
        level = {
            (*text, token): mass * share
            for text, mass in level.items()
            for token, share in enumerate(np.minimum(target(text), draft(text)))
            if share > 0
        }
        total += sum(level.values())
    return total


def check_strings(strings: int, limit: int) -> None:
    """Refuse an enumeration of more than `limit` strings."""
    if strings > limit:
        raise InvalidInputError(
            f"an enumeration must visit at most {limit} strings",
            got=strings,
            fix="Use fewer tokens or positions, or the sampled estimate where the rule has one.",
        )
