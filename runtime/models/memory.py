"""Memory of weights that have been copied elsewhere, given back to the system before their tensor is gone."""

from __future__ import annotations

import ctypes
import mmap

import torch

__all__ = ["give_back", "trim"]


def give_back(weight: torch.Tensor) -> None:
    """Drop the pages that lie wholly within a weight which nobody will read again; without effect where that fails.

    Weights that transformers maps from a file stay in memory, page by page as they were read, until the last tensor
    of that file is gone: a model would be there twice while it is loaded. Pages of a file are read anew and others
    are zero if they are touched again.
    """
    advise = getattr(mmap, "MADV_DONTNEED", None)
    if weight.device.type != "cpu" or not weight.is_contiguous() or advise is None:
        return
    start, end = weight.data_ptr(), weight.data_ptr() + weight.numel() * weight.element_size()
    first = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
    last = end // mmap.PAGESIZE * mmap.PAGESIZE
    if last > first:
        call = ctypes.CDLL(None).madvise
        call.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
        call(first, last - first, advise)


def trim() -> None:
    """Give back what the allocator keeps of freed blocks, where it is glibc's."""
    call = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if call is not None:
        call(0)
