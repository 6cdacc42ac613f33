"""Laws over tokens: checked once, exact when given as fractions, float64 otherwise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from reader_theory.errors import NotADistributionError, require

__all__ = ["Laws", "as_laws", "as_pair", "check_count", "most_likely", "one_draw", "residual", "without_token"]

Laws = Callable[[tuple[int, ...]], NDArray[Any]]
"""Law of the next token after a string of emitted tokens, (V,) float64 or fractions."""

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


def as_pair(target: ArrayLike, draft: ArrayLike) -> tuple[NDArray[Any], NDArray[Any]]:
    """Two laws over the same tokens, checked."""
    p, q = as_laws(target, "target"), as_laws(draft, "draft")
    require(
        p.shape == q.shape and p.ndim == 1,
        "`target` and `draft` must be laws over the same tokens",
        got=f"shapes {p.shape} and {q.shape}",
        fix="Pad the smaller vocabulary with zeros.",
    )
    return p, q


def one_draw(target: ArrayLike, draft: ArrayLike, draws: int) -> NDArray[Any]:
    """(1,) probability 1 - TV(p, q) that a drawn token survives; a chain has no more than one at a node."""
    p, q = as_pair(target, draft)
    require(draws == 1, "`draws` must be 1 for a rule of chains", got=draws, fix="Choose a rule that takes siblings.")
    return np.array([np.minimum(p, q).sum()], dtype=p.dtype)


def most_likely(draft: NDArray[Any], draws: int) -> NDArray[np.intp]:
    """The `draws` most likely tokens, the lowest id first among equals: a draft that draws nothing."""
    return np.argsort(-draft, kind="stable")[:draws]


def check_count(count: int, what: str, limit: int = 10**6) -> None:
    """Refuse an exact sum over more than `limit` cases."""
    require(
        count <= limit,
        f"an exact sum must visit at most {limit} {what}",
        got=count,
        fix="Use fewer tokens, positions or siblings.",
    )


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
