"""Powers of two of a block's distances from a reference, by vectors: a polynomial for the fraction, bits for the rest.

The polynomials are the best ones (Remez) for ``2 ** r`` on [-1/2, 1/2] in relative error, from the constant up.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from runtime.kernels.cpu.lanes import ask_for, bits32, float32_of, float64_of, fma, larger
from runtime.retrieval.bodies.memory import bits_of

__all__ = ["AHEAD", "LOG2_E", "LOW", "exact_weigh", "exact_weights_into", "total_of", "weigh", "weights_into"]

SINGLE = np.array(
    [1.0, 0.6931469670652649, 0.2402211972396918, 0.05550713272875391, 0.009675541331021392, 0.0013276472167819944],
    np.float32,
)
"""Within 1.3 units of 2**-24 before rounding."""
DOUBLE = np.array(
    [
        1.0,
        0.6931471805599453,
        0.24022650695910155,
        0.055504108664819925,
        0.009618129107588335,
        0.001333355814678995,
        0.00015403530462514614,
        1.5252733489960805e-05,
        1.321543308959463e-06,
        1.0178198033328528e-07,
        7.074105626245659e-09,
        4.4352809446103363e-10,
    ]
)
"""Within 3.1e-18 before rounding."""
ROUND32, ROUND64 = np.float32(1.5 * 2**23), 1.5 * 2.0**52
"""Added, they leave a whole number in the low bits."""
LOG2_E, LOW = np.float32(1.4426950408889634), np.float32(-87.0)
"""1 / log(2), for powers of e, and how far down those are told apart."""
PIECE, AHEAD = 512, 2560
"""Entries that are weighed in one loop, and how far ahead of them memory is asked for meanwhile."""


@njit(inline="always")
def exp2(distance, low, scale):
    """``2 ** (scale * distance)`` in float32; `low`, negative, stands for distances below it.

    The larger of two floats, one negative, has the smaller bits: integers leave the units that multiply to the rest.
    """
    distance = float32_of(np.int32(min(np.uint32(bits32(distance)), np.uint32(bits32(low)))))
    rounded = fma(distance, scale, ROUND32)
    r = fma(distance, scale, ROUND32 - rounded)
    power = SINGLE[5]
    for k in range(4, -1, -1):
        power = fma(power, r, SINGLE[k])
    return float32_of(bits32(power) + (bits32(rounded) << np.int32(23)))


@njit(inline="always")
def exact_exp2(distance, low, scale, rest):
    """``2 ** ((scale + rest) * distance)`` in float64, 0 below `low`."""
    near = larger(distance, low)
    rounded = fma(near, scale, ROUND64)
    r = fma(near, rest, fma(near, scale, ROUND64 - rounded))
    power = DOUBLE[11]
    for k in range(10, -1, -1):
        power = fma(power, r, DOUBLE[k])
    return float64_of(bits_of(power) + (bits_of(rounded) << 52)) if distance >= low else 0.0


@njit(cache=True, nogil=True)
def fours(block, reference, low, scale, out):
    """Sums of four weights, a quarter of the block apart, into `out`; by how much an entry exceeds the reference."""
    size = out.size
    a, b, c, d = block[:size], block[size : 2 * size], block[2 * size : 3 * size], block[3 * size : 4 * size]
    excess = np.int32(0)
    for i in range(size):
        e, f = np.float32(a[i] - reference), np.float32(b[i] - reference)
        g, h = np.float32(c[i] - reference), np.float32(d[i] - reference)
        out[i] = (exp2(e, low, scale) + exp2(f, low, scale)) + (exp2(g, low, scale) + exp2(h, low, scale))
        excess = max(excess, max(max(bits32(e), bits32(f)), max(bits32(g), bits32(h))))
    return float32_of(excess)


@njit(cache=True, nogil=True, fastmath={"nnan", "nsz", "reassoc"})
def total_of(numbers):
    """Their sum in float64, in whatever order is fastest."""
    total = 0.0
    for i in range(numbers.size):
        total += np.float64(numbers[i])
    return total


@njit(cache=True, nogil=True)
def weigh(block, reference, low, scale, out, following, bytes_each):
    """Sum of a block's float32 weights, and by how much an entry exceeds the reference.

    Meanwhile as many entries of `bytes_each` are asked for from the address `following` on.
    """
    excess, whole = np.float32(0), block.size // 4 * 4
    for start in range(0, whole, PIECE):
        ask_for(following + start * bytes_each, PIECE * bytes_each)
        stop = min(start + PIECE, whole)
        excess = max(excess, fours(block[start:stop], reference, low, scale, out[start // 4 : stop // 4]))
    mass = total_of(out[: whole // 4])
    for i in range(whole, block.size):
        distance = np.float32(block[i] - reference)
        mass += np.float64(exp2(distance, low, scale))
        excess = max(excess, distance)
    return mass, excess


@njit(cache=True, nogil=True)
def weights_into(block, reference, low, scale, out):
    """The float32 weights of a block."""
    for i in range(block.size):
        out[i] = exp2(np.float32(block[i] - reference), low, scale)


@njit(cache=True, nogil=True, fastmath={"nsz", "reassoc"})
def exact_weigh(block, reference, low, scale, rest):
    """Sum of a block's float64 weights."""
    mass = 0.0
    for i in range(block.size):
        mass += exact_exp2(np.float64(block[i]) - reference, low, scale, rest)
    return mass


@njit(cache=True, nogil=True)
def exact_weights_into(block, reference, low, scale, rest, out):
    """The float64 weights of a block."""
    for i in range(block.size):
        out[i] = exact_exp2(np.float64(block[i]) - reference, low, scale, rest)
