"""Rejection without replacement: how often each of several distinct siblings is accepted.

Prefer it for sampled trees. No closed form is known beyond one draw: exact by recursion over the rejected tokens, or
estimated from paths of rejected tokens, whose acceptance is summed in closed form at every round. Chen et al. 2024,
"Sequoia: scalable, robust, and hardware-aware speculative decoding".
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from reader_theory.errors import require
from reader_theory.estimate import Estimate
from reader_theory.rules.chain import check_strings
from reader_theory.rules.laws import as_laws, residual, without_token

__all__ = ["acceptance_probability", "estimated_acceptance", "round_acceptance"]


def round_acceptance(target: ArrayLike, draft: ArrayLike, draws: int, limit: int = 10**5) -> NDArray[Any]:
    """Probability that each of n distinct siblings is the one accepted, exactly: the rank vector of the rule.

    Parameters
    ----------
    target, draft : (V,), each sums to 1
        Laws p and q; object arrays of fractions give fractions.
    draws : int, >= 1
        Siblings drawn from q without replacement; rounds beyond q's support accept nothing.
    limit : int
        Strings of rejected tokens that may be visited, V to the power ``draws - 1``.

    Raises
    ------
    InvalidInputError
        When there are more; use `estimated_acceptance`.

    Examples
    --------
    >>> round_acceptance([0.5, 0.5], [0.9, 0.1], 2).round(12).tolist()
    [0.6, 0.4]
    """
    left, law = as_laws(target, "target"), as_laws(draft, "draft")
    require(draws >= 1, "`draws` must be at least 1", got=draws, fix="A node without children accepts nothing.")
    check_strings(len(law) ** (draws - 1), limit)
    rates = 0 * np.resize(left, draws)
    _add_rounds(rates, 0, 1, left, law)
    return rates


def _add_rounds(rates: NDArray[Any], place: int, reached: Any, left: NDArray[Any], law: NDArray[Any]) -> None:
    """Add what rounds from `place` on accept, once the rounds before have all rejected, with probability `reached`."""
    if place == len(rates) or not np.any(law > 0):
        return
    rates[place] += reached * np.minimum(left, law).sum()
    rejected = np.maximum(law - left, 0)
    after = residual(left, law)
    for token in np.flatnonzero(rejected > 0).tolist():
        _add_rounds(rates, place + 1, reached * rejected[token], after, without_token(law, token))


def acceptance_probability(target: ArrayLike, draft: ArrayLike, draws: int, limit: int = 10**5) -> Any:
    """Probability that one of n distinct siblings is accepted, exactly; see `round_acceptance`."""
    return round_acceptance(target, draft, draws, limit).sum()


def estimated_acceptance(
    target: ArrayLike, draft: ArrayLike, draws: int, samples: int = 1000, seed: int = 0
) -> Estimate:
    """The same for vocabularies of any size, from sampled paths of rejected tokens.

    Each sample adds every round's acceptance in closed form and only draws which token was rejected, so that its
    spread is that of the later rounds alone.

    Parameters
    ----------
    target, draft : (V,) float64, each sums to 1
    draws : int, >= 1
    samples : int, >= 2
        Paths; the interval is the mean's, at 95 %.
    seed : int
    """
    left, law = as_laws(target, "target"), as_laws(draft, "draft")
    require(
        draws >= 1 and samples >= 2, "`draws` must be >= 1 and `samples` >= 2", got=(draws, samples), fix="Raise them."
    )
    generator = np.random.default_rng(seed)
    values = np.array([_sampled_rounds(left, law, draws, generator) for _ in range(samples)])
    mean, half = float(values.mean()), 1.96 * float(values.std(ddof=1)) / samples**0.5
    return Estimate(value=mean, low=max(0.0, mean - half), high=min(1.0, mean + half), origin="predicted")


def _sampled_rounds(left: NDArray[Any], law: NDArray[Any], draws: int, generator: np.random.Generator) -> float:
    accepted, reached = 0.0, 1.0
    for _ in range(draws):
        rejected = np.maximum(law - left, 0)
        mass = float(rejected.sum())
        accepted += reached * float(np.minimum(left, law).sum())
        if mass <= 0 or not np.any(law > 0):
            break
        token = int(np.searchsorted(np.cumsum(rejected), generator.random() * mass, side="right").clip(0, len(law) - 1))
        reached, left, law = reached * mass, residual(left, law), without_token(law, token)
    return min(accepted, 1.0)
