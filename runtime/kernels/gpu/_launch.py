"""Launch CUDA sources through CuPy on torch's current stream.

Tensors reach a kernel by their address, without copies. Since the stream is torch's own, launches stand in its order,
and are captured with it into a CUDA graph.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

__all__ = ["THREADS", "launch", "source_of"]

SOURCES = ("tree_inputs", "verify", "commit", "merge", "dequantise")
"""CUDA sources of this folder; each is compiled behind `common.cu`."""
THREADS = 256
"""Threads a block; at most MAX_THREADS of `common.cu`."""


def source_of(name: str) -> str:
    """Text of one CUDA source, with what all share before it."""
    folder = Path(__file__).parent
    return (folder / "common.cu").read_text() + (folder / f"{name}.cu").read_text()


@lru_cache
def _module(name: str, device: int) -> Any:
    import cupy  # pyright: ignore[reportMissingImports]

    with cupy.cuda.Device(device):
        return cupy.RawModule(code=source_of(name), options=("-std=c++17",))


@lru_cache
def _function(source: str, kernel: str, device: int) -> Any:
    return _module(source, device).get_function(kernel)


class _Borrowed:
    """torch's stream, told by its address."""

    def __init__(self, address: int) -> None:
        self.address = address

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, self.address

    def to(self, cuda: Any) -> Any:
        """The stream as one of `cupy.cuda`: by CUDA's stream protocol, by the older class where CuPy lacks it."""
        told = getattr(cuda.Stream, "from_external", None)
        return cuda.ExternalStream(self.address) if told is None else told(self)


def launch(source: str, kernel: str, grid: tuple[int, ...], arguments: tuple[Any, ...]) -> None:
    """Run a kernel of a CUDA source.

    Parameters
    ----------
    source, kernel : str
        One of `SOURCES`, and the kernel's name in it.
    grid : tuple of int
        Blocks; nothing runs when one is 0.
    arguments : tuple of tensors of one device, int (passed as 64 bits), float (as double) or NumPy scalars
    """
    import cupy  # pyright: ignore[reportMissingImports]
    import numpy as np

    if 0 in grid:
        return
    tensors = [x for x in arguments if isinstance(x, torch.Tensor)]
    device = tensors[0].device.index or 0
    stream = _Borrowed(torch.cuda.current_stream(tensors[0].device).cuda_stream)
    with cupy.cuda.Device(device), stream.to(cupy.cuda):
        passed = tuple(
            np.uint64(x.data_ptr()) if isinstance(x, torch.Tensor) else np.int64(x) if isinstance(x, int) else x
            for x in arguments
        )
        _function(source, kernel, device)(grid, (THREADS,), passed)
