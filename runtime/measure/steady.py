"""Steady measuring: each kind of policy as it will run, a stretch at a time, with a fixed step beside every stretch.

Stretches go off, A, off, B, off, ..., off, B, off, A, off: what drifts evenly falls on all alike, and plain decoding,
an end of every ratio, is seen as often as all the rest. The fixed step tells the pace of the machine, which is divided
out of every time; what is left is the model's error, and a ratio of two policies is drawn from stretches of one round,
so that both its ends have one pace.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student
from scipy.stats import trim_mean

from reader_theory.cost.pace import Pace, smoothed_pace
from reader_theory.documents import Off, Policy
from reader_theory.estimate import Estimate
from runtime.engine.counters import StepTiming
from runtime.measure.bench import Bench, Point, SeenStep
from runtime.measure.prompts import Progress

__all__ = ["STEPS", "Meter", "Stretch", "level", "middle_level", "paired", "predictive", "watch", "within"]

Floats = NDArray[np.float64]

Round = tuple[tuple[str, ...], int, int]

STEPS, SETTLE = 18, 6
"""Steps of a stretch, and how many before them pay for the change and are left out."""
OFTEN = 25
"""Reference steps that may pass before the next reading."""
JUMP, AGAIN = 0.12, 2
"""Logarithm by which the readings before and after a stretch may differ, and how often it is made again."""
HALTED = 5.0
"""A step that took over so many times the median of its stretch: the machine was elsewhere."""
PRIOR_SPREAD, PRIOR_CELLS = 0.025, 4
"""Assumed relative standard deviation of the cells of one kind of step, and how many cells that is worth."""


@dataclass(frozen=True)
class Stretch:
    """Steps in a row under one policy: those that follow `SETTLE` of it, on which no request joined.

    Parameters
    ----------
    loaded : tuple of str
        Drafters that the engine keeps loaded.
    turn : int
        Round of its batch: off and all policies, there and back.
    reading : int
        Index of the reading of the fixed step before it; the next is after it.
    """

    loaded: tuple[str, ...]
    policy: Policy
    batch: int
    turn: int
    reading: int
    steps: tuple[SeenStep, ...]

    def at_pace(self, pace: Pace) -> Stretch:
        """The same with the pace divided out of every second."""
        slower = float(pace.at(self.reading))
        return replace(self, steps=tuple(replace(s, timing=_scaled(s.timing, 1 / slower)) for s in self.steps))


class Meter:
    """A bench that reads the fixed step often enough, and keeps what it said."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.readings: list[float] = []
        self.spent_s = 0.0
        self._since_s = 0.0

    def read(self) -> None:
        """Read the fixed step now."""
        self.readings.append(self.bench.reference())
        self.spent_s += self.readings[-1]
        self._since_s = 0.0

    def forward(self, who: str, point: Point) -> tuple[int, float]:
        """Index of the reading before a forward alone, and its seconds."""
        if not self.readings or self._since_s > OFTEN * self.readings[-1]:
            self.read()
        seconds = self.bench.forward(who, point)
        self._since_s += seconds
        self.spent_s += seconds
        return len(self.readings) - 1, seconds

    def stretch(self, loaded: tuple[str, ...], policy: Policy, batch: int, turn: int, steps: int = STEPS) -> Stretch:
        """A stretch between two readings; made again where these say that the pace jumped meanwhile."""
        if not self.readings or self._since_s > 0:
            self.read()
        for _ in range(1 + AGAIN):
            seen = self.bench.stretch(loaded, policy, batch, SETTLE + steps)
            self.spent_s += sum(s.timing.step_s for s in seen if s is not None)
            self.read()
            if abs(np.log(self.readings[-1] / self.readings[-2])) < JUMP:
                break
        kept = tuple(s for s in seen[SETTLE:] if s is not None)
        return Stretch(loaded, policy, batch, turn, len(self.readings) - 2, kept)

    @property
    def pace(self) -> Pace:
        """Of all readings so far."""
        return smoothed_pace(self.readings)


def watch(
    meter: Meter,
    loaded: tuple[str, ...],
    policies: Sequence[Policy],
    *,
    batches: Sequence[int],
    seconds: float,
    steps: int = STEPS,
    rng: np.random.Generator,
    label: str,
    progress: Progress | None,
) -> list[Stretch]:
    """Stretches of each policy between two of off, there and back, in a new order each round, until the time is used.

    Parameters
    ----------
    loaded : tuple of str
        Drafters that the engine keeps loaded.
    seconds : float
        For each batch; there is one round in any case.
    steps : int
        Of each stretch that count.
    """
    found: list[Stretch] = []
    others = [policy for policy in dict.fromkeys(policies) if policy.shape != "off"]
    for done, batch in enumerate(batches):
        if progress:
            progress(label, done, len(batches))
        meter.bench.stretch(loaded, Off(), batch, SETTLE)  # what is compiled or allocated on first use
        begun, turn = meter.spent_s, 0
        while turn == 0 or meter.spent_s - begun < seconds:
            order = [others[int(i)] for i in rng.permutation(len(others))]
            for policy in (Off(), *(each for other in (*order, *order[::-1]) for each in (other, Off()))):
                found.append(meter.stretch(loaded, policy, batch, turn, steps))
            turn += 1
    if progress:
        progress(label, len(batches), len(batches))
    return [stretch for stretch in found if stretch.steps]


def level(ratios: Floats) -> float:
    """Logarithm of the mean of ratios, but for those over `HALTED` times their median: what a run will take."""
    return float(np.log(np.mean(ratios[ratios <= HALTED * np.median(ratios)])))


def middle_level(ratios: Floats) -> float:
    """Logarithm of the mean of their middle half: for a quotient, of which both ends have the same long tail."""
    return float(np.log(trim_mean(ratios, 0.25)))


def paired(levels: Sequence[tuple[Stretch, float]]) -> dict[tuple[Policy, int], list[float]]:
    """By policy and batch, for each round: its level over that of off in the same round.

    Parameters
    ----------
    levels : sequence of (Stretch, float)
        With the logarithm of measured over modelled seconds.
    """
    plain: dict[Round, list[float]] = defaultdict(list)
    drafted: dict[tuple[Policy, Round], list[float]] = defaultdict(list)
    for stretch, value in levels:
        here = (stretch.loaded, stretch.batch, stretch.turn)
        if stretch.policy.shape == "off":
            plain[here].append(value)
        else:
            drafted[stretch.policy, here].append(value)
    found: dict[tuple[Policy, int], list[float]] = defaultdict(list)
    for (policy, here), values in drafted.items():
        if here in plain:
            found[policy, here[1]].append(float(np.mean(values) - np.mean(plain[here])))
    return found


def predictive(logs: Sequence[Sequence[float]], *, beside: float = 0.0) -> Estimate:
    """What one more policy will be, at one batch: the mean with a Student interval, as a factor.

    Parameters
    ----------
    logs : sequence of sequences of float
        Logarithms, for each policy those of its batches.
    beside : float
        Standard deviation of the logarithm that is to come on top.
    """
    means, count = np.array([np.mean(each) for each in logs]), len(logs)
    middle, within = float(means.mean()), np.concatenate([np.asarray(each) - np.mean(each) for each in logs])
    freedom, loose = PRIOR_CELLS + count - 1, PRIOR_CELLS + len(within) - count
    policies = (PRIOR_CELLS * PRIOR_SPREAD**2 + float(np.sum((means - middle) ** 2))) / freedom
    batches = (PRIOR_CELLS * (PRIOR_SPREAD / 2) ** 2 + float(np.sum(within**2))) / loose
    half = float(student.ppf(0.975, freedom)) * np.sqrt(policies * (1 + 1 / count) + batches)
    half = float(np.hypot(half, 1.96 * beside))
    value, low, high = np.exp([middle, middle - half, middle + half])
    return Estimate(value=float(value), low=float(low), high=float(high), origin="measured")


def within(levels: Sequence[Sequence[float]]) -> float:
    """Standard deviation of logarithms about the mean of their group; 0 where no group has two."""
    freedom = sum(len(each) - 1 for each in levels)
    return float(np.sqrt(sum(float(np.var(each)) * len(each) for each in levels) / freedom)) if freedom > 0 else 0.0


def _scaled(timing: StepTiming, factor: float) -> StepTiming:
    names = [f.name for f in fields(StepTiming) if f.name.endswith("_s")]
    return replace(timing, **{name: getattr(timing, name) * factor for name in names})
