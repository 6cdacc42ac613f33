"""Compiled shares one after the other, as one: every thread waits for all others between two of them."""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import carray, types
from numba.extending import intrinsic

from runtime.kernels.cpu.threads import barrier, compiled
from runtime.kernels.cpu.vectors import I64
from runtime.retrieval.bodies.memory import pointer

__all__ = ["share_of_program"]


@intrinsic
def _run(typing: Any, share: Any, task: Any) -> Any:
    """Call a compiled share by its address, with the address of its task."""
    del typing

    def generate(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        kind = ir.FunctionType(ir.VoidType(), [I64.as_pointer()])
        share, task = args
        builder.call(builder.inttoptr(share, kind.as_pointer()), [builder.inttoptr(task, I64.as_pointer())])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), generate


@compiled
def share_of_program(task):
    """Of (address of rows of integers: a share and its task; how many rows, and how many integers of each)."""
    first, count, wide = task[0], task[1], task[2]
    rows = carray(pointer(first), (count, wide), np.int64)
    for i in range(count):
        _run(rows[i, 0], first + (i * wide + 1) * 8)
        barrier()
