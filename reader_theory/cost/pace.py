"""The pace of a machine, from readings of one fixed piece of work: what is divided out of times that are compared.

Readings are a level that moves plus noise of their own (local-level model; Durbin and Koopman 2012, chapter 2). How
much it moves is fitted, so that a machine that stands still is not divided by noise, and one that jumps is followed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import solveh_banded

from reader_theory.errors import require

__all__ = ["Pace", "smoothed_pace"]

Floats = NDArray[np.float64]
MOVES = (0.0, 1e-4, 1e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0, 3.0, 10.0, 100.0)
"""Variances of a step of the level over that of a reading's noise that are tried."""
NEAR, FAR = 2, 4.0
"""A reading counts as stray where it lies `FAR` scatters from the median of itself and `NEAR` either side."""


@dataclass(frozen=True, eq=False)
class Pace:
    """Seconds of the fixed work over time.

    Parameters
    ----------
    reference_s : float
        Geometric mean of its smoothed seconds: pace 1.
    log : (R,) float64
        Logarithm of the pace at each reading; above 0 is slower than the mean.
    noise : float
        Standard deviation of the logarithm of one reading about it.
    """

    reference_s: float
    log: Floats
    noise: float

    def at(self, index: ArrayLike) -> Floats:
        """Times slower than the mean between readings `index` and `index` + 1."""
        first = np.clip(np.asarray(index, dtype=np.int64), 0, len(self.log) - 1)
        return np.exp((self.log[first] + self.log[np.minimum(first + 1, len(self.log) - 1)]) / 2)

    @property
    def spread(self) -> float:
        """Standard deviation of the logarithm of the pace over time."""
        return float(np.std(self.log))


def smoothed_pace(readings: ArrayLike) -> Pace:
    """The pace behind readings of the same work, in order.

    Parameters
    ----------
    readings : (R,) float64, > 0
        Seconds.

    Examples
    --------
    >>> found = smoothed_pace([1.0, 1.0, 2.0, 2.0])
    >>> round(float(found.at(2) / found.at(0)), 1)
    2.0
    """
    seconds = np.atleast_1d(np.asarray(readings, dtype=np.float64))
    require(
        seconds.size > 0 and bool((np.isfinite(seconds) & (seconds > 0)).all()),
        "`readings` must hold at least one, finite and above 0",
        got=seconds[:4].tolist(),
        fix="Read the reference step beside what is measured.",
    )
    told = _without_strays(np.log(seconds))
    level = max((_smoothed(told, moves) for moves in MOVES), key=lambda pair: pair[0])[1] if len(told) > 2 else told
    middle = float(level.mean())
    return Pace(float(np.exp(middle)), level - middle, float(np.std(told - level)))


def _without_strays(told: Floats) -> Floats:
    """A reading in which the machine was elsewhere is replaced by the median around it."""
    padded = np.pad(told, NEAR, mode="edge")
    around = np.median(np.lib.stride_tricks.sliding_window_view(padded, 2 * NEAR + 1), axis=1)
    off = np.abs(told - around)
    return np.where(off > max(FAR * 1.4826 * float(np.median(off)), 0.02), around, told)


def _smoothed(told: Floats, moves: float) -> tuple[float, Floats]:
    """Log likelihood of the readings, up to a constant, and the level behind them."""
    count = len(told)
    level, variance, errors, scales = told[0], 1.0, np.zeros(count), np.ones(count)
    for i in range(1, count):
        prior = variance + moves
        errors[i], scales[i] = told[i] - level, prior + 1
        level += prior / scales[i] * errors[i]
        variance = prior / scales[i]
    noise = max(float(np.mean(errors[1:] ** 2 / scales[1:])), 1e-12)
    likelihood = -0.5 * (np.log(noise) * (count - 1) + float(np.log(scales[1:]).sum()))
    if moves == 0:
        return likelihood, np.full(count, told.mean())
    bands = np.full((2, count), -1 / moves)
    bands[1] = 1 + 2 / moves
    bands[1, [0, -1]] -= 1 / moves
    return likelihood, np.asarray(solveh_banded(bands, told), dtype=np.float64)
