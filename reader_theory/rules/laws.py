"""Laws over tokens: checked once, exact when given as fractions, float64 otherwise."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from reader_theory.errors import NotADistributionError, require

__all__ = ["LAW_TOLERANCE", "as_laws", "residual", "without_token"]

LAW_TOLERANCE = 1e-9
"""How far the sum of a float64 law may be from one; a law of fractions sums to one exactly."""


def as_laws(values: ArrayLike, name: str) -> NDArray[Any]:
    """`values` as laws along the last axis: object dtype stays exact, all else becomes float64.

    Parameters
    ----------
    values : (..., V), entries >= 0, each row sums to 1
        Probabilities, or `fractions.Fraction` entries in an object array.
    name : str
        Argument's name, for the message.

    Raises
    ------
    NotADistributionError
        If an entry is negative or not a number, or a row misses 1 by more than `LAW_TOLERANCE`.
    """
    laws = np.asarray(values)
    exact = laws.dtype == object
    laws = laws if exact else laws.astype(np.float64, copy=False)
    rule = f"`{name}` must be a law over tokens: entries >= 0 that sum to 1 within {0 if exact else LAW_TOLERANCE:g}"
    fix = "If these are logits, pass `scipy.special.softmax(logits)`; if they are float32, cast to float64 first."
    require(
        laws.ndim >= 1 and laws.shape[-1] > 0, rule, got=f"shape {laws.shape}", fix=fix, error=NotADistributionError
    )
    sums = laws.sum(axis=-1)
    off = np.abs(sums - 1) > (0 if exact else LAW_TOLERANCE)
    negative = laws < 0
    bad = bool(np.any(off)) or bool(np.any(negative)) or (not exact and not bool(np.all(np.isfinite(sums))))
    if bad:
        got = f"shape {laws.shape}, minimum {laws.min()}, sums from {np.min(sums)} to {np.max(sums)}"
        raise NotADistributionError(rule, got=got, fix=fix)
    return laws


def residual(target: NDArray[Any], draft: NDArray[Any]) -> NDArray[Any]:
    """Law of the target once a token of the draft was rejected: the positive part of p - q, normalised.

    Where the two laws agree nothing can be rejected, and the target itself is returned.

    Parameters
    ----------
    target, draft : (V,) float64 or object, each sums to 1
        Laws p and q.

    Returns
    -------
    (V,) of the same kind
        Zero wherever p is zero.

    References
    ----------
    Leviathan, Kalman, Matias 2023, "Fast inference from transformers via speculative decoding".
    """
    surplus = np.maximum(target - draft, 0)
    mass = surplus.sum()
    return surplus / mass if mass > 0 else target


def without_token(draft: NDArray[Any], token: int) -> NDArray[Any]:
    """The draft law once `token` was drawn and may not come again; all zeros when nothing is left."""
    left = draft.copy()
    left[token] = 0 * left[token]
    mass = left.sum()
    return left / mass if mass > 0 else left
