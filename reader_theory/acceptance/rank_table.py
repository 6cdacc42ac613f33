"""Rank table: the candidate of rank r at depth d is right with probability R[d, r], given the path before it.

Prefer it whenever a trace is at hand: drafts decay with depth as they feed on themselves, which one rank vector hides.
One number a rank (Chen et al. 2024, Sequoia) and one number in all are the tables of `stationary`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from reader_theory.acceptance.base import PathwiseModel, as_table, normalised
from reader_theory.acceptance.statistics import conditionals_of, rank_depth_counts, rows_of
from reader_theory.documents.trace import Trace
from reader_theory.errors import require
from reader_theory.trees.tree import TokenTree
from reader_theory.trees.value import by_depth_and_rank

__all__ = ["RankTable", "non_increasing", "reached_depth"]


@dataclass(frozen=True, eq=False)
class RankTable(PathwiseModel):
    """One probability a depth and rank; depths and ranks beyond the last are never right.

    Parameters
    ----------
    conditionals : (D, R) float64, in [0, 1], each row sums to <= 1
        ``conditionals[d, r]``: probability that the child of rank r at depth d + 1 is emitted, given that its parent
        was. Rows need not fall with r: measured ranks often do not.
    extrapolated : int, in [0, D)
        How many of the deepest rows were not counted but repeat the row above them.

    Raises
    ------
    InvalidInputError
        On NaN, an entry outside [0, 1] or a row that sums above one.

    Examples
    --------
    >>> RankTable([[0.6, 0.2]]).is_monotone
    True
    """

    name: ClassVar[str] = "rank_table"

    conditionals: NDArray[np.float64]
    extrapolated: int = 0

    def __init__(self, conditionals: ArrayLike, extrapolated: int = 0) -> None:
        object.__setattr__(self, "conditionals", as_table("conditionals", conditionals))
        object.__setattr__(self, "extrapolated", extrapolated)
        require(
            0 <= extrapolated < self.depth,
            "`extrapolated` must leave at least one row that was counted",
            got=f"{extrapolated} of {self.depth} rows",
            fix="Leave it out; `extended` sets it.",
        )

    @classmethod
    def stationary(cls, ranks: ArrayLike, depth: int) -> Self:
        """The same (R,) rank vector at each of `depth` depths; of one number, a chain's acceptance."""
        require(depth >= 1, "`depth` must be >= 1", got=depth, fix="Pass the deepest level that may be drafted.")
        return cls(np.tile(np.asarray(ranks, dtype=np.float64).reshape(1, -1), (depth, 1)))

    @classmethod
    def normalised(cls, rows: ArrayLike) -> Self:
        """Rows that sum above one divided by their sum: upper ends of intervals, or what a user believes."""
        return cls(normalised(np.asarray(rows, dtype=np.float64)))

    @classmethod
    def fit(cls, trace: Trace, workload: str | None = None, *, depth: int = 8, monotone: bool = False) -> Self:
        """Counts over every position that can start a step; as deep as the trace has any.

        Parameters
        ----------
        trace : Trace
            Its draft is fitted; ``trace.of(drafter)`` for one of another name.
        workload : str, optional
        depth : int
            Depths D to tell apart.
        monotone : bool
            Pool neighbouring ranks that are out of order, which short traces always hold.
        """
        require(depth >= 1, "`depth` must be >= 1", got=depth, fix="Pass the depth of the deepest tree to plan.")
        counts = rank_depth_counts(rows_of(trace, workload), depth, max(trace.candidates, 1)).sum(axis=0)
        table = conditionals_of(counts[: reached_depth(counts)])
        return cls(non_increasing(table) if monotone else table)

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

    def within(self, depth: int) -> Self:
        """The first `depth` levels, or all there are."""
        cut = max(self.depth - depth, 0)
        return replace(self, conditionals=self.conditionals[:depth], extrapolated=max(self.extrapolated - cut, 0))

    def extended(self, depth: int) -> Self:
        """`depth` levels, of which those that were not counted repeat the last; `extrapolated` says how many."""
        more = max(depth - self.depth, 0)
        deeper = np.concatenate([self.conditionals, np.repeat(self.conditionals[-1:], more, axis=0)])
        return replace(self, conditionals=deeper, extrapolated=self.extrapolated + more)

    def conditional(self, tree: TokenTree, *, context_tokens: float | None = None) -> NDArray[np.float64]:
        return by_depth_and_rank(self.conditionals, tree)


def reached_depth(counts: NDArray[np.float64]) -> int:
    """How many depths of (D, R + 1) counts any position reached, the first included."""
    return max(int(np.count_nonzero(counts.sum(axis=-1))), 1)


def non_increasing(table: ArrayLike) -> NDArray[np.float64]:
    """Each row's least-squares fit that does not increase along ranks: (D, R) -> (D, R)."""
    from scipy.optimize import isotonic_regression

    rows = np.asarray(table, dtype=np.float64)
    return np.stack([np.asarray(isotonic_regression(row, increasing=False).x) for row in rows])
