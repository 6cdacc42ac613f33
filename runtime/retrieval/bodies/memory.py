"""Arrays from addresses: how a compiled function reaches the buffers of many requests without the interpreter."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np import arrayobj

__all__ = ["bits_of", "float64_at", "int32_at", "int64_at", "lean", "place_of", "pointer", "prefetch", "word_at"]


@intrinsic
def pointer(typing_context: Any, address: Any) -> Any:
    """The address as a pointer."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], cgutils.voidptr_t)

    return types.voidptr(types.int64), codegen


def lean(**options: Any) -> Any:
    """`njit` for bodies that own no memory: no array in them is counted, which costs two atomic additions a use.

    Compiled once and kept; numba does not notice when only a module that a body calls changes: `make clean` then.
    """
    return njit(nogil=True, _nrt=False, error_model="numpy", cache=True, **options)


def _view_of(item: Any) -> Any:
    """Intrinsic (address, size) -> array of `item`s there, without an owner: nothing in it is counted."""

    @intrinsic
    def view(typing_context: Any, address: Any, size: Any) -> Any:
        array = types.Array(item, 1, "C")

        def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            found = arrayobj.make_array(array)(context, builder)
            kind = context.get_data_type(item)
            data = builder.inttoptr(arguments[0], kind.as_pointer())
            size = context.cast(builder, arguments[1], signature.args[1], types.intp)
            step = context.get_constant(types.intp, context.get_abi_sizeof(kind))
            arrayobj.populate_array(found, data=data, shape=[size], strides=[step], itemsize=step, meminfo=None)
            return found._getvalue()

        return array(types.int64, size), codegen

    return view


int32_at, int64_at, float64_at = (_view_of(item) for item in (types.int32, types.int64, types.float64))
"""View of `size` numbers at an address; the owner keeps the buffer alive during the call."""


@intrinsic
def word_at(typing_context: Any, address: Any) -> Any:
    """The int64 at `address`, which need not be a multiple of eight."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.load(builder.inttoptr(arguments[0], ir.IntType(64).as_pointer()), align=1)

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


@intrinsic
def place_of(typing_context: Any, address: Any, number: Any) -> Any:
    """Place of `number` among the sixteen int32 at `address`; 16 for none. Nothing branches."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        many, whole, wide = ir.VectorType(ir.IntType(32), 16), ir.IntType(32), ir.IntType(64)
        held = builder.load(builder.inttoptr(arguments[0], many.as_pointer()), align=4)
        none = ir.Constant(many, ir.Undefined)
        first = builder.insert_element(none, builder.trunc(arguments[1], whole), whole(0))
        wanted = builder.shuffle_vector(first, none, ir.Constant(many, [0] * 16))
        equal = builder.bitcast(builder.icmp_signed("==", held, wanted), ir.IntType(16))
        return builder.cttz(builder.or_(builder.zext(equal, wide), wide(1 << 16)), ir.IntType(1)(1))

    return types.int64(types.int64, types.int64), codegen
