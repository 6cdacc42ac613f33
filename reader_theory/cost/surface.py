"""Efficiency as a smooth function of the operator's shape: what a roofline leaves over, interpolated between shapes.

Prefer it once a table of measurements exists: tile shapes and split choices inside vendor libraries are not public, but
neighbouring shapes meet the same ones. It reverts to the roofline far from every measured shape. Gaussian-process
regression (kriging) with an exponential kernel on logarithms of sizes; Rasmussen and Williams 2006, chapter 2.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reader_theory.errors import require

__all__ = ["Surface", "fit_surface"]

Array = NDArray[np.float64]
GRID_POINTS = 256


@dataclass(frozen=True)
class Surface:
    """Log of measured over predicted, by shape and by one swept size.

    Parameters
    ----------
    shapes : (S, d) float64
        Logarithms of the measured shapes' sizes.
    sweep : (G,) float64, increasing
        Logarithms of the swept size (rows of the product, tokens of the context).
    mean : (G,) float64
        Mean log ratio at each swept size.
    weights : (S, G) float64
        Kriging weights.
    length : float
        Correlation length in units of log size.
    spread : float
        Root mean square of leave-one-shape-out errors, in log time.
    """

    shapes: Array
    sweep: Array
    mean: Array
    weights: Array
    length: float
    spread: float

    def log_ratio(self, shapes: Array, swept: Array) -> Array:
        """Log of measured over predicted at (n, d) sizes `shapes` and (n,) swept sizes; linear between grid points."""
        wanted, back = np.unique(np.log(shapes), axis=0, return_inverse=True)
        field = _kernel(wanted, self.shapes, self.length) @ self.weights + self.mean
        place = np.clip(np.log(swept), self.sweep[0], self.sweep[-1])
        right = np.clip(np.searchsorted(self.sweep, place), 1, max(1, len(self.sweep) - 1))
        if len(self.sweep) == 1:
            return field[back.reshape(-1), 0]
        share = (place - self.sweep[right - 1]) / (self.sweep[right] - self.sweep[right - 1])
        rows = back.reshape(-1)
        return field[rows, right - 1] * (1 - share) + field[rows, right] * share


def fit_surface(shapes: Array, swept: Array, log_ratio: Array, *, length: float, nugget: float) -> Surface:
    """Krige `log_ratio` over shapes, one field for each swept size.

    Parameters
    ----------
    shapes : (n, d) float64, positive
        Sizes that name a shape; rows of one shape are a sweep.
    swept : (n,) float64, positive
        The swept size of each row.
    log_ratio : (n,) float64
        Log of measured over predicted.
    length, nugget : float
        Correlation length in log size; noise variance over signal variance.
    """
    require(
        len(shapes) == len(swept) == len(log_ratio) > 0,
        "`shapes`, `swept` and `log_ratio` must have one row a measurement",
        got=(len(shapes), len(swept), len(log_ratio)),
        fix="Pass columns of one table.",
    )
    known, group = np.unique(np.log(shapes), axis=0, return_inverse=True)
    grid = _grid(np.log(swept))
    table = np.stack([_resampled(np.log(swept)[rows], log_ratio[rows], grid) for rows in _rows_of(group, len(known))])
    mean = table.mean(axis=0)
    inverse: Array = np.asarray(
        np.linalg.inv(_kernel(known, known, length) + nugget * np.eye(len(known))), dtype=np.float64
    )
    weights: Array = inverse @ (table - mean)
    left_out: Array = weights / np.diag(inverse)[:, None]
    spread = float(np.sqrt(np.mean(left_out**2)))
    return Surface(known, grid, mean, weights, length, spread)


def _kernel(first: Array, second: Array, length: float) -> Array:
    from scipy.spatial.distance import cdist

    return np.exp(-cdist(first, second, metric="cityblock") / length)


def _grid(log_swept: Array) -> Array:
    values = np.unique(log_swept)
    if len(values) <= GRID_POINTS:
        return values
    return np.linspace(float(values[0]), float(values[-1]), GRID_POINTS)


def _rows_of(group: NDArray[np.intp], count: int) -> list[NDArray[np.intp]]:
    order = np.argsort(group.reshape(-1), kind="stable")
    return np.split(order, np.searchsorted(group.reshape(-1)[order], np.arange(1, count)))


def _resampled(log_swept: Array, values: Array, grid: Array) -> Array:
    """Linear between the sizes measured; a size measured several times counts once, by its mean."""
    sizes, which, count = np.unique(log_swept, return_inverse=True, return_counts=True)
    return np.interp(grid, sizes, np.bincount(which.reshape(-1), values) / count)
