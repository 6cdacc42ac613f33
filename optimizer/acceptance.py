"""What a planner is told about acceptance: ranks by depth, or explicit candidates with their path probabilities."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from reader_theory.errors import InvalidInputError, NotATreeError, require
from reader_theory.trees.tree import DraftTree

__all__ = ["ROUNDING", "Acceptance", "ForestAcceptance", "RankAcceptance"]

ROUNDING = 1e-9
"""How far sums of probabilities may miss what they must be."""

Floats = NDArray[np.float64]
Ints = NDArray[np.int32]


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

    def path_probability(self, tree: DraftTree) -> Floats:
        """(N,) float64: probability that each node of `tree` is emitted."""
        path = np.ones(len(tree) + 1)
        own = self.conditionals[tree.depths - 1, tree.ranks] if len(tree) else np.empty(0)
        for node, (parent, p) in enumerate(zip(tree.parents.tolist(), own.tolist(), strict=True)):
            path[node] = path[parent] * p
        return path[:-1]


@dataclass(frozen=True, eq=False)
class ForestAcceptance:
    """Explicit candidates below one root, each with the probability that its whole path is emitted.

    Parameters
    ----------
    parents : (M,) int32, ``-1 <= parents[i] < i``
        -1 for a child of the root.
    path_probability : (M,) float64, in [0, 1]
        Never above the parent's; the children of a node sum to at most the node's.
    ranks : (M,) int32, optional
        Order among siblings, in order of appearance when left out.
    sources : tuple of str, optional
        Drafter of each candidate.

    Raises
    ------
    NotATreeError, InvalidInputError
        When parents make a cycle, or probabilities contradict one another.
    """

    tree: DraftTree
    path_probability: Floats

    def __init__(
        self,
        parents: ArrayLike,
        path_probability: ArrayLike,
        ranks: ArrayLike | None = None,
        sources: tuple[str, ...] = (),
    ) -> None:
        tree = DraftTree(parents, _sibling_order(parents) if ranks is None else ranks, sources)
        object.__setattr__(self, "tree", tree)
        object.__setattr__(self, "path_probability", frozen(path_probability))
        self._check()
        object.__setattr__(self, "path_probability", frozen(_never_rising(tree, self.path_probability)))

    def _check(self) -> None:
        p, parents = self.path_probability, self.tree.parents
        require(
            p.shape == parents.shape,
            "`path_probability` must have one entry a candidate",
            got=f"shape {p.shape} for {len(parents)} candidates",
            fix="Give each candidate the probability of its whole path.",
            error=NotATreeError,
        )
        above = np.append(p, 1.0)[parents]
        bad = ~((p >= 0) & (p <= above + ROUNDING))
        require(
            not bool(bad.any()),
            "`path_probability` must lie in [0, 1] and never exceed the parent's",
            got=f"{p[bad][:3].tolist()} below {above[bad][:3].tolist()} at candidates {_where(bad)}",
            fix="Calibrate the sources to one scale, then take the running minimum along each path.",
        )
        offered = np.bincount(parents + 1, weights=p, minlength=len(p) + 1)
        room = np.concatenate([[1.0], p])
        over = offered > room + ROUNDING
        sums = np.round(offered[over][:3], 9).tolist()
        require(
            not bool(over.any()),
            "`path_probability` of siblings must sum to at most their parent's: one of them is emitted",
            got=f"sums {sums} below {room[over][:3].tolist()} (node, root first) {_where(over)}",
            fix="Merge siblings that carry the same token, and rescale the rest.",
            error=InvalidInputError,
        )

    @property
    def depth(self) -> int:
        """Depth of the deepest candidate."""
        return self.tree.depth

    def subtree(self, kept: NDArray[np.intp]) -> DraftTree:
        """The tree of the candidates `kept`, rising indices that are closed under parents."""
        place = np.full(len(self.tree) + 1, -1, dtype=np.int32)
        place[kept] = np.arange(len(kept))
        sources: list[str] = [self.tree.sources[int(i)] for i in kept]
        return DraftTree(place[self.tree.parents[kept]], self.tree.ranks[kept], sources)


Acceptance = RankAcceptance | ForestAcceptance


def _never_rising(tree: DraftTree, path_probability: Floats) -> Floats:
    """Clip what rounding put above the parent, so that an order by probability is an order by descent."""
    p = np.append(path_probability, 1.0)
    for depth in range(1, tree.depth + 1):
        level = np.flatnonzero(tree.depths == depth)
        p[level] = np.minimum(p[level], p[tree.parents[level]])
    return p[:-1]


def _sibling_order(parents: ArrayLike) -> Ints:
    seen: dict[int, int] = {}
    ranks: list[int] = []
    for parent in np.asarray(parents, dtype=np.int64).reshape(-1).tolist():
        ranks.append(seen.get(parent, 0))
        seen[parent] = ranks[-1] + 1
    return np.array(ranks, dtype=np.int32)
