"""Arrays from addresses: how a compiled function reaches the buffers of many requests without the interpreter."""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import carray, njit, types
from numba.core import cgutils
from numba.extending import intrinsic

__all__ = ["bits_of", "float64_at", "int32_at", "int64_at", "pointer", "prefetch", "word_at"]


@intrinsic
def pointer(typing_context: Any, address: Any) -> Any:
    """The address as a pointer."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], cgutils.voidptr_t)

    return types.voidptr(types.int64), codegen


@intrinsic
def word_at(typing_context: Any, address: Any) -> Any:
    """The int64 at `address`, which need not be a multiple of eight."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.load(builder.inttoptr(arguments[0], ir.IntType(64).aspointer()), align=1)

    return types.int64(types.int64), codegen


@intrinsic
def prefetch(typing_context: Any, address: Any) -> Any:
    """Ask for the cache line of `address`, which need not be mapped."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        whole = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [cgutils.voidptr_t, whole, whole, whole])
        body = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        builder.call(body, [builder.inttoptr(arguments[0], cgutils.voidptr_t), whole(0), whole(3), whole(1)])
        return context.get_dummy_value()

    return types.void(types.int64), codegen


@intrinsic
def bits_of(typing_context: Any, value: Any) -> Any:
    """The bits of a float64, as int64."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.IntType(64))

    return types.int64(types.float64), codegen


@njit(inline="always")
def int32_at(address, size):
    """View of `size` int32 at `address`; the owner keeps the buffer alive during the call."""
    return carray(pointer(address), (size,), np.int32)


@njit(inline="always")
def int64_at(address, size):
    """View of `size` int64 at `address`; the owner keeps the buffer alive during the call."""
    return carray(pointer(address), (size,), np.int64)


@njit(inline="always")
def float64_at(address, size):
    """View of `size` float64 at `address`; the owner keeps the buffer alive during the call."""
    return carray(pointer(address), (size,), np.float64)
