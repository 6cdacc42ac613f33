"""The grid of n points in the plane that is nearest to a standard normal pair in the mean.

``python -m runtime.cache.quantised.grid`` computes the grids that ship beside this file.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

__all__ = ["gaussian_grid"]

GRIDS = Path(__file__).with_name("grids.npz")
BITS = (1, 2, 3, 4)
"""Bits a number, of grids that ship."""
REACH, CELLS = 5.0, 401
"""Half the side of the square that stands for the plane, and cells on a side."""
ROUNDS, SETTLED = 400, 1e-7


@lru_cache
def gaussian_grid(points: int) -> NDArray[np.float32]:
    """(points, 2) float32, one of those that ship: 4, 16, 64 or 256 points."""
    with np.load(GRIDS) as held:
        grid = held[str(points)]
    grid.flags.writeable = False
    return grid


def best_grid(points: int) -> NDArray[np.float32]:
    """(points, 2) float32: Lloyd's iterations on cells weighted by their probability, from a sunflower's spiral.

    A spiral of density phi ** (1 / 2), which is the best density of many points, is already near a good grid.

    References
    ----------
    Pages, Printems, "Optimal quadratic quantization for numerics: the Gaussian case", 2003.
    """
    axis = np.linspace(-REACH, REACH, CELLS)
    weight = np.exp(-(axis**2) / 2)
    cells = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)
    weights = np.outer(weight, weight).ravel()
    weights /= weights.sum()
    share = (np.arange(points) + 0.5) / points
    radius, angle = np.sqrt(-4 * np.log1p(-share)), np.arange(points) * np.pi * (3 - np.sqrt(5))
    grid = np.stack((radius * np.cos(angle), radius * np.sin(angle)), axis=-1)
    before = np.inf
    for _ in range(ROUNDS):
        distance, near = cKDTree(grid).query(cells)
        error = float(weights @ distance**2)
        if before - error < SETTLED * error:
            break
        before, mass = error, np.bincount(near, weights, points)
        means = np.stack([np.bincount(near, weights * column, points) for column in cells.T], axis=-1)
        grid = np.where(mass[:, None] > 0, means / np.maximum(mass, 1e-300)[:, None], grid)
    return grid.astype(np.float32)


if __name__ == "__main__":
    np.savez_compressed(GRIDS, allow_pickle=False, **{str(4**bits): best_grid(4**bits) for bits in BITS})
