"""Products of weights of 8 or 4 bits in rows with a few inputs, as those of `vector_product` are.

Codes become float32 in the registers: an 8-bit code times a scale of its row at the end, a 4-bit code times that of its
32 at once, which is exact. In 16 bytes of 4-bit codes the low halves are the first 16 entries, the high ones the rest.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from runtime.kernels.cpu import vectors
from runtime.kernels.cpu.threads import compiled, thread, threads
from runtime.kernels.cpu.vector_product import AHEAD, STRETCH
from runtime.kernels.cpu.vectors import BLOCK, GROUP, I8, I16, LANES, VECTOR, WORDS, number, place

__all__ = ["share_of_codes", "share_of_values"]

ENTRIES = 32
"""What the number of a row's entries is a multiple of: of 4 bits, so many share a scale."""
PARTS = ENTRIES // LANES
BYTES, HALVES = ir.VectorType(I8, LANES), ir.VectorType(I16, LANES)


def _codes(builder: Any, address: Any, bits: int, part: int) -> Any:
    """A part of `ENTRIES` codes as a vector of float32."""
    high, of_half = divmod(part, PARTS // 2)
    at = part if bits == 8 else of_half
    words = builder.sext(vectors.load(builder, place(builder, address, (number(at), LANES)), BYTES, 1), WORDS)
    if bits == 4:
        raised = words if high else builder.shl(words, number(28, WORDS))
        words = builder.ashr(raised, number(4 if high else 28, WORDS))
    return builder.sitofp(words, VECTOR)


def _scale(builder: Any, scales: Any, index: Any) -> Any:
    """A scale in every lane."""
    value = vectors.load(builder, place(builder, scales, (index, 4)), VECTOR.element, 4)
    one = builder.insert_element(number(0.0, VECTOR), value, number(0, WORDS.element))
    return builder.shuffle_vector(one, one, number(0, WORDS))


@intrinsic(prefer_literal=True)
def _over(
    typing: Any, weight: Any, scales: Any, x: Any, out: Any, k: Any, n: Any, first: Any, last: Any, inputs: Any,
    bits: Any,
) -> Any:  # fmt: skip
    """Write the bfloat16 products of a stretch of weight rows with up to `BLOCK` inputs, (k,) float32 each.

    Addresses are those of the weight, its scales, the first input and its first output; n is the distance of outputs.
    """
    del typing
    size = bits.literal_value
    signature = types.void(*[types.int64] * 9, bits)

    def generate(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        weight, scales, x, out, k, n, first, last, inputs = args[:9]
        row_bytes = builder.udiv(builder.mul(k, number(size)), number(8))
        of_row = number(1) if size == 8 else builder.udiv(k, number(ENTRIES))

        def block(row: Any, rows: int, many: int) -> None:
            start = place(builder, weight, (builder.mul(row, row_bytes), 1))

            def scale_at(number_of: int, step: Any) -> Any:
                return builder.add(builder.mul(builder.add(row, number(number_of)), of_row), step)

            def read(number_of: int, step: Any, part: int) -> Any:
                here = place(builder, start, (row_bytes, number_of), (step, ENTRIES * size // 8))
                if part == 0:
                    vectors.prefetch(builder, builder.add(here, number(AHEAD)))
                values = _codes(builder, here, size, part)
                if size == 8:
                    return values
                return builder.fmul(values, _scale(builder, scales, scale_at(number_of, step)))

            sums = vectors.products(builder, x, k, (rows, many), ENTRIES, read)
            for number_of, each in enumerate(sums):
                place_of = place(builder, scales, (scale_at(number_of, number(0)), 4))
                scale = vectors.load(builder, place_of, VECTOR.element, 4) if size == 8 else None
                for i, value in enumerate(each):
                    kept = value if scale is None else builder.fmul(value, scale)
                    here = place(builder, out, (row, 2), (n, 2 * i), (number(number_of), 2))
                    vectors.store(builder, vectors.rounded(builder, kept), here)

        vectors.in_blocks(builder, first, last, inputs, block)
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def _widen(typing: Any, bits: Any, room: Any, k: Any) -> Any:
    """Write k bfloat16 as float32."""
    del typing
    signature = types.void(types.int64, types.int64, types.int64)

    def generate(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        bits, room, k = args
        with cgutils.for_range(builder, builder.udiv(k, number(LANES))) as loop:
            halves = vectors.load(builder, place(builder, bits, (loop.index, 2 * LANES)), HALVES)
            words = builder.shl(builder.zext(halves, WORDS), number(16, WORDS))
            vectors.store(builder, builder.bitcast(words, VECTOR), place(builder, room, (loop.index, 4 * LANES)), 4)
        return context.get_dummy_value()

    return signature, generate


@intrinsic(prefer_literal=True)
def _values(typing: Any, weight: Any, scales: Any, out: Any, k: Any, bits: Any) -> Any:
    """Write the k codes of a row as bfloat16, those of 4 bits times their scales."""
    del typing
    size = bits.literal_value
    signature = types.void(types.int64, types.int64, types.int64, types.int64, bits)

    def generate(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        weight, scales, out, k = args[:4]
        with cgutils.for_range(builder, builder.udiv(k, number(ENTRIES))) as loop:
            held = place(builder, weight, (loop.index, ENTRIES * size // 8))
            for part in range(PARTS):
                value = _codes(builder, held, size, part)
                if size == 4:
                    value = builder.fmul(value, _scale(builder, scales, loop.index))
                here = place(builder, out, (loop.index, 2 * ENTRIES), (number(part), 2 * LANES))
                vectors.store(builder, vectors.rounded(builder, value), here)
        return context.get_dummy_value()

    return signature, generate


@njit(inline="always")
def _stretch(n):
    own, all_ = thread(), threads()
    return n // GROUP * own // all_ * GROUP, n // GROUP * (own + 1) // all_ * GROUP


@compiled
def share_of_codes(task):
    """A thread's part of (weight, scales, x, out, room, inputs, n, k, bits); see `runtime.kernels.product`."""
    weight, scales, x, out, room = task[0], task[1], task[2], task[3], task[4]
    inputs, n, k, bits = task[5], task[6], task[7], task[8]
    first, last = _stretch(n)
    read = room + thread() * inputs * k * 4
    for i in range(inputs):
        _widen(x + i * k * 2, read + i * k * 4, k)
    for start in range(first, last, STRETCH):
        end = min(start + STRETCH, last)
        for i in range(0, inputs, BLOCK):
            y, z, many = read + i * k * 4, out + i * n * 2, min(BLOCK, inputs - i)
            if bits == 8:
                _over(weight, scales, y, z, k, n, start, end, many, 8)
            else:
                _over(weight, scales, y, z, k, n, start, end, many, 4)


@compiled
def share_of_values(task):
    """A thread's part of (weight, scales, out, n, k, bits): codes as bfloat16, those of 4 bits times their scales."""
    weight, scales, out, n, k, bits = task[0], task[1], task[2], task[3], task[4], task[5]
    first, last = _stretch(n)
    for row in range(first, last):
        if bits == 8:
            _values(weight + row * k, scales, out + row * k * 2, k, 8)
        else:
            _values(weight + row * k // 2, scales + row * (k // ENTRIES) * 4, out + row * k * 2, k, 4)
