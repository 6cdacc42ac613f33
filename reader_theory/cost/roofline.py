"""Roofline with a smooth knee: the p-norm of the two walls, plus what a launch costs.

Prefer it to max(): near the ridge the two walls add up, and every GPU measured shows it.
From Williams, Waterman, Patterson 2009, with the p-norm in place of the maximum.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from reader_theory.cost.device import Device
from reader_theory.errors import require

__all__ = ["Roofline", "fit_log", "fit_roofline", "p_norm", "spec_sheet_s"]

Array = NDArray[np.float64]


def p_norm(first: ArrayLike, second: ArrayLike, p: float) -> Array:
    r""":math:`(a^p + b^p)^{1/p}` for non-negative arrays; never overflows, and tends to max(a, b) as p grows."""
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    top = np.maximum(np.maximum(a, b), 1e-300)
    return top * (1.0 + (np.minimum(a, b) / top) ** p) ** (1.0 / p)


@dataclass(frozen=True)
class Roofline:
    """Coefficients of one operator class on one device.

    Parameters
    ----------
    bandwidth_share, flops_share : float
        Reached share of the device's peaks.
    p : float
        Sharpness of the knee; one adds the walls, infinity takes the larger.
    launch_s : float
        Constant per call.
    """

    bandwidth_share: float
    flops_share: float
    p: float
    launch_s: float

    def seconds(self, bytes_moved: ArrayLike, flops: ArrayLike, device: Device, dtype: str = "bf16") -> Array:
        """Seconds of calls that move `bytes_moved` and do `flops` on `device`."""
        memory = np.asarray(bytes_moved) / (self.bandwidth_share * device.bandwidth_bytes_per_s.value)
        arithmetic = np.asarray(flops) / (self.flops_share * device.flops_per_s(dtype))
        return p_norm(memory, arithmetic, self.p) + self.launch_s


def spec_sheet_s(bytes_moved: ArrayLike, flops: ArrayLike, device: Device, dtype: str = "bf16") -> Array:
    """The baseline: the larger of the two walls at the vendor's peaks, and nothing else."""
    memory = np.asarray(bytes_moved) / device.bandwidth_bytes_per_s.value
    return np.maximum(memory, np.asarray(flops) / device.flops_per_s(dtype))


def fit_roofline(
    bytes_moved: ArrayLike,
    flops: ArrayLike,
    seconds: ArrayLike,
    device: Device,
    dtype: str = "bf16",
    *,
    p: float | None = None,
) -> Roofline:
    """Fit the coefficients by robust least squares on the logarithm of time.

    Parameters
    ----------
    bytes_moved, flops, seconds : (n,) float64, seconds > 0
        One row a measured call; n >= 4, or n >= 3 when `p` is given.
    p : float, optional
        Hold the knee at this value; 50 and more is max() + c.
    """
    moved, work, times = (np.asarray(x, dtype=np.float64) for x in (bytes_moved, flops, seconds))
    require(
        times.size >= (4 if p is None else 3) and bool((times > 0).all()),
        "`seconds` must hold at least four positive times (three with `p` given)",
        got=times[:5],
        fix="Measure more sizes, or calibrate whole steps with `reader_theory.cost.calibrate`.",
    )

    def made(log: Array) -> Roofline:
        band, rate, launch, *rest = np.exp(log)
        return Roofline(float(band), float(rate), float(rest[0]) if p is None else p, float(launch) * 1e-6)

    start = np.log([0.8, 0.6, 4.0] + ([2.0] if p is None else []))
    reach = np.log([3.0, 20.0, 1e4] + ([8.0] if p is None else []))
    log = fit_log(lambda x: made(x).seconds(moved, work, device, dtype), start, times, reach)
    return made(log)


def fit_log(
    model: Callable[[Array], Array],
    start: ArrayLike,
    times: Array,
    reach: ArrayLike,
    *,
    scale: float = 0.05,
    starts: int = 1,
    step: float | None = None,
) -> Array:
    """Robust least squares of log time: minimise soft-l1 of (log model - log times) / scale in a box around `start`.

    Parameters
    ----------
    starts : int
        The best of so many descents, from `start` and from points of the box's middle half: for models with kinks.
    step : float, optional
        Relative step of finite differences. A wide one sees past kinks.

    Returns
    -------
    (d,) float64
        The logarithms of the coefficients; each stays within `reach` of `start`.
    """
    from scipy import optimize  # pyright: ignore[reportMissingTypeStubs]

    solve = cast(Any, optimize).least_squares
    first, span, target = np.asarray(start, dtype=np.float64), np.asarray(reach, dtype=np.float64), np.log(times)

    def residual(log: Array) -> Array:
        return (np.log(model(log)) - target) / scale

    others = np.random.default_rng(0).uniform(-0.5, 0.5, (starts - 1, len(first)))
    box = {"bounds": (first - span, first + span), "loss": "soft_l1", "max_nfev": 200, "diff_step": step}
    done = min((solve(residual, each, **box) for each in (first, *(first + others * span))), key=lambda x: x.cost)
    return np.asarray(done.x, dtype=np.float64)
