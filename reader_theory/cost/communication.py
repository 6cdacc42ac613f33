"""All-reduce between the devices that share a layer: a latency and a bandwidth, joined by a p-norm.

Prefer the fit where a table of the card's own all-reduce exists; latency dominates below a megabyte, which is where
decoding lives. Thakur, Rabenseifner, Gropp 2005.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from reader_theory.cost.device import Device
from reader_theory.cost.roofline import fit_log, p_norm
from reader_theory.cost.table import Table, column, positive
from reader_theory.errors import require

__all__ = ["AllReduce", "assumed_all_reduce"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class AllReduce:
    """Seconds of an all-reduce of `message` bytes over n devices: latency grows with n, bytes as 2 (n - 1) / n.

    Parameters
    ----------
    latency_s, per_device_s : float
        Constant, and for each device more than two.
    bandwidth_bytes_per_s : float
        Reached rate.
    p : float
        Sharpness of the knee.
    """

    latency_s: float
    per_device_s: float
    bandwidth_bytes_per_s: float
    p: float = 2.0

    def seconds(self, message_bytes: ArrayLike, devices: ArrayLike) -> Array:
        """Seconds of one all-reduce; zero on one device."""
        size, count = np.asarray(message_bytes, dtype=np.float64), np.asarray(devices, dtype=np.float64)
        latency = self.latency_s + self.per_device_s * np.maximum(count - 2, 0)
        moved = 2 * (count - 1) / np.maximum(count, 1) * size / self.bandwidth_bytes_per_s
        return np.where(count > 1, p_norm(latency, moved, self.p), 0.0)


def assumed_all_reduce(device: Device) -> AllReduce:
    """Without measurements: 5 us, 1 us a device, and half of one direction of the link."""
    return AllReduce(5e-6, 1e-6, max(device.link_bytes_per_s.value / 4, 1.2e10))


def fit_all_reduce(table: Table) -> dict[tuple[str, str], AllReduce]:
    """Fit each card and kernel.

    Parameters
    ----------
    table : columns gpu, kernel_source, num_gpus, message_size, latency
        `message_size` in 2-byte elements, `latency` in milliseconds.
    """
    names = list(
        zip(column(table, "gpu").astype(str).tolist(), column(table, "kernel_source").astype(str).tolist(), strict=True)
    )
    count, size = positive(table, "num_gpus"), positive(table, "message_size") * 2.0
    times, fits = positive(table, "latency") * 1e-3, dict[tuple[str, str], AllReduce]()
    for name in sorted(set(names)):
        at = np.array([x == name for x in names])
        require(at.sum() >= 4, "each card and kernel must have at least four rows", got=name, fix="Measure more sizes.")
        start, reach = np.log([5e-6, 1e-6, 1e11, 2.0]), np.array([3.0, 5.0, 4.0, 1.6])
        log = fit_log(
            lambda x, a=at: AllReduce(*np.exp(x).tolist()).seconds(size[a], count[a]), start, times[at], reach
        )
        fits[name] = AllReduce(*np.exp(log).tolist())
    return fits


def predict_all_reduce(fits: dict[tuple[str, str], AllReduce], table: Table) -> Array:
    """Seconds of each row of `table` (columns as for the fit, without latency)."""
    gpus, kernels = column(table, "gpu").astype(str).tolist(), column(table, "kernel_source").astype(str).tolist()
    count, size = positive(table, "num_gpus"), positive(table, "message_size") * 2.0
    rows = zip(gpus, kernels, size.tolist(), count.tolist(), strict=True)
    return np.array([float(fits[gpu, kernel].seconds(s, n)) for gpu, kernel, s, n in rows])
