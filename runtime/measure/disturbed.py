"""Whether what was measured can be believed: it repeats, more tokens do not take less time, and the fixed step is calm.

A time that falls with more tokens is believed where it comes again when everything is measured anew: kernels differ.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from reader_theory.cost.pace import smoothed_pace
from reader_theory.documents import Policy
from reader_theory.errors import DisturbedMachineError
from runtime.measure.bench import Point
from runtime.measure.steady import Stretch, within

__all__ = ["Samples", "Trouble", "check_stretches", "check_tables", "refuse"]

Floats = NDArray[np.float64]
Samples = dict[Point, Floats]
"""Seconds of every point, in the order they were measured, the pace divided out."""

FALL, ERRORS = 0.08, 3.0
"""Logarithm, and standard errors, by which seconds may fall from one number of tokens to the next."""
APART, MANY = 0.2, 0.15
"""Logarithm by which halves of a point's samples may differ, and the share of points that may be further apart."""
UNSTEADY = 0.12
"""Standard deviation of the logarithm that stretches of one policy and batch may have about their mean."""
RESTLESS = 0.2
"""The same of the fixed step about its own pace."""


@dataclass(frozen=True)
class Trouble:
    """One thing that cannot be believed."""

    words: str


def check_tables(who: str, samples: Samples, before: Samples) -> list[Trouble]:
    """What is wrong with forwards alone; `before` is an earlier measurement of the same, or empty."""
    name = who or "target"
    falls = [pair for pair in _falls(samples) if not (before and _fall(before, *pair) > _fall(samples, *pair) / 2)]
    found = [_told(name, samples, *pair) for pair in falls]
    halves = [_halves_apart(values) for values in samples.values() if len(values) >= 4]
    share = float(np.mean([apart > APART for apart in halves])) if halves else 0.0
    if share > MANY:
        found.append(
            Trouble(f"{name}: earlier and later samples of {share:.0%} of the points differ by over {APART:.0%}")
        )
    return found


def check_stretches(stretches: Sequence[Stretch], readings: Sequence[float]) -> list[Trouble]:
    """What is wrong with stretches at one pace, and with the readings of the fixed step beside them."""
    found: list[Trouble] = []
    noise = smoothed_pace(readings).noise if readings else 0.0
    if noise > RESTLESS:
        found.append(Trouble(f"the fixed step scatters by {noise:.0%} about its own pace"))
    cells: dict[tuple[Policy, int], list[float]] = defaultdict(list)
    for each in stretches:
        # Seconds a token of the widest row: rounds of one policy may be at texts that are easier or harder.
        seconds = [s.timing.step_s for s in each.steps if s.timing.width == each.steps[0].timing.width]
        if each.policy.shape == "off":
            cells[each.policy, each.batch].append(float(np.log(np.median(seconds))))
    spread = within(list(cells.values()))
    if spread > UNSTEADY:
        found.append(Trouble(f"stretches of plain decoding at one batch differ by {spread:.0%}, at one pace"))
    return found


def refuse(troubles: Sequence[Trouble]) -> None:
    """Raise where there is one.

    Raises
    ------
    DisturbedMachineError
    """
    if troubles:
        raise DisturbedMachineError(
            "the machine must do nothing else while it is calibrated",
            got="; ".join(each.words for each in troubles[:4]) + (" and more" if len(troubles) > 4 else ""),
            fix="Stop what else runs and calibrate again, give it more --seconds, or take it as it is by "
            "--accept-disturbed.",
        )


def _falls(samples: Samples) -> Iterator[tuple[Point, Point]]:
    """Neighbours in tokens whose seconds fall by more than their errors allow."""
    points = sorted(samples, key=lambda p: (p[0], p[2], p[1]))
    for few, more in pairwise(points):
        if (few[0], few[2]) == (more[0], more[2]):
            error = np.hypot(_error(samples[few]), _error(samples[more]))
            if _fall(samples, few, more) > max(FALL, ERRORS * float(error)):
                yield few, more


def _fall(samples: Samples, few: Point, more: Point) -> float:
    if few not in samples or more not in samples:
        return 0.0
    return float(np.log(np.median(samples[few]) / np.median(samples[more])))


def _error(values: Floats) -> float:
    """Standard error of the logarithm of the median."""
    off = np.abs(np.log(values) - np.median(np.log(values)))
    return float(1.2533 * 1.4826 * np.median(off) / np.sqrt(len(values)))


def _halves_apart(values: Floats) -> float:
    half = len(values) // 2
    return abs(float(np.log(np.median(values[:half]) / np.median(values[half:]))))


def _told(name: str, samples: Samples, few: Point, more: Point) -> Trouble:
    batch, tokens, context = few
    ms = [1e3 * float(np.median(samples[point])) for point in (few, more)]
    return Trouble(
        f"{name}, batch {batch}, context {context}: {ms[0]:.3g} ms for {tokens} tokens a row but {ms[1]:.3g} ms for "
        f"{more[1]}, and not so when measured again"
    )
