r"""Exact dynamic program over size and depth for children that must be ranks 0..b-1, ranks rising or not.

The one to use for drafts sampled without replacement when the measured ranks are not monotone: best-first is then no
longer optimal. All sizes to N and all depths to D come out of one pass.

With f_d(m) the best value of a subtree of m nodes with d levels below its root, and g_r(n) that of children r, r+1,
... with n nodes together,

.. math:: g_r(n) = \max_{1 \le m \le n} p_r f_{d-1}(m) + g_{r+1}(n - m), \ g_r(0) = 0, \ f_d(m) = 1 + g_0(m - 1).

The recurrence is that of Sequoia (Chen et al. 2024, section 3.1). What is added, and exact: the least concave
majorants of both sequences say, for a block of totals at a time, which split is best for them and which splits can no
longer win, so that few of the N^2 / 2 sums are made; four sums at a time are compared without a branch; a stop when
one more level changes no size; no arg-max is stored, the tree is read back from the values.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from optimizer.compiled import compiled
from optimizer.solvers.tokens import TokensTable, stationary_fill
from reader_theory.acceptance.rank_table import RankTable
from reader_theory.trees.tree import TokenTree

__all__ = ["tokens_table"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int32]
BLOCK = 64
"""Totals that are searched together."""
PAD = 2 * BLOCK
"""Entries of -inf before total 0, so that splits that do not exist need no branch."""
SLACK = 1e-14
"""A split that cannot win by more than this is not tried: rounding of a concave sequence is not a gain."""


@compiled
def _hull(values: Floats, first: int, last: int, out: Floats, stack: Ints, slopes: Floats) -> None:
    """Least concave majorant of ``values[first..last]`` at every integer, into `out`."""
    size = 1
    stack[0], slopes[0] = first, np.inf
    out[first] = values[first]
    for i in range(first + 1, last + 1):
        corner = stack[size - 1]
        slope = values[i] - values[corner]
        if i - corner > 1:
            slope /= i - corner
        while slope >= slopes[size - 1]:
            size -= 1
            corner = stack[size - 1]
            slope = (values[i] - values[corner]) / (i - corner)
        stack[size], slopes[size] = i, slope
        size += 1
        out[i] = values[i]
    for j in range(1, size):
        corner = stack[j - 1]
        for i in range(corner + 1, stack[j]):
            out[i] = values[corner] + slopes[j] * (i - corner)


@compiled
def _columns(totals: Floats, a: Floats, b: Floats, place: int, start: int, stop: int) -> None:
    """Try subtree sizes start..stop-1, rounded up to a multiple of four, for the block of totals at `place`."""
    row = totals[place : place + BLOCK]
    for m in range(start, stop, 4):
        at = place - m
        b0, b1 = b[at : at + BLOCK], b[at - 1 : at - 1 + BLOCK]
        b2, b3 = b[at - 2 : at - 2 + BLOCK], b[at - 3 : at - 3 + BLOCK]
        a0, a1, a2, a3 = a[m], a[m + 1], a[m + 2], a[m + 3]
        for i in range(BLOCK):
            v0, v1, v2, v3 = a0 + b0[i], a1 + b1[i], a2 + b2[i], a3 + b3[i]
            v0 = v0 if v0 > v1 else v1
            v2 = v2 if v2 > v3 else v3
            v0 = v0 if v0 > v2 else v2
            row[i] = v0 if v0 > row[i] else row[i]


@compiled
def _open(totals: Floats, majorant: Floats, place: int, m: int, a: float) -> bool:
    """Whether some total of the block might gain from subtree size `m`; if none does, none does from further out."""
    row, most = totals[place : place + BLOCK], majorant[place - m : place - m + BLOCK]
    gains = 0
    for i in range(BLOCK):
        gains += 1 if a + most[i] > row[i] + SLACK else 0
    return gains > 0


@compiled
def _peaks(a: Floats, a_cap: int, b: Floats, b_cap: int, nodes: int, peaks: Ints) -> None:
    """``peaks[n]``: where the sum of two concave sequences, ``a[1..a_cap]`` and ``b[PAD..]``, is largest at total n."""
    m, k = 1, 0
    peaks[1] = 1
    for n in range(2, min(nodes, a_cap + b_cap) + 1):
        if k >= b_cap or (m < a_cap and a[m + 1] - a[m] >= b[PAD + k + 1] - b[PAD + k]):
            m += 1
        else:
            k += 1
        peaks[n] = m


@compiled
def _merge(
    a: Floats, a_hull: Floats, a_cap: int, b: Floats, b_hull: Floats, peaks: Ints, top: int, row: Floats
) -> None:
    """``row[PAD + n] = max_m a[m] + b[PAD + n - m]`` for n = 1..top, trying the m that the majorants leave open."""
    for n in range(1, top + 1, BLOCK):
        place = PAD + n
        low = max(1, peaks[n] - 2)
        high = min(a_cap, peaks[min(n + BLOCK - 1, top)] + 2) + 1
        high = low + (high - low + 3) // 4 * 4
        _columns(row, a, b, place, low, high)
        while low > 1 and _open(row, b_hull, place, low - 1, a_hull[low - 1]):
            low = max(1, low - 8)
            _columns(row, a, b, place, low, low + 8)
        last = min(a_cap, n + BLOCK - 1)
        while high <= last and _open(row, b_hull, place, high, a_hull[high]):
            _columns(row, a, b, place, high, high + 8)
            high += 8


@compiled
def _level(ranks: Floats, f: Floats, f_cap: int, nodes: int, g: Floats) -> int:
    """Fill ``g[r, PAD + n]`` from the subtrees `f` (sizes 1..f_cap) of the level below; return the largest total."""
    count, width = ranks.shape[0], g.shape[1]
    stack, peaks = np.empty(width, dtype=np.int32), np.empty(width, dtype=np.int32)
    slopes, a = np.empty(width), np.full(width, -np.inf)
    f_hull, a_hull, b_hull = np.full(width, -np.inf), np.full(width, -np.inf), np.full(width, -np.inf)
    _hull(f, 1, f_cap, f_hull, stack, slopes)
    g[count, :] = -np.inf
    g[count, PAD] = 0.0
    cap = 0
    for r in range(count - 1, -1, -1):
        _hull(g[r + 1], PAD, PAD + cap, b_hull, stack, slopes)
        for m in range(1, f_cap + 1):
            a[m], a_hull[m] = ranks[r] * f[m], ranks[r] * f_hull[m]
        top = min(nodes, f_cap + cap)
        _peaks(a_hull, f_cap, b_hull, cap, nodes, peaks)
        g[r, :] = -np.inf
        g[r, PAD] = 0.0
        _merge(a, a_hull, f_cap, g[r + 1], b_hull, peaks, top, g[r])
        g[r, PAD + top + 1 :] = -np.inf
        cap = top
    return cap


@compiled
def _climb(rows: Floats, nodes: int, stationary: bool, g: Floats, f: Floats, caps: Ints) -> int:
    """Fill ``g[j]`` and ``f[j + 1]``, `j` levels above the leaves, from ``rows[-1 - j]``; return the levels filled."""
    levels = rows.shape[0]
    f[0, :] = -np.inf
    f[0, 1], caps[0] = 1.0, 1
    for j in range(levels):
        cap = _level(rows[levels - 1 - j], f[j], min(caps[j], nodes), nodes, g[j])
        f[j + 1, :] = -np.inf
        f[j + 1, 1 : nodes + 2] = 1.0 + g[j, 0, PAD : PAD + nodes + 1]
        caps[j + 1] = cap + 1
        if stationary and caps[j + 1] == caps[j] and np.all(f[j + 1, 1 : nodes + 2] == f[j, 1 : nodes + 2]):
            return j
    return levels


@compiled
def _read_back(rows: Floats, g: Floats, f: Floats, caps: Ints, levels: int, parents: Ints, ranks: Ints) -> None:
    """Fill (N + 1,) parents and ranks, breadth first, of the tree of N nodes whose root has `levels` levels below."""
    nodes = parents.shape[0] - 1
    sizes, left = np.empty(nodes + 1, dtype=np.int32), np.empty(nodes + 1, dtype=np.int32)
    parents[0], ranks[0], sizes[0], left[0], count = -1, 0, nodes, levels, 1
    for node in range(nodes + 1):
        rest, r, j = sizes[node], 0, left[node] - 1
        while rest > 0:
            p, best, choice = rows[rows.shape[0] - 1 - j, r], -np.inf, 1
            for m in range(1, min(rest, caps[j]) + 1):
                value = p * f[j, m] + g[j, r + 1, PAD + rest - m]
                if value > best:
                    best, choice = value, m
            parents[count], ranks[count] = node, r
            sizes[count], left[count] = choice - 1, j
            count += 1
            rest -= choice
            r += 1


class _Pass:
    """One climb from the leaves: values of every size at each height, and trees read back from them."""

    def __init__(self, rows: Floats, nodes: int, stationary: bool) -> None:
        levels, count = rows.shape
        width = PAD + nodes + 2 * BLOCK
        self.rows = np.ascontiguousarray(rows)
        self.g = np.empty((levels, count + 1, width))
        self.f = np.empty((levels + 1, width))
        self.caps = np.empty(levels + 1, dtype=np.int32)
        self.nodes = nodes
        self.levels = _climb(self.rows, nodes, stationary, self.g, self.f, self.caps)

    def values(self, height: int) -> Floats:
        """(N + 1,) float64: most tokens of each size with `height` levels below the root."""
        return self.f[min(height, self.levels), 1 : self.nodes + 2]

    def tree(self, height: int, nodes: int) -> TokenTree:
        """The tree of `nodes` nodes with `height` levels below the root."""
        parents, ranks = np.empty(nodes + 1, dtype=np.int32), np.empty(nodes + 1, dtype=np.int32)
        _read_back(self.rows, self.g, self.f, self.caps, min(height, self.levels), parents, ranks)
        return TokenTree(parents, ranks)


def tokens_table(acceptance: RankTable, nodes: int, depth: int) -> TokensTable:
    """Most tokens a step of every size to `nodes` and depth limit to `depth`, children being ranks 0..b-1.

    Parameters
    ----------
    acceptance : RankTable
        One pass serves every depth limit when it is stationary; else there is one pass a limit.
    nodes, depth : int

    Returns
    -------
    TokensTable
        Equal to the maximum up to rounding (1e-14 a level and rank).
    """
    rows = acceptance.conditionals[:depth]
    values = np.full((depth + 1, nodes + 1), -np.inf)
    values[0, 0] = 1.0
    last = _Pass(rows, nodes, acceptance.is_stationary)
    work = float(last.levels * rows.shape[1])
    for limit in range(1, depth + 1):
        row = (
            last.values(limit)
            if acceptance.is_stationary or limit == depth
            else _Pass(rows[:limit], nodes, False).values(limit)
        )
        values[limit] = row
        if not acceptance.is_stationary:
            work += limit * rows.shape[1]
            if np.array_equal(row, last.values(depth)):
                stationary_fill(values, limit)
                break

    def build(limit: int, size: int) -> TokenTree:
        whole = acceptance.is_stationary or limit == depth
        return (last if whole else _Pass(rows[:limit], max(size, 1), False)).tree(limit, size)

    return TokensTable(values, build, "dynamic", work)
