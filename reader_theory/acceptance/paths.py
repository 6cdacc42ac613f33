"""Rank paths: how often each path of ranks was the true one, grown best first from the rows that a step may start at.

Prefer it to a table of ranks by depth where neighbouring ranks depend on one another, as they do once texts differ;
a path that few rows reached borrows from the table. The order is Tunstall's (1967), on counts.
"""

from __future__ import annotations

import heapq

import numpy as np
from numpy.typing import NDArray

from reader_theory.acceptance.statistics import PromptRows
from reader_theory.trees.tree import TokenTree

__all__ = ["RankPaths"]

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

BORROWED = 8.0
"""Rows' worth of weight that the table of ranks by depth has beside the rows that reached a path."""


class RankPaths:
    """The ranks of one drafter on the rows of a workload, and how many rows each has left in its prompt.

    Parameters
    ----------
    rows : PromptRows
    drafter : str
        A model, as the trace names it.
    candidates : int
        R, the ranks that were recorded.

    Attributes
    ----------
    depth : int or None
        Levels that ranks were recorded for; None where one rank serves all.
    """

    def __init__(self, rows: PromptRows, drafter: str, candidates: int) -> None:
        self.rank = np.asarray(rows.column(f"{drafter}_rank"), dtype=np.int64)
        self.candidates = candidates
        ends = np.append(rows.starts[1:], len(self.rank))
        left = ends[rows.prompt] - np.arange(len(self.rank))
        self.depth: int | None = self.rank.shape[1] if self.rank.ndim == 2 else None
        self.left: Ints = left if self.depth is None else np.minimum(left, self.depth)

    def best_first(self, starts: NDArray[np.intp], nodes: int, depth: int) -> TokenTree:
        """The likeliest paths below `starts`, as a tree of up to `nodes` nodes in the order they are taken.

        No path is deeper than `depth`, or than ranks were recorded.
        """
        depth = depth if self.depth is None else min(depth, self.depth)
        parents, ranks = [-1], [0]
        heap: list[tuple[float, int, int, int, int]] = []
        reaching: list[NDArray[np.intp]] = [starts]
        pushed = 0
        pooled: list[Floats] = []

        def open_below(node: int, level: int, chance: float) -> None:
            nonlocal pushed
            rows = reaching[node]
            rows = rows[self.left[rows] > level]
            if len(pooled) <= level:
                pooled.append(self._shares(starts, level, pooled[-1] if pooled else None))
            counts = np.bincount(self._ranks(rows, level) + 1, minlength=self.candidates + 1)[1:]
            shares = (counts + BORROWED * pooled[level]) / (len(rows) + BORROWED)
            for rank in np.flatnonzero(counts):
                pushed += 1
                heapq.heappush(heap, (-chance * float(shares[rank]), pushed, node, int(rank), level))

        open_below(0, 0, 1.0)
        while heap and len(parents) <= nodes:
            negative, _, above, rank, level = heapq.heappop(heap)
            rows = reaching[above]
            rows = rows[self.left[rows] > level]
            parents.append(above)
            ranks.append(rank)
            reaching.append(rows[self._ranks(rows, level) == rank])
            if level + 1 < depth:
                open_below(len(parents) - 1, level + 1, -negative)
        return TokenTree(parents, ranks)

    def _ranks(self, rows: NDArray[np.intp], level: int) -> Ints:
        """Ranks `level` deep in steps that start at `rows`: of the next positions, or of a block's own depths."""
        return self.rank[rows, level] if self.rank.ndim == 2 else self.rank[rows + level]

    def _shares(self, starts: NDArray[np.intp], level: int, above: Floats | None) -> Floats:
        """(R,) share of each rank `level` deep, where all before were candidates; the level above's where none is."""
        rows = starts[self.left[starts] > level]
        for before in range(level):
            rows = rows[self._ranks(rows, before) >= 0]
        if above is not None and not len(rows):
            return above
        return np.bincount(self._ranks(rows, level) + 1, minlength=self.candidates + 1)[1:] / max(len(rows), 1)
