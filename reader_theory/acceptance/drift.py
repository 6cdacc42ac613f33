r"""Drift: acceptance that decays with depth and context length, for every rank in the same proportion of odds.

.. math:: \operatorname{logit} R(r, d, n) = \operatorname{logit} R(r) + a\,(d - 1) + b \log_2(n / n_0)

Prefer it to rank x depth when a plan reaches depths or contexts that the trace did not: it extrapolates by two numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from reader_theory.acceptance.base import PathwiseModel, as_table, normalised
from reader_theory.acceptance.statistics import PromptRows, conditionals_of, ranks_anew, rows_of, streaks
from reader_theory.documents.trace import Trace
from reader_theory.errors import require
from reader_theory.trees.tree import TokenTree
from reader_theory.trees.value import by_depth_and_rank

__all__ = ["Drift"]

FloatArray = NDArray[np.float64]
_CONTEXT_BINS = 8


@dataclass(frozen=True, eq=False)
class Drift(PathwiseModel):
    """Rank vector at depth 1 and the reference context, with two slopes in log-odds.

    Parameters
    ----------
    ranks : (R,) float64, sums to at most 1
    per_depth : float
        Change of log-odds a level; negative when drafts decay.
    per_doubling : float
        Change of log-odds when the context doubles.
    reference_tokens : float, > 0
        Context length that `ranks` holds at.
    """

    name: ClassVar[str] = "drift"

    ranks: FloatArray
    per_depth: float
    per_doubling: float
    reference_tokens: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "ranks", as_table("ranks", [self.ranks])[0])
        slopes = (self.per_depth, self.per_doubling)
        require(
            bool(np.isfinite(slopes).all()) and 0 < self.reference_tokens < np.inf,
            "`per_depth` and `per_doubling` must be finite and `reference_tokens` above 0",
            got=f"{slopes} and {self.reference_tokens}",
            fix="Fit the model from a trace, or pass 0 for no drift.",
        )

    def conditional(self, tree: TokenTree, *, context_tokens: float | None = None) -> FloatArray:
        """Of each node; at the reference context when `context_tokens` is left out. Siblings never sum above 1."""
        return by_depth_and_rank(self.table(max(tree.depth, 1), context_tokens), tree)

    def table(self, depth: int, context_tokens: float | None = None) -> FloatArray:
        """(D, R) float64: conditionals by depth and rank at one context length."""
        doublings = 0.0 if context_tokens is None else float(np.log2(max(context_tokens, 1) / self.reference_tokens))
        return _shifted(self.ranks, np.asarray(self.per_depth * np.arange(depth) + self.per_doubling * doublings))

    @classmethod
    def fit(cls, trace: Trace, workload: str | None = None, *, depth: int = 8) -> Self:
        """Maximum likelihood of the ranks at every depth and binned context length."""
        from scipy.optimize import minimize

        counts, doublings, reference = _binned_counts(rows_of(trace, workload), depth, max(trace.candidates, 1))
        ranks = conditionals_of(counts.sum(axis=(0, 1)))
        levels = np.arange(depth)[None, :]

        def loss(slopes: FloatArray) -> float:
            shift = slopes[0] * levels + slopes[1] * doublings[:, None]
            table = _shifted(_centred(ranks, shift, counts), shift)
            missed = np.maximum(1 - table.sum(axis=-1), 1e-12)
            likelihood = float(np.sum(counts[..., :-1] * np.log(np.maximum(table, 1e-12))))
            likelihood += float(np.sum(counts[..., -1] * np.log(missed)))
            return -likelihood / max(float(counts.sum()), 1.0)

        found = minimize(loss, np.zeros(2), method="Nelder-Mead", options={"xatol": 1e-4, "fatol": 1e-10})
        shift = found.x[0] * levels + found.x[1] * doublings[:, None]
        return cls(_centred(ranks, shift, counts), float(found.x[0]), float(found.x[1]), reference)


def _shifted(ranks: FloatArray, shift: NDArray[Any]) -> FloatArray:
    """(*S, R): ranks with their log-odds shifted by `shift` (*S), scaled down where they would sum above 1."""
    from scipy.special import expit, logit

    return normalised(expit(logit(ranks) + shift[..., None]))


def _centred(ranks: FloatArray, shift: FloatArray, counts: FloatArray) -> FloatArray:
    """Ranks at shift 0 whose shifted mean over all counts is the observed `ranks`, by a few Newton steps a rank."""
    from scipy.special import expit, logit

    weight = counts.sum(axis=-1)[..., None] / max(float(counts.sum()), 1.0)
    held = np.clip(ranks, 1e-9, 1 - 1e-9)
    odds = logit(held)
    for _ in range(6):
        table = expit(odds + shift[..., None])
        slope = (weight * table * (1 - table)).sum(axis=(0, 1))
        odds = odds - np.clip(((weight * table).sum(axis=(0, 1)) - held) / np.maximum(slope, 1e-12), -2, 2)
    centred = np.where(ranks > 0, expit(odds), 0.0)
    return centred / max(float(centred.sum()), 1.0)


def _binned_counts(rows: PromptRows, depth: int, ranks: int) -> tuple[FloatArray, FloatArray, float]:
    """(C, D, R + 1) counts by context bin, (C,) mean doublings from the median context, and that median."""
    context = np.log2(np.maximum(np.asarray(rows.column("context_tokens"), dtype=np.float64), 1))
    middle = float(np.median(context))
    edges = np.unique(np.quantile(context, np.linspace(0, 1, _CONTEXT_BINS + 1)[1:-1]))
    place = np.searchsorted(edges, context, side="left")
    total = np.bincount(place, minlength=len(edges) + 1)
    mean = np.bincount(place, context, len(total)) / np.maximum(total, 1) - middle
    rank = ranks_anew(rows)
    streak = np.minimum(streaks(rank >= 0, rows.starts), depth - 1)
    column = np.where((rank >= 0) & (rank < ranks), rank, ranks)
    cells = np.bincount((place * depth + streak) * (ranks + 1) + column, minlength=len(total) * depth * (ranks + 1))
    by_streak = cells.astype(np.float64).reshape(len(total), depth, ranks + 1)
    return by_streak[:, ::-1].cumsum(axis=1)[:, ::-1], mean, float(2**middle)
