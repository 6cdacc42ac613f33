"""GPU twins: a block a token."""

from __future__ import annotations

from typing import Any

from runtime.kernels.gpu import _launch

__all__ = ["grid_numbers", "integer_numbers"]


def integer_numbers(records: Any, scales: Any, chunk: int, bits: int, out: Any) -> None:
    """As the door says; `scales` are (n, 2, channels), steps and least numbers."""
    arguments = (records, records.shape[1], scales, chunk, out.shape[1], bits, out)
    _launch.launch("dequantise", "integer_numbers", (len(out),), arguments)


def grid_numbers(records: Any, scales: Any, chunk: int, bits: int, grid: Any, base: Any, order: int, out: Any) -> None:
    """As the door says; `scales` are (n, chunk, groups)."""
    channels = out.shape[1]
    arguments = (
        records, records.shape[1], scales, chunk, channels, bits, grid, base, len(base), order, float(order**-0.5), out
    )  # fmt: skip
    _launch.launch("dequantise", "grid_numbers", (len(out), channels // order), arguments)
