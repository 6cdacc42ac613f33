"""What every door does: check shapes, dtypes and layout once, and hand tensors to the twin of their device.

NumPy arrays and torch tensors of the CPU reach the compiled twin as views; CUDA tensors reach the GPU twin by their
address. Nothing is copied. bfloat16 and float16 travel as their bits where a twin only moves them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from reader_theory.errors import InvalidInputError

__all__ = ["BITS", "FLOATS", "Array", "Sizes", "empty_like_of", "host", "on_gpu"]

Array = NDArray[Any] | torch.Tensor
"""A NumPy array or a torch tensor."""

FLOATS = ("float32", "float64", "bfloat16")
"""Logits as the twins read them."""
BITS = {1: "uint8", 2: "uint16", 4: "uint32", 8: "uint64"}
"""Unsigned integers by their bytes."""


class Sizes(dict[str, int]):
    """Named dimensions that the arguments of one call must agree on."""

    def take(self, name: str, x: Array, dims: Sequence[str], dtypes: Sequence[str] = ("int64",)) -> None:
        """Check `x` against its dimensions and dtypes, and that it lies in memory without gaps.

        Raises
        ------
        InvalidInputError
            Naming the argument and what it was.
        """
        flat = x.is_contiguous() if isinstance(x, torch.Tensor) else x.flags.c_contiguous
        same = flat and len(x.shape) == len(dims) and _name(x.dtype) in dtypes
        if same:
            for dim, size in zip(dims, x.shape, strict=True):
                same &= self.setdefault(dim, size) == size
        if not same:
            wanted = ", ".join(f"{dim}={self[dim]}" if dim in self else dim for dim in dims)
            raise InvalidInputError(
                f"`{name}` must be ({wanted}) of {' or '.join(dtypes)}, contiguous",
                got=f"shape {tuple(x.shape)} of {_name(x.dtype)}{'' if flat else ', with gaps'}",
                fix="Cast or call `.contiguous()` before the kernel; a door never copies.",
            )


@lru_cache
def _name(dtype: Any) -> str:
    return str(dtype).removeprefix("torch.")


def on_gpu(*arrays: Array) -> bool:
    """Whether the arguments lie on a CUDA device; all or none must."""
    there = 0
    for x in arrays:
        there += isinstance(x, torch.Tensor) and x.is_cuda
    if 0 < there < len(arrays):
        raise InvalidInputError(
            "arguments must lie on one device",
            got=f"{there} of {len(arrays)} on a CUDA device",
            fix="Move them with `.to(device)`.",
        )
    return there > 0


def host(x: Array) -> NDArray[Any]:
    """View of a NumPy array or CPU tensor as NumPy; 16-bit floats as their bits (uint16)."""
    if isinstance(x, np.ndarray):
        return x
    if x.dtype in (torch.bfloat16, torch.float16):
        x = x.view(torch.uint16)
    return x.detach().numpy()


def empty_like_of(kind: Array, shape: Sequence[int], dtype: str = "int64") -> Any:
    """Uninitialised array of the kind and device of `kind`."""
    if isinstance(kind, torch.Tensor):
        return torch.empty(tuple(shape), dtype=getattr(torch, dtype), device=kind.device)
    return np.empty(tuple(shape), dtype=dtype)
