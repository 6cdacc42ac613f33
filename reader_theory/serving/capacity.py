"""The request rate at which speculation stops paying, with its interval; and a closed loop's effective batch."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from reader_theory.documents.base import Frozen
from reader_theory.errors import require
from reader_theory.estimate import Estimate
from reader_theory.serving.load import AffineLoad

__all__ = ["BreakEven", "closed_loop_batch", "speculation_stops_paying"]


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


def _rate(load: AffineLoad, drafts: int, emitted: float, factors: list[float]) -> float:
    drawn = AffineLoad(
        prefill_s=load.prefill_s * factors[0],
        target_fixed_s=load.target_fixed_s * factors[1],
        target_load_s=load.target_load_s * factors[2],
        drafter_fixed_s=load.drafter_fixed_s * factors[3],
        drafter_load_s=load.drafter_load_s * factors[4],
        output_tokens=load.output_tokens,
    )
    plain = load.model_copy(
        update={name: getattr(drawn, name) for name in ("prefill_s", "target_fixed_s", "target_load_s")}
    )
    rate = _turn(drawn, plain, drafts, emitted)
    return math.inf if rate >= plain.capacity_per_s() and rate >= drawn.capacity_per_s(drafts, emitted) else rate


def _turn(drawn: AffineLoad, plain: AffineLoad, drafts: int, emitted: float) -> float:
    """Plain decoding verifies one token a request: its load is the target's share without the drafts' rows."""
    a1, a2 = drawn.constants(drafts, emitted)
    b1, b2 = plain.model_copy(update={"target_load_s": plain.target_load_s / (drafts + 1)}).constants(0, 1.0)
    if a1 >= b1:
        return 0.0 if a2 >= b2 else math.inf
    return math.inf if a2 * b1 <= a1 * b2 else (b1 - a1) / (a2 * b1 - a1 * b2)


def closed_loop_batch(
    concurrency: int,
    gap_s: Callable[[float], float],
    *,
    output_tokens: float,
    tokens_per_step: float,
    prefill_s: float,
    largest_batch: float = math.inf,
) -> float:
    """Requests in their decoding phase when clients keep `concurrency` requests in flight.

    Parameters
    ----------
    gap_s : callable
        Mean seconds between a request's outputs at a batch.
    prefill_s : float
        Seconds of a prompt in an otherwise empty step.
    largest_batch : float
        Most requests that the KV cache holds.
    """
    require(concurrency >= 1, "`concurrency` must be at least 1", got=concurrency, fix="Count clients.")
    top = min(float(concurrency), largest_batch)
    batch = top
    for _ in range(50):
        gap = gap_s(max(batch, 1e-3))
        decoding = max(output_tokens - 1, 1.0) / tokens_per_step * gap
        waiting = prefill_s + 0.5 * gap
        batch = 0.5 * batch + 0.5 * min(concurrency * decoding / (decoding + waiting), top)
    return batch
