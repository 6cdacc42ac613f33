"""Operations that the compiler turns into vector instructions where the plain ones keep a loop scalar."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from llvmlite import ir
from numba import carray, njit, types
from numba.extending import intrinsic, overload

from runtime.retrieval.bodies.memory import pointer, prefetch

__all__ = [
    "LINE",
    "ask_for",
    "bits32",
    "block_max",
    "borrowed",
    "copy_line",
    "float32_of",
    "float64_of",
    "floats",
    "fma",
    "larger",
    "narrowed",
    "same",
    "widened",
]

LINE = 64
"""Bytes of a cache line."""


def _operation(name: str, flags: Sequence[str] = ()) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = arguments[0].type
        body = builder.module.declare_intrinsic(name, [kind], ir.FunctionType(kind, [kind] * len(arguments)))
        return builder.call(body, arguments, fastmath=flags)

    return codegen


def _as(kind: Any) -> Any:
    return lambda context, builder, signature, arguments: builder.bitcast(arguments[0], kind)


@intrinsic
def larger(typing_context: Any, a: Any, b: Any) -> Any:
    """The larger of two floats of one kind; neither is NaN."""
    return a(a, a), _operation("llvm.maxnum", ("nnan", "nsz"))


@intrinsic
def fma(typing_context: Any, a: Any, b: Any, c: Any) -> Any:
    """``a * b + c``, rounded once."""
    return a(a, a, a), _operation("llvm.fma")


@intrinsic
def bits32(typing_context: Any, x: Any) -> Any:
    """The bits of a float32."""
    return types.int32(types.float32), _as(ir.IntType(32))


@intrinsic
def float32_of(typing_context: Any, bits: Any) -> Any:
    """The float32 of these bits."""
    return types.float32(types.int32), _as(ir.FloatType())


@intrinsic
def float64_of(typing_context: Any, bits: Any) -> Any:
    """The float64 of these bits."""
    return types.float64(types.int64), _as(ir.DoubleType())


@intrinsic
def copy_line(typing_context: Any, target: Any, source: Any) -> Any:
    """Copy `LINE` bytes between addresses that are multiples of four."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        whole = ir.VectorType(ir.IntType(32), LINE // 4).as_pointer()
        target, source = (builder.inttoptr(address, whole) for address in arguments)
        builder.store(builder.load(source, align=4), target, align=4)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), codegen


@njit(inline="always")
def same(x):
    """The value of a float32: itself."""
    return x


@njit(inline="always")
def widened(bits):
    """The value of a bfloat16, by its bits."""
    return float32_of(np.int32(np.uint32(bits) << np.uint32(16)))


@njit(inline="always")
def narrowed(x):
    """The bits of the nearest bfloat16, ties to even; of what is no number, of one that is none."""
    bits = np.uint32(bits32(x))
    near = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    none = (bits >> np.uint32(16)) | np.uint32(0x40)
    return np.uint16(near if x == x else none)


@njit(inline="always")
def borrowed(x):
    """The array without its owner, whose count of users every slice would raise; the caller keeps it alive."""
    return carray(pointer(x.ctypes.data), x.shape, x.dtype)


@njit(inline="always")
def ask_for(address, size):
    """Ask for the cache lines of `size` bytes; they need not be mapped."""
    for line in range(0, size, LINE):
        prefetch(address + line)


@njit(cache=True, nogil=True)
def block_max(block):
    """Largest of a block of floats."""
    top = block[0]
    for i in range(block.size):
        top = larger(top, block[i])
    return top


def floats(block, room):
    """The block as floats; bits of bfloat16 are widened into `room` (float32)."""
    raise NotImplementedError(block, room)


@overload(floats)
def _floats(block, room):
    if block.dtype != types.uint16:
        return lambda block, room: block

    def widen(block, room):
        words = room.view(np.uint32)
        for i in range(block.size):
            words[i] = np.uint32(block[i]) << np.uint32(16)
        return room[: block.size]

    return widen
