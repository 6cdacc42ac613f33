"""What a replay recorded: requests and steps, and the figures that operators read off them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["SimulationResult"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class SimulationResult:
    """Record of a replay; n requests, S steps.

    Parameters
    ----------
    end_s : float
        When the last request finished.
    arrived_s, scheduled_s, first_s, finished_s, output_tokens : (n,) float64
        Per request: times in seconds, tokens generated.
    gaps_s : (g,) float64
        Times between two outputs of one request, preemption included.
    step_start_s, step_s, running, decoding, waiting, emitted, kv_used : (S,) float64
        Per step: start, duration, requests running, of them decoding, waiting, tokens emitted, share of KV pages held.
    preemptions : int
        How often a request was thrown out.
    """

    end_s: float
    arrived_s: Array
    scheduled_s: Array
    first_s: Array
    finished_s: Array
    output_tokens: Array
    gaps_s: Array
    step_start_s: Array
    step_s: Array
    running: Array
    decoding: Array
    waiting: Array
    emitted: Array
    kv_used: Array
    preemptions: int

    @property
    def throughput(self) -> float:
        """Tokens a second over the whole replay."""
        return float(self.output_tokens.sum()) / self.end_s

    def latency_s(self, quantile: float | None = None) -> float:
        """Mean seconds from arrival to the last token, or its `quantile`."""
        return _summary(self.finished_s - self.arrived_s, quantile)

    def first_token_s(self, quantile: float | None = None) -> float:
        """Mean seconds from arrival to the first token, or its `quantile`."""
        return _summary(self.first_s - self.arrived_s, quantile)

    def gap_s(self, quantile: float | None = None) -> float:
        """Mean seconds between two outputs of one request, or the `quantile`."""
        return _summary(self.gaps_s, quantile)

    def mean_running(self) -> float:
        """Requests running, averaged over time."""
        return float(np.sum(self.running * self.step_s) / np.sum(self.step_s))

    def mean_in_system(self) -> float:
        """Requests running or waiting, averaged over time: Little's L."""
        return float(np.sum(self.finished_s - self.arrived_s)) / self.end_s

    def effective_batch(self) -> float:
        """Steps a second times the mean gap: requests between their first and last token, the preempted included."""
        return len(self.gaps_s) / self.end_s * self.gap_s()

    def running_at(self, times_s: Array) -> Array:
        """Requests running at each of `times_s`."""
        place = np.searchsorted(self.step_start_s, times_s, side="right") - 1
        inside = (place >= 0) & (times_s <= self.end_s)
        return np.where(inside, self.running[np.clip(place, 0, None)], 0.0)


def _summary(values: Array, quantile: float | None) -> float:
    if values.size == 0:
        return 0.0
    return float(np.mean(values)) if quantile is None else float(np.quantile(values, quantile))
