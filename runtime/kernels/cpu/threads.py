"""Compiled functions on the threads that torch's own operators run on.

A second pool would spin beside torch's while each waits for the other. torch's Linux builds bring GNU's OpenMP library,
which runs any C function on its pool; numba compiles the function. Elsewhere there is none of this.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import torch
from llvmlite import binding
from numba import cfunc, types

__all__ = ["Pool", "barrier", "compiled", "float_bits", "pool", "thread", "threads"]

Pool = Callable[[int, Sequence[int]], None]
OURS = {
    "reader_theory_thread": "omp_get_thread_num",
    "reader_theory_threads": "omp_get_num_threads",
    "reader_theory_barrier": "GOMP_barrier",
}
"""Names under which compiled code finds the library's functions."""
thread, threads, barrier = (
    types.ExternalFunction(name, result())
    for name, result in zip(OURS, (types.int32, types.int32, types.void), strict=True)
)


@lru_cache
def pool() -> Pool | None:
    """Runs a compiled function with a task of integers on every thread, and waits.

    None where torch's pool is not GNU's.
    """
    found = sorted((Path(torch.__file__).parent / "lib").glob("libgomp*.so*"))
    if not found or not torch.backends.openmp.is_available():
        return None
    try:
        library = ctypes.CDLL(str(found[0]))
        for ours, theirs in OURS.items():
            binding.add_symbol(ours, ctypes.cast(getattr(library, theirs), ctypes.c_void_p).value)
        run = library.GOMP_parallel
    except (OSError, AttributeError):
        return None
    run.restype, run.argtypes = None, [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]

    def on_all(address: int, task: Sequence[int]) -> None:
        run(address, (ctypes.c_int64 * len(task))(*task), torch.get_num_threads(), 0)

    return on_all


@lru_cache
def float_bits(value: float) -> int:
    """A float32 among the integers of a task: its bits."""
    return struct.unpack("<i", struct.pack("<f", value))[0]


class compiled:
    """A thread's share of a task, a function of the task's integers, as `pool` runs it; compiled when first asked for.

    Parameters
    ----------
    share : callable of an array of int64
    """

    def __init__(self, share: Callable[[Any], None]) -> None:
        self._share = share

    @cached_property
    def _made(self) -> Any:
        pool()  # the names that the compiled code calls by
        return cfunc(types.void(types.CPointer(types.int64)), cache=True)(self._share)

    @property
    def address(self) -> int:
        """Where the compiled function lies."""
        return self._made.address
