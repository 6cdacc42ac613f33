"""Scale a predicted step to measured ones: from one point on, robustly, and without negative costs.

Each measured step is a row of predicted terms; non-negative least squares on relative errors find their factors. What
is assumed of them before (the prior) has two parts: a factor that all terms share, as a machine or an engine is slower
as a whole, and what each term is off by beside it. So a measured step is met, and others move along with it. Where
points are enough to tell, bad ones are weighed down (Huber), by the scatter of all, never by the prediction's error.
It says which terms the points cannot tell apart, and which point to measure next (D-optimal; Fedorov 1972).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from reader_theory.cost.step import STEP_TERMS, StepCost
from reader_theory.cost.terms import StepConditions
from reader_theory.errors import require
from reader_theory.estimate import Estimate

__all__ = ["Calibration", "calibrate", "confounded_terms", "next_point"]

Array = NDArray[np.float64]
NOISE = 0.02
"""Assumed relative error of one measured step."""
COMMON = 0.4
"""Assumed relative standard deviation of the factor that all terms share: a card's name is not enough."""
OWN = 0.2
"""Least relative standard deviation that a term has beside it: a sheet that is wrong is not wrong by one factor."""
MISFIT, MISFIT_POINTS = 0.08, 8.0
"""Assumed relative error of the equation with the right factors, and how many measured points that is worth."""
HUBER, LEAST_ROBUST = 1.5, 5
"""Residuals over the scatter from which a point counts less, and points from which on any does."""


@dataclass(frozen=True)
class Calibration:
    """What the measured steps decided.

    Parameters
    ----------
    step : StepCost
        The step with fitted factors and remaining spreads.
    factors : dict
        Factor of every term with its 95 % interval.
    confounded : tuple of tuples of str
        Groups of terms that these points cannot tell apart: only their sum is known.
    residuals : (n,) float64
        Relative error left at each point, predicted over measured minus one.
    covariance : (t, t) float64
        Of the factors, in the order of `names`.
    """

    step: StepCost
    factors: dict[str, Estimate]
    confounded: tuple[tuple[str, ...], ...]
    residuals: Array
    covariance: Array
    names: tuple[str, ...]


def calibrate(
    step: StepCost, points: Sequence[StepConditions], seconds: ArrayLike, *, noise: float = NOISE
) -> Calibration:
    """Fit the factors of a step's terms.

    Parameters
    ----------
    step : StepCost
        The prediction to scale; its spreads say how far each term may be off.
    points : sequence of StepConditions
        Conditions of the measured steps; one is enough.
    seconds : (n,) float64, > 0
        Measured seconds.
    noise : float
        Relative error of one measurement.
    """
    times = np.atleast_1d(np.asarray(seconds, dtype=np.float64))
    require(
        len(points) == times.size > 0 and bool((times > 0).all()) and noise > 0,
        "`seconds` must hold one positive time for each point, at least one, and `noise` be positive",
        got=(len(points), times[:4], noise),
        fix="Measure a step at a known batch, context and tree.",
    )
    design, names = _design(step, points)
    relative = design / times[:, None]
    prior = _prior(step, names)
    factors, weights = _robust_factors(relative, prior, noise)
    factors = np.maximum(factors, 1e-6)  # a term that is not seen keeps its place in the covariance
    residuals = relative @ factors - 1
    # What is left at the points says how far the equation itself is off, beside what is assumed of it.
    misfit = float(np.sqrt((MISFIT_POINTS * MISFIT**2 + np.sum(residuals**2)) / (MISFIT_POINTS + len(times))))
    weighed = relative * weights[:, None]
    information = weighed.T @ weighed / (noise**2 + misfit**2) + np.linalg.inv(prior)
    covariance: Array = np.asarray(np.linalg.inv(information), dtype=np.float64)
    scale = dict(zip(names, factors.tolist(), strict=True))
    half = 1.96 * np.sqrt(np.diag(covariance))
    estimates = {
        name: Estimate(value=f, low=max(f - h, 0.0), high=f + h, origin="fitted")
        for name, f, h in zip(names, factors.tolist(), half.tolist(), strict=True)
    }
    known = tuple(tuple(row) for row in covariance.tolist())
    fitted = replace(step, scale={**step.scale, **scale}, covariance=known, misfit=misfit)
    return Calibration(fitted, estimates, confounded_terms(relative, names), residuals, covariance, names)


def _prior(step: StepCost, names: Sequence[str]) -> Array:
    """(t, t) covariance of the factors before anything was measured."""
    own = np.array([max(step.spread_of(name) / 1.96, OWN) for name in names])
    return np.diag(own**2) + COMMON**2


def confounded_terms(
    relative: Array, names: Sequence[str], *, tolerance: float = 0.01, share: float = 0.3
) -> tuple[tuple[str, ...], ...]:
    """Groups of terms along whose near-null directions the measured steps hardly change.

    Parameters
    ----------
    relative : (n, t) float64
        Terms over measured seconds, one row a point.
    names : sequence of str
        Names of the columns.
    tolerance : float
        Directions whose singular value, columns scaled to unit length, is below this times the largest are near-null.
    share : float
        Least absolute loading with which a term belongs to a direction.
    """
    from scipy.sparse.csgraph import connected_components

    norms = np.linalg.norm(relative, axis=0)
    seen = np.flatnonzero(norms > 0)
    scaled = relative[:, seen] / norms[seen]
    _, values, directions = np.linalg.svd(scaled, full_matrices=True)
    weak = np.ones(len(seen), dtype=bool)
    weak[: len(values)] = values < tolerance * values[0]
    linked = np.abs(directions[weak].T @ directions[weak])
    strong = np.diag(linked) > share**2
    _, group = connected_components((linked > share**2) & (strong[:, None] | strong))
    found = [np.flatnonzero(group == each) for each in range(int(group.max(initial=-1)) + 1)]
    return tuple(tuple(str(names[seen[i]]) for i in members) for members in found if len(members) > 1)


def next_point(
    calibration: Calibration, candidates: Sequence[StepConditions], *, noise: float = NOISE
) -> tuple[int, float]:
    """Which candidate to measure next, and by what factor it shrinks the volume of the factors' uncertainty.

    Returns
    -------
    index, gain : int, float
        The D-optimal candidate: it maximises 1 + x' S x / noise^2, whose square root is `gain`.
    """
    require(len(candidates) > 0, "`candidates` must not be empty", got=0, fix="Offer the steps that you can measure.")
    design, names = _design(calibration.step, candidates)
    factors = np.array([calibration.factors[n].value if n in calibration.factors else 1.0 for n in names])
    total = design @ np.maximum(factors, 1e-6)
    order = [calibration.names.index(name) for name in names]
    covariance = calibration.covariance[np.ix_(order, order)]
    relative = design / total[:, None]
    gains = 1.0 + np.einsum("nt,ts,ns->n", relative, covariance, relative) / noise**2
    best = int(np.argmax(gains))
    return best, float(np.sqrt(gains[best]))


def _design(step: StepCost, points: Sequence[StepConditions]) -> tuple[Array, tuple[str, ...]]:
    model = step.unscaled
    parts = [model.parts(point) for point in points]
    return np.array([[float(row[name]) for name in STEP_TERMS] for row in parts]), STEP_TERMS


def _robust_factors(relative: Array, prior: Array, noise: float) -> tuple[Array, Array]:
    """Factors by non-negative least squares, pulled towards one as the prior says, and the weight of each point."""
    from scipy import optimize

    solve = cast(Any, optimize).lsq_linear
    pull = np.linalg.inv(np.linalg.cholesky(prior))
    weights, factors = np.ones(len(relative)), np.ones(relative.shape[1])
    for _ in range(20):
        left = np.concatenate([relative * (weights / noise)[:, None], pull])
        right = np.concatenate([weights / noise, pull.sum(axis=1)])
        fresh = np.asarray(solve(left, right, bounds=(0, np.inf)).x, dtype=np.float64)
        if np.allclose(fresh, factors, rtol=1e-6) or len(relative) < LEAST_ROBUST:
            return fresh, weights
        factors = fresh
        off = np.abs(relative @ fresh - 1)
        scatter = max(noise, 1.4826 * float(np.median(off)))
        weights = np.sqrt(np.minimum(1.0, HUBER * scatter / np.maximum(off, 1e-12)))
    return factors, weights
