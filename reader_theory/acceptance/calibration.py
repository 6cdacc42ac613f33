"""Calibration: each source's raw score to acceptance, on one scale, with its reliability and error.

Prefer it wherever two sources compete for one budget: a draft's probability and a match length compare only through it.
The map is the isotonic regression of outcomes on scores. Guo et al. 2017 for the expected calibration error;
Zadrozny and Elkan 2002 for isotonic calibration.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reader_theory.acceptance.statistics import PromptRows, rows_of
from reader_theory.documents.trace import Trace
from reader_theory.errors import require

__all__ = ["Calibration", "Scored", "calibrate", "draft_scores", "expected_calibration_error", "retrieval_scores"]

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Scored:
    """Offered tokens of one source: their raw scores, whether they were right, and their documents.

    Parameters
    ----------
    score : (M,) float64, finite
    right : (M,) bool
    document : (M,) int
    is_probability : bool
        Whether the raw score claims to be a probability, so that its own error means something.
    """

    score: FloatArray
    right: NDArray[np.bool_]
    document: NDArray[np.intp]
    is_probability: bool

    def part(self, chosen: NDArray[np.bool_]) -> Scored:
        """Those tokens only."""
        return Scored(self.score[chosen], self.right[chosen], self.document[chosen], self.is_probability)


@dataclass(frozen=True)
class Calibration:
    """A monotone map from raw score to acceptance, with the reliability diagram that it was made from.

    Parameters
    ----------
    score, observed, acceptance, weight : (n,) float64
        By bin of score: its mean, the share of right tokens, that share made monotone, and the share of all tokens.
    raw_error : float or None
        Expected calibration error of the raw score, where it is a probability.
    error : float
        Expected calibration error of the map on documents that it was not fitted on.
    """

    score: FloatArray
    observed: FloatArray
    acceptance: FloatArray
    weight: FloatArray
    raw_error: float | None
    error: float

    def __call__(self, score: NDArray[Any] | float) -> FloatArray:
        """Acceptance at `score`: linear between bins, constant beyond the outermost."""
        return np.asarray(np.interp(score, self.score, self.acceptance), dtype=np.float64)


def calibrate(scored: Scored, *, bins: int = 20, trust: float = 0.0) -> Calibration:
    """Fit the monotone map; its error is measured across two halves of the documents, each mapped by the other's fit.

    Parameters
    ----------
    scored : Scored
    bins : int
        Most bins of equal weight; equal scores are never split.
    trust : float, >= 0
        Tokens' worth of weight in each bin that a score which is a probability has beside what was observed: with few
        tokens the map stays near the score.

    Raises
    ------
    InvalidInputError
        If there is nothing to fit, or a score is not finite.
    """
    finite = np.isfinite(scored.score)
    require(
        bool(finite.all()) and scored.score.size > 0,
        "`score` must hold at least one finite raw score",
        got=f"{scored.score.size} scores, not finite at {np.flatnonzero(~finite)[:5].tolist()}",
        fix="Leave out positions at which the source offered nothing.",
    )
    score, observed, weight = _binned(scored, bins)
    raw = expected_calibration_error(scored.score, scored.right) if scored.is_probability else None
    error = _held_out_error(scored, bins, trust)
    return Calibration(score, observed, _monotone(_shrunk(scored, bins, trust), weight), weight, raw, error)


def expected_calibration_error(predicted: FloatArray, right: NDArray[np.bool_], *, bins: int = 20) -> float:
    """Mean over bins of |share right - mean prediction|, weighted by tokens.

    Parameters
    ----------
    predicted : (M,) float64
    right : (M,) bool
    bins : int
        Most bins of equal weight.
    """
    prediction, observed, weight = _binned(Scored(predicted, right, np.zeros(0, np.intp), True), bins)
    return float(np.sum(weight * np.abs(observed - prediction)))


def draft_scores(trace: Trace, workload: str | None = None) -> Scored:
    """Every first candidate of the draft at every position: its probability, and whether the target took it."""
    rows = rows_of(trace, workload)
    probability = np.asarray(rows.column("draft_probability"), dtype=np.float64)
    right = np.equal.outer(rows.first_ranks, np.arange(trace.candidates))
    document = np.repeat(_documents(trace, rows), probability.shape[1])
    return Scored(probability.ravel(), np.asarray(right, dtype=np.bool_).ravel(), document, is_probability=True)


def retrieval_scores(trace: Trace, workload: str | None = None) -> Scored:
    """The first retrieved token at every position with a match: the match length, and whether it was right."""
    rows = rows_of(trace, workload)
    offered = np.flatnonzero(np.asarray(rows.column("retrieval_offered")) > 0)
    length = np.asarray(rows.column("retrieval_match"), dtype=np.float64)[offered]
    right = np.asarray(rows.column("retrieval_run"))[offered] > 0
    return Scored(length, right, _documents(trace, rows)[offered], is_probability=False)


def _documents(trace: Trace, rows: PromptRows) -> NDArray[np.intp]:
    """(T,) document of each row."""
    return trace.documents(rows.column("prompt")[rows.starts])[rows.prompt]


def _binned(scored: Scored, bins: int) -> tuple[FloatArray, FloatArray, FloatArray]:
    edges = np.unique(np.quantile(scored.score, np.linspace(0, 1, bins + 1)[1:-1]))
    place = np.searchsorted(edges, scored.score, side="left")
    total = np.bincount(place, minlength=len(edges) + 1)
    held = total > 0
    sums = [np.bincount(place, values, len(total))[held] for values in (scored.score, scored.right)]
    return sums[0] / total[held], sums[1] / total[held], total[held] / total.sum()


def _shrunk(scored: Scored, bins: int, trust: float) -> FloatArray:
    """Share of right tokens by bin, drawn towards the score where that is a probability."""
    score, observed, weight = _binned(scored, bins)
    own = trust * scored.is_probability
    tokens = weight * scored.score.size
    return (tokens * observed + own * score) / (tokens + own)


def _monotone(observed: FloatArray, weight: FloatArray) -> FloatArray:
    from scipy.optimize import isotonic_regression

    return np.asarray(isotonic_regression(observed, weights=weight).x, dtype=np.float64)


def _held_out_error(scored: Scored, bins: int, trust: float) -> float:
    odd = scored.document % 2 == 1
    if odd.all() or not odd.any():
        odd = np.arange(len(odd)) % 2 == 1
    halves = [scored.part(~odd), scored.part(odd)]
    errors: list[float] = []
    for fitted, judged in (halves, halves[::-1]):
        if fitted.score.size and judged.score.size:
            score, _, weight = _binned(fitted, bins)
            acceptance = _monotone(_shrunk(fitted, bins, trust), weight)
            errors.append(expected_calibration_error(np.interp(judged.score, score, acceptance), judged.right))
    return float(np.mean(errors)) if errors else 0.0
