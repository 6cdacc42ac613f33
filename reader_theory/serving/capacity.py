"""The request rate at which speculation stops paying, with its interval."""

from __future__ import annotations

import math

import numpy as np

from reader_theory.documents.base import Frozen
from reader_theory.errors import require
from reader_theory.estimate import Estimate
from reader_theory.serving.load import AffineLoad, turning_rate

__all__ = ["BreakEven", "speculation_stops_paying"]


class BreakEven(Frozen):
    """Where speculation stops paying.

    Parameters
    ----------
    rate_per_s : Estimate or None
        The rate; None when speculation pays at every sustainable rate, or at none.
    always, never : float
        Probability, over the coefficients' uncertainty, that it pays at every sustainable rate; at none.
    """

    rate_per_s: Estimate | None
    always: float
    never: float


def speculation_stops_paying(
    load: AffineLoad,
    drafts: int,
    tokens_per_step: Estimate,
    *,
    cost_spread: float = 0.05,
    draws: int = 4000,
    seed: int = 0,
    level: float = 0.95,
) -> BreakEven:
    """Rate at which `drafts` drafts are no faster than none, by drawing coefficients within their errors.

    Parameters
    ----------
    load : AffineLoad
        Cost coefficients; each is drawn log-normally with relative standard deviation `cost_spread`.
    tokens_per_step : Estimate
        E, its interval read as 95 % of a normal law.
    draws, seed : int
        Monte Carlo draws, and their seed.
    """
    require(
        drafts >= 1, "`drafts` must be at least 1", got=drafts, fix="Without drafts there is nothing to switch off."
    )
    generator = np.random.default_rng(seed)
    half = (tokens_per_step.high - tokens_per_step.low) / 3.92
    emitted = np.clip(generator.normal(tokens_per_step.value, half, draws), 1.0, drafts + 1.0)
    factors = np.exp(generator.normal(0.0, cost_spread, (draws, 5)))
    rates = np.array([_rate(load, drafts, e, f.tolist()) for e, f in zip(emitted.tolist(), factors, strict=True)])
    always, never = float(np.mean(np.isinf(rates))), float(np.mean(rates <= 0))
    centre = _rate(load, drafts, tokens_per_step.value, [1.0] * 5)
    inside = rates[np.isfinite(rates) & (rates > 0)]
    if not (math.isfinite(centre) and centre > 0 and inside.size):
        return BreakEven(rate_per_s=None, always=always, never=never)
    tail = (1 - level) / 2
    finite = np.minimum(rates, 1e9)
    low, high = (float(x) for x in np.quantile(finite, [tail, 1 - tail]))
    estimate = Estimate(value=centre, low=min(low, centre), high=max(high, centre), origin="predicted", level=level)
    return BreakEven(rate_per_s=estimate, always=always, never=never)


_COSTS = ("prefill_s", "target_fixed_s", "target_load_s", "drafter_fixed_s", "drafter_load_s")


def _rate(load: AffineLoad, drafts: int, emitted: float, factors: list[float]) -> float:
    """Plain decoding verifies one token a request: its load is the target's share without the drafts' rows."""
    drawn = load.model_copy(update={n: getattr(load, n) * f for n, f in zip(_COSTS, factors, strict=True)})
    plain = drawn.model_copy(update={"target_load_s": drawn.target_load_s / (drafts + 1)})
    rate = turning_rate(drawn.constants(drafts, emitted), plain.constants(0, 1.0))
    return math.inf if rate >= max(drawn.capacity_per_s(), drawn.capacity_per_s(drafts, emitted)) else rate
