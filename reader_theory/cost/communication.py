"""All-reduce between the devices that share a layer: a latency and a bandwidth, joined by a p-norm.

Prefer the fit where a table of the card's own all-reduce exists; latency dominates below a megabyte, which is where
decoding lives. Thakur, Rabenseifner, Gropp 2005.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from reader_theory.cost.device import Device
from reader_theory.cost.roofline import p_norm

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
