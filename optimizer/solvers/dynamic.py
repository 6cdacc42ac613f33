r"""Exact dynamic program over size and depth for children that must be ranks 0..b-1, ranks rising or not.

The one to use for drafts sampled without replacement when the measured ranks are not monotone: best-first is then no longer
optimal. All sizes to N and all depths to D come out of one pass.

With f_d(m) the best value of a subtree of m nodes with d levels below its root, and g_r(n) that of children r, r+1, ... with n
nodes together,

.. math:: g_r(n) = \max_{1 \le m \le n} p_r f_{d-1}(m) + g_{r+1}(n - m), \quad g_r(0) = 0, \quad f_d(m) = 1 + g_0(m - 1).

The recurrence is that of Sequoia (Chen et al. 2024, section 3.1), value never below theirs. What is added, and exact: *rearrangement*
(f never falls with m, so some optimum gives the larger subtree to the likelier sibling: with k likelier siblings before rank r, its
m nodes leave room for k m more, which cuts N^2 R / 2 sums to about N^2 ln(R) / 2 when ranks fall); a stop when another level
changes no size; no arg-max is stored, the tree is read back from the values.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from optimizer.acceptance import RankAcceptance
from optimizer.compiled import compiled
from optimizer.solvers.table import TokensTable, stationary_fill
from reader_theory.trees.tree import DraftTree

__all__ = ["tokens_table"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int32]
BLOCK = 32
PAD = 2 * BLOCK
SLACK = 1e-14


@compiled
def _hull(values: Floats, first: int, last: int, out: Floats, stack: Ints) -> None:
    """Least concave majorant of ``values[first..last]`` at every integer, into `out`."""
    size = 0
    for i in range(first, last + 1):
        while size >= 2:
            a, b = stack[size - 2], stack[size - 1]
            if (values[b] - values[a]) * (i - b) > (values[i] - values[b]) * (b - a):
                break
            size -= 1
        stack[size] = i
        size += 1
    out[stack[0]] = values[stack[0]]
    for j in range(1, size):
        a, b = stack[j - 1], stack[j]
        slope = (values[b] - values[a]) / (b - a)
        for i in range(a + 1, b):
            out[i] = values[a] + slope * (i - a)
        out[b] = values[b]


@compiled
def _sweep(row: Floats, b0: Floats, b1: Floats, b2: Floats, b3: Floats, a0: float, a1: float, a2: float, a3: float) -> None:
    """Try four subtree sizes for a block of totals."""
    for i in range(BLOCK):
        v0, v1, v2, v3 = a0 + b0[i], a1 + b1[i], a2 + b2[i], a3 + b3[i]
        v0 = v0 if v0 > v1 else v1
        v2 = v2 if v2 > v3 else v3
        v0 = v0 if v0 > v2 else v2
        row[i] = v0 if v0 > row[i] else row[i]


@compiled
def _beaten(row: Floats, majorant: Floats, a: float) -> bool:
    """Whether no total of the block can gain from this subtree size, nor from any further out."""
    over = 0
    for i in range(BLOCK):
        over += 1 if a + majorant[i] > row[i] + SLACK else 0
    return over == 0


@compiled
def _peaks(a: Floats, a_cap: int, b: Floats, b_cap: int, nodes: int, peaks: Ints) -> None:
    """``peaks[n]``: where the sum of two concave sequences, ``a[1..a_cap]`` and ``b[PAD..PAD + b_cap]``, is largest at total n."""
    m, k = 1, 0
    peaks[1] = 1
    for n in range(2, min(nodes, a_cap + b_cap) + 1):
        if k >= b_cap or (m < a_cap and a[m + 1] - a[m] >= b[PAD + k + 1] - b[PAD + k]):
            m += 1
        else:
            k += 1
        peaks[n] = m


@compiled
def _merge(a: Floats, a_hull: Floats, a_cap: int, b: Floats, b_hull: Floats, peaks: Ints, top: int, row: Floats) -> None:
    """``row[PAD + n] = max_m a[m] + b[PAD + n - m]`` for n = 1..top, trying only sizes m that the majorants leave open."""
    for n in range(1, top + 1, BLOCK):
        place = PAD + n
        block = row[place : place + BLOCK]
        low = max(1, peaks[n] - 1)
        high = min(a_cap, peaks[min(n + BLOCK - 1, top)] + 1) + 1
        for m in range(low, high, 4):
            at = place - m
            _sweep(block, b[at : at + BLOCK], b[at - 1 : at - 1 + BLOCK], b[at - 2 : at - 2 + BLOCK], b[at - 3 : at - 3 + BLOCK],
                   a[m], a[m + 1], a[m + 2], a[m + 3])  # fmt: skip
        high = low + (high - low + 3) // 4 * 4
        while low > 1 and not _beaten(block, b_hull[place - low + 1 : place - low + 1 + BLOCK], a_hull[low - 1]):
            low = max(1, low - 4)
            at = place - low
            _sweep(block, b[at : at + BLOCK], b[at - 1 : at - 1 + BLOCK], b[at - 2 : at - 2 + BLOCK], b[at - 3 : at - 3 + BLOCK],
                   a[low], a[low + 1], a[low + 2], a[low + 3])  # fmt: skip
        last = min(a_cap, n + BLOCK - 1)
        while high <= last and not _beaten(block, b_hull[place - high : place - high + BLOCK], a_hull[high]):
            at = place - high
            _sweep(block, b[at : at + BLOCK], b[at - 1 : at - 1 + BLOCK], b[at - 2 : at - 2 + BLOCK], b[at - 3 : at - 3 + BLOCK],
                   a[high], a[high + 1], a[high + 2], a[high + 3])  # fmt: skip
            high += 4


@compiled
def _level(ranks: Floats, f: Floats, f_cap: int, nodes: int, g: Floats) -> int:
    """Fill ``g[r, PAD + n]`` for one level from the subtrees `f` (sizes 1..f_cap) of the level below; return its largest total."""
    count, width = ranks.shape[0], g.shape[1]
    stack, peaks = np.empty(width, dtype=np.int32), np.empty(width, dtype=np.int32)
    f_hull, a, a_hull, b_hull = np.empty(width), np.empty(width), np.empty(width), np.empty(width)
    f_hull[:], a[:], a_hull[:], b_hull[:] = -np.inf, -np.inf, -np.inf, -np.inf
    _hull(f, 1, f_cap, f_hull, stack)
    g[count, :] = -np.inf
    g[count, PAD] = 0.0
    cap = 0
    for r in range(count - 1, -1, -1):
        below, row = g[r + 1], g[r]
        _hull(below, PAD, PAD + cap, b_hull, stack)
        for m in range(1, f_cap + 1):
            a[m], a_hull[m] = ranks[r] * f[m], ranks[r] * f_hull[m]
        top = min(nodes, f_cap + cap)
        _peaks(a_hull, f_cap, b_hull, cap, nodes, peaks)
        row[:] = -np.inf
        row[PAD] = 0.0
        _merge(a, a_hull, f_cap, below, b_hull, peaks, top, row)
        row[PAD + top + 1 :] = -np.inf
        cap = top
    return cap
