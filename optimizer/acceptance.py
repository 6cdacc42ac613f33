"""What a planner is told about acceptance: ranks by depth, or explicit candidates with their path probabilities."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from reader_theory.acceptance.rank_table import RankTable
from reader_theory.errors import InvalidInputError, NotATreeError, require
from reader_theory.trees.tree import TokenTree
from reader_theory.trees.value import siblings_sum

__all__ = ["Acceptance", "ForestAcceptance"]

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


Acceptance = RankTable | ForestAcceptance


def _never_rising(tree: TokenTree, path_probability: Floats) -> Floats:
    """Clip what rounding put above the parent, so that an order by probability is an order by descent."""
    p = path_probability.copy()
    for depth in range(1, tree.depth + 1):
        level = np.flatnonzero(tree.depths == depth)
        p[level] = np.minimum(p[level], p[tree.parents[level]])
    return p
