"""Steps of a forward's seconds: points are added where the curve over tokens bends, until its stairs are found.

Kernels work in tiles: seconds jump where rows times tokens pass a multiple of one. Between two points that differ, the
one whose rows fill the largest power of two is tried first, then the middle; where both lie on the line, it is one.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

__all__ = ["filled", "stairs"]

Floats = NDArray[np.float64]

BEND = 0.03
"""Relative error of a straight line between two points from which it is looked into."""


def stairs(known: dict[int, float], batch: int, measure: Callable[[int], float], *, most: int) -> dict[int, float]:
    """Seconds at the points that are known and at those that were added, at most so many.

    Parameters
    ----------
    known : dict from int to float
        Seconds by tokens a row.
    batch : int
        Rows.
    measure : callable from int to float
        Seconds at so many tokens a row.
    most : int
        How often it may be called.
    """
    found = dict(known)
    axis = sorted(found)
    waiting = [(-_rise(found, a, b), a, b) for a, b in pairwise(axis)]
    heapq.heapify(waiting)
    while waiting:
        rise, low, high = heapq.heappop(waiting)
        if -rise < BEND or high - low < 2:
            continue
        for middle in dict.fromkeys((_fullest(low, high, batch), (low + high) // 2)):
            if len(found) - len(known) >= most:
                return found
            found[middle] = measure(middle)
            line = np.interp(middle, [low, high], [found[low], found[high]])
            if abs(found[middle] / line - 1) > BEND / 2:
                for a, b in ((low, middle), (middle, high)):
                    heapq.heappush(waiting, (-_rise(found, a, b), a, b))
                break
    return found


def filled(seconds: Floats, tokens: list[int], added: dict[tuple[int, int], float]) -> tuple[list[int], Floats]:
    """A table over (batch, tokens, context) with the tokens that were added at the first context.

    Parameters
    ----------
    seconds : (B, T, C) float64
    tokens : list of int
        The T that `seconds` has.
    added : dict from (index of the batch, tokens) to float
        Other batches keep their line there, other contexts their ratio to the first.
    """
    axis = sorted({*tokens, *(each for _, each in added)})
    grown = np.empty((seconds.shape[0], len(axis), seconds.shape[2]))
    for row, plane in enumerate(seconds):
        own = {t: added[row, t] for t in axis if (row, t) in added}
        known = {**dict(zip(tokens, plane[:, 0].tolist(), strict=True)), **own}
        first = np.interp(axis, sorted(known), [known[t] for t in sorted(known)])
        for column in range(seconds.shape[2]):
            grown[row, :, column] = first * np.interp(axis, tokens, plane[:, column] / plane[:, 0])
    return axis, grown


def _rise(found: dict[int, float], low: int, high: int) -> float:
    return abs(found[high] / found[low] - 1)


def _fullest(low: int, high: int, batch: int) -> int:
    """Tokens between the two, ends left out, whose rows are a multiple of the largest power of two."""
    inside = np.arange(low + 1, high)
    rows = inside * batch
    return int(inside[np.lexsort((inside, rows & -rows))[-1]])
