"""Forecast: what a step of a policy costs, from its replay and the cost's terms, and how rows share steps."""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reader_theory.acceptance.replay import ReplayResult
from reader_theory.documents import Cost, Policy
from reader_theory.estimate import Estimate

__all__ = ["StepForecast", "occupancy", "step_forecast"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class StepForecast:
    """Mean seconds of a step with `batch` rows, by named term."""

    batch: int
    terms_s: dict[str, float]

    @property
    def step_s(self) -> float:
        """Sum of the terms."""
        return sum(self.terms_s.values())


def step_forecast(cost: Cost, policy: Policy, result: ReplayResult, batch: int, context: float) -> StepForecast:
    """Mean cost of a step of `batch` independent rows that each draw their nodes from the replay.

    A forward is as wide as its widest row: the distribution of the maximum of `batch` draws decides the target's
    term; the draft runs when any row wants it.
    """
    widest = _widest(result.nodes_histogram.sum(axis=0), batch)
    nodes = np.arange(len(widest))
    used = widest > 0
    forward = float(widest[used] @ cost.target_forward.at(batch, nodes[used] + 1, context))
    scale = cost.closure_of(policy.drafted_by).value
    if policy.shape == "off":
        around = batch * cost.plain_overhead_s.value + cost.plain_step_overhead_s.value
        return StepForecast(batch, {"target": scale * forward, "overhead": scale * around})
    terms = {
        "target": forward,
        "draft": _drafting(cost, policy, result, batch, context),
        "retrieval": batch * cost.retrieval_s.value if policy.retrieved is not None else 0.0,
        "verify": batch * cost.verify_s.value,
        "commit": batch * cost.commit_s.value,
        "overhead": cost.step_overhead_s.value,
    }
    return StepForecast(batch, {name: scale * seconds for name, seconds in terms.items()})


def _widest(histogram: NDArray[np.integer[Any]], batch: int) -> Floats:
    """(M + 1,) chance that the largest of `batch` draws from 0, 1, ..., M is each of them."""
    return np.diff(np.cumsum(histogram / histogram.sum()) ** batch, prepend=0.0)


def _drafting(cost: Cost, policy: Policy, result: ReplayResult, batch: int, context: float) -> float:
    """Seconds of the draft's forwards, and of growing a tree between them.

    A forward runs when any row wants it: with the tokens of the row that has most where these were recorded.
    """
    if result.forwards_histogram is None:
        drafted = 1.0 - (1.0 - result.drafted_steps.sum() / max(int(result.steps.sum()), 1)) ** batch
        return drafted * cost.drafting_s(batch, policy.forward_sizes(result.tokens_per_step), context)
    seconds = times = 0.0
    for histogram in result.forwards_histogram:
        chance = _widest(histogram, batch)
        seconds += sum(p * cost.drafting_s(batch, [size], context) for size, p in enumerate(chance) if size and p > 0)
        times += float(chance[1:].sum())
    return seconds + cost.growing_s(batch, 1.0 + times)


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
