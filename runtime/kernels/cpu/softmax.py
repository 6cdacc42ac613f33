"""A draw from a softmax: in float32 where that is sure to pick the token that float64 picks, else in float64.

Either reads the row once, block by block, and walks through one block only. How far float32 may be off is bounded
below (`doubt`); a uniform that lies nearer to a boundary between two tokens is handed to float64.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numba import njit

from runtime.kernels.cpu.lanes import block_max, borrowed, floats, fma, larger
from runtime.kernels.cpu.powers import AHEAD, exact_weigh, exact_weights_into, total_of, weigh, weights_into

__all__ = ["BLOCK", "draw", "lent", "rooms_for"]

BLOCK = 1024
"""Entries whose weights are summed before any is looked at alone."""
STRETCH = 32
"""Entries that are walked through one by one, once halves have been told apart by their sums."""

LOG2_E, LOG2_E_REST = 1.4426950408889634, 2.0355273740931033e-17
"""1 / log(2), and what it misses by."""
FLUSH32, FLUSH64, RAISE = -125.0, -1020.0, 8.0
"""Exponents: none is smaller than the first two, and past the third the reference moves up."""
MILD, WILD = 1e30, 1e300
"""Temperatures beyond the first, or below its inverse, are left to float64, which takes them up to the second."""

UNIT = 2.0**-24
"""Largest relative error of rounding to float32."""
EACH, DISTANT = 7.0, 2.0
"""Units by which a float32 weight, summed by fours, may be off: anywhere, and for each nat of its distance from the
reference (that difference is rounded, and so is the reciprocal of the temperature)."""
SLACK = 1e-12
"""Share of the total that float64's own roundings, and weights raised to ``2 ** FLUSH32``, stay below."""


class Rooms(NamedTuple):
    """Scratch of a draw: a block as float32, its weights in either precision, and the sums of all blocks."""

    wide: Any
    single: Any
    double: Any
    parts: Any


@njit(cache=True, nogil=True)
def rooms_for(vocabulary):
    """Scratch for rows of a vocabulary; its owner hands on `lent` of it."""
    return Rooms(
        np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32), np.empty(BLOCK), np.empty(vocabulary // BLOCK + 1)
    )


@njit(inline="always")
def lent(rooms):
    """The scratch without its owner."""
    return Rooms(borrowed(rooms.wide), borrowed(rooms.single), borrowed(rooms.double), borrowed(rooms.parts))


@njit(cache=True, nogil=True)
def first_finite(row, wide):
    """Largest entry of the first block that has one above -inf; -inf for none."""
    top = block_max(floats(row[:BLOCK], wide))
    for start in range(BLOCK, row.size, BLOCK):
        if top > -np.inf:
            break
        top = block_max(floats(row[start : start + BLOCK], wide))
    return top


@njit(cache=True, nogil=True)
def doubt(mass, size, above):
    """Bound on the error of a sum of float32 weights out of `size`, the largest entry `above` nats over the reference.

    Distances from the largest entry, averaged by weight, are at most ``log(size / mass) + above`` nats, since the
    entropy of the law is at most ``log(size)``.
    """
    if not mass > 0:
        return 0.0
    return mass * UNIT * (EACH + DISTANT * (2 * above + max(math.log(size / mass), 0.0)))


@njit(cache=True, nogil=True)
def is_sure(before, after, at_start, uniform, total, size, above):
    """Whether float64 sums would leave the threshold between these two as well; `total` is made of the same weights."""
    threshold, slack = uniform * total, SLACK * total
    low = slack + (1 - uniform) * doubt(before, size, above) + uniform * doubt(total - before, size, above)
    high = slack + (1 - uniform) * doubt(after, size, above) + uniform * doubt(total - after, size, above)
    return (at_start or before + low <= threshold) and after - high > threshold


@njit(cache=True, nogil=True)
def block_at(parts, threshold):
    """Block of positive sum in which the running sum passes the threshold, and the sum before it."""
    last = parts.size - 1
    while last > 0 and not parts[last] > 0:
        last -= 1
    running, k = 0.0, 0
    while k < last and running + parts[k] <= threshold:
        running += parts[k]
        k += 1
    return k, running


@njit(cache=True, nogil=True)
def walk(weights, running, threshold):
    """First entry at which the running sum passes the threshold, and the sums before and after it; -1 for none."""
    start, size = 0, weights.size
    while size > STRETCH:
        half = size // 2
        mass = running + total_of(weights[start : start + half])
        if mass > threshold:
            size = half
        else:
            running, start, size = mass, start + half, size - half
    for i in range(start, weights.size):
        before = running
        running += np.float64(weights[i])
        if running > threshold and weights[i] > 0:
            return i, before, running
    return -1, running, running


@njit(cache=True, nogil=True)
def picked(weights, running, threshold):
    """The entry that `walk` finds, and where rounding keeps it from one, the last of positive weight."""
    i, _, _ = walk(weights, running, threshold)
    if i >= 0:
        return i
    last = weights.size - 1
    while last > 0 and not weights[last] > 0:
        last -= 1
    return last


@njit(cache=True, nogil=True)
def sure_draw(row, temperature, uniform, rooms):
    """Token of the softmax of ``row / temperature`` that `uniform` picks, -1 where float32 cannot tell."""
    reference = first_finite(row, rooms.wide)
    if not (1 / MILD < temperature < MILD and -np.inf < reference < np.inf):
        return -1
    scale = np.float32(LOG2_E / temperature)
    low = np.float32(FLUSH32) / scale
    parts, total, above = rooms.parts[: -(-row.size // BLOCK)], 0.0, 0.0
    for k in range(parts.size):
        block = floats(row[k * BLOCK : (k + 1) * BLOCK], rooms.wide)
        following = row.ctypes.data + (k * BLOCK + AHEAD) * row.itemsize
        mass, high = weigh(block, reference, low, scale, rooms.single, following, row.itemsize)
        if high * scale > RAISE:
            raised = reference + high
            shrink = math.exp((np.float64(reference) - np.float64(raised)) / temperature)
            parts[:k] *= shrink
            total *= shrink
            reference = raised
            mass, high = weigh(block, reference, low, scale, rooms.single, following, 0)
        above = max(above, np.float64(high) / temperature)
        parts[k] = mass
        total += mass
    k, running = block_at(parts, uniform * total)
    block = floats(row[k * BLOCK : (k + 1) * BLOCK], rooms.wide)
    weights = rooms.single[: block.size]
    weights_into(block, reference, low, scale, weights)
    total += total_of(weights) - parts[k]
    i, before, after = walk(weights, running, uniform * total)
    token = k * BLOCK + i
    return token if i >= 0 and is_sure(before, after, token == 0, uniform, total, row.size, above) else -1


@njit(cache=True, nogil=True)
def exact_draw(row, temperature, uniform, rooms):
    """Token of the softmax of ``row / temperature`` that `uniform` picks, in float64."""
    temperature = min(max(temperature, 1 / WILD), WILD)
    scale = LOG2_E / temperature
    rest = (fma(-scale, temperature, LOG2_E) + LOG2_E_REST) / temperature
    low = FLUSH64 / scale
    parts, top, total = rooms.parts[: -(-row.size // BLOCK)], -np.inf, 0.0
    for start in range(0, row.size, BLOCK):
        top = larger(top, np.float64(block_max(floats(row[start : start + BLOCK], rooms.wide))))
    for k in range(parts.size):
        block = floats(row[k * BLOCK : (k + 1) * BLOCK], rooms.wide)
        parts[k] = exact_weigh(block, top, low, scale, rest)
        total += parts[k]
    k, running = block_at(parts, uniform * total)
    block = floats(row[k * BLOCK : (k + 1) * BLOCK], rooms.wide)
    weights = rooms.double[: block.size]
    exact_weights_into(block, top, low, scale, rest, weights)
    return k * BLOCK + picked(weights, running, uniform * total)


@njit(cache=True, nogil=True)
def draw(row, temperature, uniform, rooms):
    """Token of the softmax of ``row / temperature`` that `uniform` picks."""
    token = sure_draw(row, temperature, uniform, rooms)
    return token if token >= 0 else exact_draw(row, temperature, uniform, rooms)
