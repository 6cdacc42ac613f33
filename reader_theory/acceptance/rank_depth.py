"""Rank x depth: the candidate of rank r at depth d is right with probability R[d, r], given the path before it.

Prefer it whenever a trace is at hand: drafts decay with depth as they feed on themselves, which one rank vector hides.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from reader_theory.acceptance.base import PathwiseModel, as_table
from reader_theory.acceptance.statistics import conditionals_of, rank_depth_counts, rows_of
from reader_theory.documents.trace import Trace
from reader_theory.errors import require
from reader_theory.trees.tree import TokenTree
from reader_theory.trees.value import by_depth_and_rank

__all__ = ["RankDepth", "non_increasing"]


@dataclass(frozen=True, eq=False)
class RankDepth(PathwiseModel):
    """One probability a depth and rank; depths beyond the last repeat it, ranks beyond the last are never right.

    Parameters
    ----------
    table : (D, R) float64, rows sum to at most 1
        Conditional on the first d - 1 tokens all lying among the draft's candidates.
    """

    name: ClassVar[str] = "rank_depth"

    table: NDArray[np.float64]

    def __post_init__(self) -> None:
        object.__setattr__(self, "table", as_table("table", self.table))

    def conditional(self, tree: TokenTree, *, context_tokens: float | None = None) -> NDArray[np.float64]:
        return by_depth_and_rank(self.table, tree)

    @classmethod
    def fit(cls, trace: Trace, workload: str | None = None, *, depth: int = 8, monotone: bool = False) -> Self:
        """Counts over every position that can start a step.

        Parameters
        ----------
        trace : Trace
        workload : str, optional
        depth : int
            Depths D to tell apart.
        monotone : bool
            Pool neighbouring ranks that are out of order, which short traces always hold.
        """
        require(depth >= 1, "`depth` must be >= 1", got=depth, fix="Pass the depth of the deepest tree to plan.")
        counts = rank_depth_counts(rows_of(trace, workload), depth, max(trace.candidates, 1)).sum(axis=0)
        table = carried_down(conditionals_of(counts), counts.sum(axis=-1))
        return cls(non_increasing(table) if monotone else table)


def carried_down(table: NDArray[np.float64], positions: NDArray[np.float64]) -> NDArray[np.float64]:
    """The table with depths that no position reached repeating the deepest one that was."""
    reached = max(int(np.count_nonzero(positions)), 1)
    return table[np.minimum(np.arange(len(table)), reached - 1)]


def non_increasing(table: ArrayLike) -> NDArray[np.float64]:
    """Each row's least-squares fit that does not increase along ranks: (D, R) -> (D, R)."""
    from scipy.optimize import isotonic_regression

    rows = np.asarray(table, dtype=np.float64)
    return np.stack([np.asarray(isotonic_regression(row, increasing=False).x) for row in rows])
