"""Decode attention with split-KV, one query token a request: two bandwidths, a cost a block, and a fitted surface.

Prefer it for plain decoding. What fits in the last-level cache is read at its bandwidth; thousands of short contexts
are bound by thread blocks, not bytes. Split-KV as in FlashDecoding (Dao, Haziza, Massa, Sizov 2023).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reader_theory.cost.columns import Table, by_names, positive
from reader_theory.cost.device import Device, find_device
from reader_theory.cost.roofline import fit_log, p_norm
from reader_theory.cost.surface import Surface, fit_surface
from reader_theory.errors import InvalidInputError

__all__ = ["AttentionFit", "DecodeModel", "fit_decode_attention", "kv_read_bytes", "predict_decode_attention"]

Array = NDArray[np.float64]
HEAD_DIM, ELEMENT_BYTES = 128, 2
START = np.log([10.0, 0.85, 3.0, 30.0, 2.0, 2.0, 1.0, 0.3])
REACH = np.log([5.0, 2.5, 8.0, 30.0, 100.0, 6.0, 4.0, 10.0])


@dataclass(frozen=True)
class DecodeModel:
    """Coefficients of decode attention on one device.

    Parameters
    ----------
    launch_s : float
        Constant per call.
    bandwidth_share, cache_gain : float
        Reached share of memory bandwidth; bandwidth of the last-level cache over memory's.
    block_s, head_s : float
        Seconds a (request, KV head) and a (request, query head) add, spread over the device.
    p : float
        Sharpness of the knee.
    cache_share, cache_width : float
        Fraction of the last-level cache that KV fills before it spills, and how sharply (in log bytes).
    """

    launch_s: float
    bandwidth_share: float
    cache_gain: float
    block_s: float
    head_s: float
    p: float
    cache_share: float
    cache_width: float

    def seconds(self, batch: Array, heads: Array, kv_heads: Array, context: Array, device: Device) -> Array:
        """Seconds of one layer's attention for `batch` requests with `context` tokens each."""
        bandwidth = device.bandwidth_bytes_per_s.value
        moved = kv_read_bytes(batch, kv_heads, context) + 2.0 * batch * heads * HEAD_DIM * ELEMENT_BYTES
        fill = np.log(moved / max(device.l2_bytes.value * self.cache_share, 1.0)) / self.cache_width
        spilled = 1.0 / (1.0 + np.exp(-np.clip(fill, -50, 50)))
        memory = moved / bandwidth * (spilled / self.bandwidth_share + (1 - spilled) / self.cache_gain)
        blocks = batch * (kv_heads * self.block_s + heads * self.head_s)
        return self.launch_s + p_norm(memory, blocks, self.p)


@dataclass(frozen=True)
class AttentionFit:
    """Decode attention fitted on one table: by gpu a device, a model and a surface over (batch, heads, KV heads)."""

    parts: Mapping[str, tuple[Device, DecodeModel, Surface]]

    def seconds(self, batch: Array, heads: Array, kv_heads: Array, context: Array, *, gpu: str) -> Array:
        """Seconds of one layer's attention on a fitted device."""
        if gpu not in self.parts:
            raise InvalidInputError("`gpu` must have been fitted", got=gpu, fix=f"Fit it; known: {sorted(self.parts)}.")
        device, model, surface = self.parts[gpu]
        ratio = surface.log_ratio(np.stack([batch, heads, kv_heads], axis=-1), context)
        return model.seconds(batch, heads, kv_heads, context, device) * np.exp(ratio)

    def relative_spread(self, gpu: str) -> float:
        """Root mean square of leave-one-shape-out relative errors."""
        return self.parts[gpu][2].spread


def kv_read_bytes(batch: Array, kv_heads: Array, context: Array) -> Array:
    """Bytes of keys and values that one layer reads: 2 batch kv_heads head_dim context, 2 bytes each, head dim 128."""
    return 2.0 * batch * kv_heads * HEAD_DIM * ELEMENT_BYTES * context


def fit_decode_attention(table: Table, *, length: float = 2.0, nugget: float = 0.1) -> AttentionFit:
    """Fit decode attention, device by device.

    Parameters
    ----------
    table : columns gpu, batch_size, num_heads, num_key_value_heads, kv_len, lat_us
        One call with head dim 128 and one query token a request a row; microseconds.
    length, nugget : float
        Correlation length of the efficiency surface in log size, and its noise share.
    """
    sizes, times = _sizes(table), positive(table, "lat_us") * 1e-6
    return AttentionFit(
        {
            gpu: _fit_device(find_device(gpu), [size[at] for size in sizes], times[at], length, nugget)
            for (gpu,), at in by_names(table, "gpu", least=12)
        }
    )


def predict_decode_attention(fit: AttentionFit, table: Table) -> Array:
    """Seconds of each row of `table` (columns gpu, batch_size, num_heads, num_key_value_heads, kv_len)."""
    sizes = _sizes(table)
    out = np.empty(len(sizes[0]))
    for (gpu,), at in by_names(table, "gpu"):
        batch, heads, kv_heads, context = (size[at] for size in sizes)
        out[at] = fit.seconds(batch, heads, kv_heads, context, gpu=gpu)
    return out


def _sizes(table: Table) -> list[Array]:
    return [positive(table, name) for name in ("batch_size", "num_heads", "num_key_value_heads", "kv_len")]


def _fit_device(
    device: Device, sizes: list[Array], times: Array, length: float, nugget: float
) -> tuple[Device, DecodeModel, Surface]:
    batch, heads, kv_heads, context = sizes

    def made(log: Array) -> DecodeModel:
        launch, band, gain, block, head, p, share, width = (float(x) for x in np.exp(log))
        return DecodeModel(launch * 1e-6, band, gain, block * 1e-9, head * 1e-9, p, share, width)

    model = made(fit_log(lambda x: made(x).seconds(batch, heads, kv_heads, context, device), START, times, REACH))
    left = np.log(times / model.seconds(batch, heads, kv_heads, context, device))
    surface = fit_surface(np.stack([batch, heads, kv_heads], axis=-1), context, left, length=length, nugget=nugget)
    return device, model, surface
