"""Matrix products: the cheapest of a few tilings, in waves over the multiprocessors, times a fitted efficiency surface.

Prefer it to the bare p-norm when a table of products exists: padding to tiles and whole waves are a staircase that no
smooth roofline follows. Tiles and split-k as CUTLASS describes them (NVIDIA, "Efficient GEMM in CUDA").
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reader_theory.cost.columns import Table, by_names, positive
from reader_theory.cost.device import Device, find_device
from reader_theory.cost.roofline import fit_log, p_norm
from reader_theory.cost.surface import Surface, fit_surface
from reader_theory.errors import InvalidInputError

__all__ = ["GemmFit", "TileModel", "bytes_per_weight", "fit_gemm", "predict_gemm"]

Array = NDArray[np.float64]
TILES = ((16, 64, 0), (32, 64, 0), (64, 64, 1), (64, 128, 2), (128, 64, 2), (128, 128, 3), (64, 256, 3), (128, 256, 4))
"""Rows, columns and efficiency class of the tilings that a library chooses from."""
SPLITS = (1, 2, 4)
ROWS_FITTED = 1500
STARTS, STEP = 8, 1e-2
"""Descents, and their relative step: the cheapest of several tilings has kinks, between which a descent stops."""
START = np.log([4.0, 0.8, 2.0, 0.15, 0.3, 0.4, 0.6, 0.7, 1.5, 4.0, 0.1])
REACH = np.log([4.0, 2.0, 8.0, 8.0, 4.0, 3.0, 2.5, 2.5, 50.0, 8.0, 30.0])


@dataclass(frozen=True)
class TileModel:
    """Coefficients of the tiled roofline on one device, relative to its peaks.

    Parameters
    ----------
    launch_s, split_s : float
        Constant per call; extra when the inner dimension is split.
    bandwidth_share, reuse_share : float
        Share of memory bandwidth reached; bandwidth of tiles re-read from cache over memory bandwidth.
    p : float
        Sharpness of the knee.
    efficiency : (5,) tuple
        Share of a multiprocessor's peak by class of tile area, smallest first.
    chain_s : float
        Seconds an inner element adds to the longest chain.
    """

    launch_s: float
    bandwidth_share: float
    p: float
    efficiency: tuple[float, ...]
    split_s: float
    reuse_share: float
    chain_s: float

    def seconds(self, m: Array, n: Array, k: Array, device: Device, dtype: str = "bf16") -> Array:
        """Seconds of products (m, k) x (k, n), the cheapest tiling of each."""
        bandwidth, width = device.bandwidth_bytes_per_s.value, bytes_per_weight(dtype)
        units = device.multiprocessors.value
        unit_rate = device.flops_per_s(dtype) / units
        memory = (width * (m * k + n * k) + 2 * m * n) / (bandwidth * self.bandwidth_share)
        best = np.full(np.shape(m), np.inf)
        for rows, columns, area in TILES:
            high, wide = np.ceil(m / rows), np.ceil(n / columns)
            reread = width * (m * k * wide + n * k * high) / (self.reuse_share * bandwidth)
            tile_flops = 2.0 * rows * columns * k / (unit_rate * self.efficiency[area])
            for split in SPLITS:
                waves = np.ceil(high * wide * split / units)
                busy = np.maximum(waves * tile_flops / split, reread)
                partial = self.split_s + 8.0 * m * n * split / (bandwidth * self.reuse_share) if split > 1 else 0.0
                best = np.minimum(best, p_norm(memory, busy, self.p) + self.chain_s * k / split + partial)
        return best + self.launch_s


@dataclass(frozen=True)
class GemmFit:
    """Products fitted on one table: for each (gpu, dtype) a device, a tile model and an efficiency surface."""

    parts: Mapping[tuple[str, str], tuple[Device, TileModel, Surface]]

    def relative_spread(self, gpu: str, dtype: str = "bf16") -> float:
        """Root mean square of leave-one-shape-out relative errors."""
        return self._part(gpu, dtype)[2].spread

    def seconds(self, m: Any, n: Any, k: Any, *, gpu: str, dtype: str = "bf16") -> Array:
        """Seconds of products (m, k) x (k, n) on one fitted device."""
        device, tiles, surface = self._part(gpu, dtype)
        rows, columns, inner = np.broadcast_arrays(*(np.atleast_1d(np.asarray(x, dtype=np.float64)) for x in (m, n, k)))
        shapes = np.stack([columns, inner], axis=-1)
        return tiles.seconds(rows, columns, inner, device, dtype) * np.exp(surface.log_ratio(shapes, rows))

    def transferred_s(self, m: Array, n: Array, k: Array, device: Device, *, like: str, dtype: str = "bf16") -> Array:
        """Seconds on a device without measurements: the coefficients of `like` on the peaks of `device`."""
        return self._part(like, dtype)[1].seconds(m, n, k, device, dtype)

    def _part(self, gpu: str, dtype: str) -> tuple[Device, TileModel, Surface]:
        if (gpu, dtype) not in self.parts:
            raise InvalidInputError(
                "`gpu` and `dtype` must have been fitted",
                got=(gpu, dtype),
                fix=f"Fit a table that holds it, or use `transferred_s` from one of {sorted(self.parts)}.",
            )
        return self.parts[gpu, dtype]


def bytes_per_weight(dtype: str) -> float:
    """Bytes an element: 1 for fp8, 2 otherwise."""
    return 1.0 if dtype == "fp8" else 2.0


def fit_tiles(m: Array, n: Array, k: Array, seconds: Array, device: Device, dtype: str = "bf16") -> TileModel:
    """Fit the tile model's eleven coefficients by robust least squares on log time."""
    rows = np.unique(np.linspace(0, len(m) - 1, min(len(m), ROWS_FITTED)).astype(int))
    chosen = (m[rows], n[rows], k[rows])

    def modelled(log: Array) -> Array:
        return _tile_model(log).seconds(*chosen, device, dtype)

    return _tile_model(fit_log(modelled, START, seconds[rows], REACH, starts=STARTS, step=STEP))


def _tile_model(log: Array) -> TileModel:
    launch, band, p, *efficiency, split, reuse, chain = (float(x) for x in np.exp(log))
    capped = tuple(min(x, 1.2) for x in efficiency)
    return TileModel(launch * 1e-6, band, p, capped, split * 1e-6, reuse, chain * 1e-9)


def fit_gemm(table: Table, *, length: float = 1.0, nugget: float = 0.1) -> GemmFit:
    """Fit matrix products, device by device and type by type.

    Parameters
    ----------
    table : columns gpu, dtype ("bf16" or "fp8"), m, n, k, lat_us
        One measured product (m, k) x (k, n) a row; `lat_us` in microseconds. `gpu` is a name or alias of a device.
    length, nugget : float
        Correlation length of the efficiency surface in log size, and its noise share.
    """
    sizes = [positive(table, name) for name in ("m", "n", "k")]
    times = positive(table, "lat_us") * 1e-6
    parts: dict[tuple[str, str], tuple[Device, TileModel, Surface]] = {}
    for (gpu, dtype), at in by_names(table, "gpu", "dtype", least=12):
        device, (m, n, k) = find_device(gpu), (size[at] for size in sizes)
        tiles = fit_tiles(m, n, k, times[at], device, dtype)
        left = np.log(times[at] / tiles.seconds(m, n, k, device, dtype))
        surface = fit_surface(np.stack([n, k], axis=-1), m, left, length=length, nugget=nugget)
        parts[gpu, dtype] = (device, tiles, surface)
    return GemmFit(parts)


def predict_gemm(fit: GemmFit, table: Table) -> Array:
    """Seconds of each row of `table` (columns gpu, dtype, m, n, k)."""
    m, n, k = (positive(table, name) for name in ("m", "n", "k"))
    out = np.empty(len(m))
    for (gpu, dtype), at in by_names(table, "gpu", "dtype"):
        out[at] = fit.seconds(m[at], n[at], k[at], gpu=gpu, dtype=dtype)
    return out
