"""Geometric: every drafted token of rank 0 is right with the same probability.

Prefer it for chains, where it has closed forms, and where nothing but one number is known.
Leviathan, Kalman, Matias 2023, equation 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from reader_theory.acceptance.base import PathwiseModel, as_probabilities
from reader_theory.acceptance.statistics import rows_of
from reader_theory.documents.trace import Trace
from reader_theory.errors import require
from reader_theory.trees.tree import TokenTree
from reader_theory.trees.value import by_depth_and_rank

__all__ = ["Geometric", "chain_tokens_per_step"]


def chain_tokens_per_step(alpha: float, length: int) -> float:
    r"""Tokens a step of a chain of k tokens, :math:`(1 - \alpha^{k+1}) / (1 - \alpha)`; k + 1 when alpha is 1.

    Examples
    --------
    >>> chain_tokens_per_step(0.5, 2)
    1.75
    """
    alpha = float(as_probabilities("alpha", alpha))
    require(length >= 0, "`length` must be >= 0", got=length, fix="Pass 0 for no draft.")
    return float(length + 1) if alpha == 1 else (1 - alpha ** (length + 1)) / (1 - alpha)


@dataclass(frozen=True, eq=False)
class Geometric(PathwiseModel):
    """Constant acceptance of rank 0; other ranks are never right.

    Parameters
    ----------
    alpha : float, in [0, 1]
    """

    name: ClassVar[str] = "geometric"

    alpha: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "alpha", float(as_probabilities("alpha", self.alpha)))

    def conditional(self, tree: TokenTree, *, context_tokens: float | None = None) -> NDArray[np.float64]:
        return by_depth_and_rank(np.array([[self.alpha]]), tree)

    @classmethod
    def fit(cls, trace: Trace, workload: str | None = None) -> Self:
        """Share of positions at which the draft's first candidate was right."""
        return cls(float(np.mean(np.equal(rows_of(trace, workload).column("draft_rank"), 0))))
