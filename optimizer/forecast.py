"""Forecast: what a step of a policy costs, from its replay and the cost's terms, and how rows share steps."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reader_theory.acceptance.replay import ReplayResult
from reader_theory.cost.terms import Forwards, StepConditions
from reader_theory.documents import Cost, Policy
from reader_theory.estimate import Estimate

__all__ = ["StepForecast", "interval", "occupancy", "step_forecast"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class StepForecast:
    """Mean seconds of a step with `batch` rows, by named term; by axis, how far it lies beyond the measured."""

    batch: int
    terms_s: dict[str, float]
    beyond: dict[str, float] = field(default_factory=dict[str, float])

    @property
    def step_s(self) -> float:
        """Sum of the terms."""
        return sum(self.terms_s.values())


def step_forecast(cost: Cost, policy: Policy, result: ReplayResult, batch: int, context: float) -> StepForecast:
    """Mean cost of a step of `batch` independent rows that each draw their nodes from the replay.

    A forward is as wide as its widest row, or as its rows in the mean where the target computes no padding: the
    distribution of the maximum, or of the sum, of `batch` draws decides its term. The draft runs when any row wants it.
    """
    tokens, chances = _computed(result.nodes_histogram.sum(axis=0), batch, packed=cost.packed)
    forwards = _drafting(cost, policy, result, batch)
    grown = 0.0 if policy.kind != "grown" else 1.0 + sum(float(each.times.sum()) for each in forwards.values())
    conditions = StepConditions(
        batch=batch, context=context, tokens=tokens, forwards=forwards, growths=grown, drafting=policy.shape != "off"
    )
    parts = cost.model(policy.drafters).parts(conditions)
    terms_s = {name: float(np.sum(chances * seconds)) for name, seconds in parts.items()}
    return StepForecast(batch, terms_s, cost.beyond(conditions))


def _computed(histogram: NDArray[np.integer[Any]], batch: int, *, packed: bool) -> tuple[Floats, Floats]:
    """Tokens a row that a forward computes when `batch` rows draw their nodes, and the chance of each."""
    if packed:
        chances = _sums(histogram / histogram.sum(), batch)
        nodes = np.arange(len(chances)) / batch
    else:
        chances = _widest(histogram, batch)
        nodes = np.arange(len(chances), dtype=np.float64)
    used = chances > 0
    return nodes[used] + 1, chances[used]


def _sums(chances: Floats, batch: int) -> Floats:
    """(batch * M + 1,) chance that `batch` draws from 0, 1, ..., M come to each sum."""
    found = np.ones(1)
    for _ in range(batch):
        found = np.convolve(found, chances)
    return found


def _widest(histogram: NDArray[np.integer[Any]], batch: int) -> Floats:
    """(M + 1,) chance that the largest of `batch` draws from 0, 1, ..., M is each of them."""
    return np.diff(np.cumsum(histogram / histogram.sum()) ** batch, prepend=0.0)


def _drafting(cost: Cost, policy: Policy, result: ReplayResult, batch: int) -> dict[str, Forwards]:
    """What the drafters run in the mean: look-ups of a chain in every step, and the draft when any row wants it.

    A forward has the tokens of the row that has most, where these were recorded.
    """
    looked = {} if policy.retrieved is None else {policy.retrieved.drafter: Forwards(1.0)}
    asked = policy.asks
    if asked is None:
        return looked
    if result.forwards_histogram is None:
        sizes = cost.forwards_of(asked).sizes(policy.asked_widths, result.tokens_per_step)
        chance = 1.0 - (1.0 - result.drafted_steps.sum() / max(int(result.steps.sum()), 1)) ** batch
        return looked | {asked: Forwards(sizes, chance)}
    chances = np.array([_widest(histogram, batch)[1:] for histogram in result.forwards_histogram])
    sizes = np.nonzero(chances > 0)[-1] + 1
    return looked | ({asked: Forwards(sizes, chances[chances > 0])} if len(sizes) else {})


def occupancy(steps: Ints, batch: int) -> Ints:
    """(batch + 1,) number of engine steps with 0, 1, ..., batch rows when requests of these steps are served in order.

    Examples
    --------
    >>> occupancy(np.array([3, 1, 1]), 2).tolist()
    [0, 1, 2]
    """
    free = [0] * batch
    ends: list[int] = []
    for need in steps.tolist():
        start = heapq.heappop(free)
        heapq.heappush(free, start + need)
        ends.append(start + need)
    starts = np.asarray(ends) - steps
    edges = np.zeros(max(ends, default=0) + 1, dtype=np.int64)
    np.add.at(edges, starts, 1)
    np.add.at(edges, np.asarray(ends), -1)
    return np.bincount(np.cumsum(edges)[:-1], minlength=batch + 1)


def interval(draws: Floats, value: float, level: float) -> Estimate:
    """Percentile interval of `draws`, widened to hold `value`."""
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(
        value=value, low=float(min(low, value)), high=float(max(high, value)), origin="predicted", level=level
    )
