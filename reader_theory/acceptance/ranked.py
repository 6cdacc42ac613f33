"""Ranked: the target's token is the draft's candidate of rank r with probability R[r], wherever in the tree.

Prefer it when traces are short: it has one number a rank. Chen et al. 2024 (Sequoia), positional acceptance.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from reader_theory.acceptance.base import PathwiseModel, as_table
from reader_theory.acceptance.rank_depth import non_increasing
from reader_theory.acceptance.statistics import conditionals_of, rank_depth_counts, rows_of
from reader_theory.documents.trace import Trace
from reader_theory.trees.tree import TokenTree
from reader_theory.trees.value import by_depth_and_rank

__all__ = ["Ranked"]


@dataclass(frozen=True, eq=False)
class Ranked(PathwiseModel):
    """One probability a rank; ranks beyond the last are never right.

    Parameters
    ----------
    ranks : (R,) float64, sums to at most 1
    """

    name: ClassVar[str] = "ranked"

    ranks: NDArray[np.float64]

    def __post_init__(self) -> None:
        object.__setattr__(self, "ranks", as_table("ranks", [self.ranks])[0])

    def conditional(self, tree: TokenTree, *, context_tokens: float | None = None) -> NDArray[np.float64]:
        return by_depth_and_rank(self.ranks[None], tree)

    @property
    def limit_tokens_per_step(self) -> float:
        """Tokens a step that no tree exceeds: 1 / (1 - s) for ranks of sum s."""
        missed = 1.0 - float(self.ranks.sum())
        return 1.0 / missed if missed > 0 else float("inf")

    @classmethod
    def fit(cls, trace: Trace, workload: str | None = None, *, monotone: bool = False) -> Self:
        """Share of positions at which each rank was right; `monotone` pools ranks that are out of order."""
        counts = rank_depth_counts(rows_of(trace, workload), depth=1, ranks=max(trace.candidates, 1)).sum(axis=0)
        table = conditionals_of(counts)
        return cls((non_increasing(table) if monotone else table)[0])
