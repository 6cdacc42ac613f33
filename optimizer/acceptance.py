"""What a planner is told about acceptance: ranks by depth, or explicit candidates with their path probabilities."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from reader_theory.errors import InvalidInputError, NotATreeError, require
from reader_theory.trees.tree import TokenTree
from reader_theory.trees.value import by_depth_and_rank, path_probability, siblings_sum

__all__ = ["Acceptance", "ForestAcceptance", "RankAcceptance"]

ROUNDING = 1e-9
"""How far sums of probabilities may miss what they must be."""

Floats = NDArray[np.float64]


def frozen(values: ArrayLike) -> Floats:
    """A read-only float64 copy of `values`."""
    array = np.array(values, dtype=np.float64)
    array.setflags(write=False)
    return array


def _where(mask: NDArray[np.bool_]) -> list[tuple[int, ...]]:
    return [tuple(int(i) for i in place) for place in np.argwhere(mask)[:3]]


@dataclass(frozen=True, eq=False)
class RankAcceptance:
    """The rank-r child at depth d is the next token with a probability that depends on (d, r) alone.

    Parameters
    ----------
    conditionals : (D, R) float64, in [0, 1], each row sums to <= 1
        ``conditionals[d, r]``: probability that the child of rank r at depth d + 1 is emitted, given that its parent
        was. Rows need not fall with r: measured ranks often do not.

    Raises
    ------
    InvalidInputError
        On NaN, an entry outside [0, 1] or a row that sums above one.

    Examples
    --------
    >>> RankAcceptance([[0.6, 0.2]]).is_monotone
    True
    """

    conditionals: Floats

    def __init__(self, conditionals: ArrayLike) -> None:
        object.__setattr__(self, "conditionals", frozen(conditionals))
        self._check()

    def _check(self) -> None:
        c = self.conditionals
        require(
            c.ndim == 2 and c.size > 0,
            "`conditionals` must have one row a depth and one column a rank",
            got=f"shape {c.shape}",
            fix="For one rank vector at every depth use RankAcceptance.stationary(vector, depth).",
        )
        bad = np.logical_not((c >= 0) & (c <= 1))
        require(
            not bool(bad.any()),
            "`conditionals` must be probabilities in [0, 1]",
            got=f"{[float(c[i]) for i in _where(bad)]} at (depth, rank) {_where(bad)}",
            fix="Fit them from counts again; a NaN usually means that a depth was never reached.",
        )
        sums = c.sum(axis=1)
        require(
            bool((sums <= 1 + ROUNDING).all()),
            "`conditionals` must sum to at most 1 at each depth: ranks exclude one another",
            got=f"sums {np.array2string(sums, precision=6)}, above 1 at depths {_where(sums > 1 + ROUNDING)}",
            fix="Divide each row by its sum, or pass conditional and not cumulative hit rates.",
        )

    @classmethod
    def stationary(cls, ranks: ArrayLike, depth: int) -> RankAcceptance:
        """The same (R,) rank vector at each of `depth` depths."""
        require(depth >= 1, "`depth` must be >= 1", got=depth, fix="Pass the deepest level that may be drafted.")
        return cls(np.tile(np.asarray(ranks, dtype=np.float64).reshape(1, -1), (depth, 1)))

    @property
    def depth(self) -> int:
        """D, levels that are described."""
        return self.conditionals.shape[0]

    @cached_property
    def is_stationary(self) -> bool:
        """Whether every depth has the same ranks."""
        return bool((self.conditionals == self.conditionals[0]).all())

    @cached_property
    def is_monotone(self) -> bool:
        """Whether acceptance never rises with rank, at any depth."""
        return bool((np.diff(self.conditionals, axis=1) <= 0).all())

    def path_probability(self, tree: TokenTree) -> Floats:
        """(N + 1,) float64: probability that each node of `tree` is emitted, 1 for the root."""
        return path_probability(tree, by_depth_and_rank(self.conditionals, tree))


@dataclass(frozen=True, eq=False)
class ForestAcceptance:
    """Explicit candidates below one root, each with the probability that its whole path is emitted.

    Parameters
    ----------
    tree : TokenTree of M candidates
    path_probability : (M + 1,) float64, in [0, 1]
        1 at the root; never above the parent's; the children of a node sum to at most the node's.

    Raises
    ------
    NotATreeError, InvalidInputError
        When parents make a cycle, or probabilities contradict one another.
    """

    tree: TokenTree
    path_probability: Floats

    def __init__(self, tree: TokenTree, path_probability: ArrayLike) -> None:
        object.__setattr__(self, "tree", tree)
        object.__setattr__(self, "path_probability", frozen(path_probability))
        self._check()
        object.__setattr__(self, "path_probability", frozen(_never_rising(tree, self.path_probability)))

    def _check(self) -> None:
        p, parents = self.path_probability, self.tree.parents
        require(
            p.shape == parents.shape and bool(p[0] == 1),
            "`path_probability` must have one entry a node, the root's first, which is 1",
            got=f"shape {p.shape} for {self.tree.nodes} candidates and the root, {p[:1].tolist()} first",
            fix="Give each candidate the probability of its whole path.",
            error=NotATreeError,
        )
        above = np.where(parents >= 0, p[parents], 1.0)
        bad = ~((p >= 0) & (p <= above + ROUNDING))
        require(
            not bool(bad.any()),
            "`path_probability` must lie in [0, 1] and never exceed the parent's",
            got=f"{p[bad][:3].tolist()} below {above[bad][:3].tolist()} at candidates {_where(bad)}",
            fix="Calibrate the sources to one scale, then take the running minimum along each path.",
        )
        offered = siblings_sum(self.tree, p)
        over = offered > p + ROUNDING
        sums = np.round(offered[over][:3], 9).tolist()
        require(
            not bool(over.any()),
            "`path_probability` of siblings must sum to at most their parent's: one of them is emitted",
            got=f"sums {sums} below {p[over][:3].tolist()} at nodes {_where(over)}",
            fix="Merge siblings that carry the same token, and rescale the rest.",
            error=InvalidInputError,
        )

    @property
    def depth(self) -> int:
        """Depth of the deepest candidate."""
        return self.tree.depth


Acceptance = RankAcceptance | ForestAcceptance


def _never_rising(tree: TokenTree, path_probability: Floats) -> Floats:
    """Clip what rounding put above the parent, so that an order by probability is an order by descent."""
    p = path_probability.copy()
    for depth in range(1, tree.depth + 1):
        level = np.flatnonzero(tree.depths == depth)
        p[level] = np.minimum(p[level], p[tree.parents[level]])
    return p
