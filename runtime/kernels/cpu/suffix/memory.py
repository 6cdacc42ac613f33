"""Arrays from addresses: how a compiled function reaches the buffers of many requests without the interpreter."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import carray, njit, types
from numba.core import cgutils
from numba.extending import intrinsic

__all__ = ["int32_at", "int64_at", "uint16_at", "uint8_at"]


@intrinsic
def _pointer(typing_context: Any, address: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], cgutils.voidptr_t)

    return types.voidptr(types.int64), codegen


@njit(inline="always")
def int32_at(address, size):
    """View of `size` int32 at `address`; the owner keeps the buffer alive during the call."""
    return carray(_pointer(address), (size,), np.int32)


@njit(inline="always")
def int64_at(address, size):
    """View of `size` int64 at `address`; the owner keeps the buffer alive during the call."""
    return carray(_pointer(address), (size,), np.int64)


@njit(inline="always")
def uint16_at(address, size):
    """View of `size` uint16 at `address`; the owner keeps the buffer alive during the call."""
    return carray(_pointer(address), (size,), np.uint16)


@njit(inline="always")
def uint8_at(address, size):
    """View of `size` uint8 at `address`; the owner keeps the buffer alive during the call."""
    return carray(_pointer(address), (size,), np.uint8)
