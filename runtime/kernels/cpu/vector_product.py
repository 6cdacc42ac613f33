"""Products of a weight in rows with a few inputs, in vectors: the weight is streamed from memory, ahead of its use.

A step of decoding is bound by the read of its weights. A product that computes between its reads waits twice, so each
row is asked for some kilobytes before it is needed. An output is summed in the same order for any number of inputs.
"""

from __future__ import annotations

from typing import Any

from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from runtime.kernels.cpu import vectors
from runtime.kernels.cpu.lanes import LINE
from runtime.kernels.cpu.threads import compiled, thread, threads
from runtime.kernels.cpu.vectors import BLOCK, GROUP, LANES, VECTOR, WORDS, number, place

__all__ = ["AHEAD", "STEP", "STRETCH", "share_of_vectors", "spread"]

STEP = {size: LINE // size for size in (4, 2)}
"""Entries of a row that are read in one step, a line of memory, by their bytes."""
STRETCH = 16
"""Weight rows that stay in the cache while every block of inputs passes over them."""
AHEAD = 9216
"""Bytes between what is read and what is asked for."""


@intrinsic(prefer_literal=True)
def _over(
    typing: Any, weight: Any, x: Any, out: Any, k: Any, n: Any, first: Any, last: Any, inputs: Any, size: Any
) -> Any:
    """Write the products of a stretch of weight rows with up to `BLOCK` inputs; n is the distance of outputs.

    Addresses are those of the weight, the first input and its first output; `size` is that of an entry, in bytes. Of
    bfloat16, inputs lie as `spread` lays them.
    """
    del typing
    entry = size.literal_value
    signature = types.void(*[types.int64] * 8, size)

    def generate(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        weight, x, out, k, n, first, last, inputs = args[:8]

        def block(row: Any, rows: int, many: int) -> None:
            start = place(builder, weight, (builder.mul(row, k), entry))

            def read(number_of: int, step: Any, part: int) -> Any:
                here = place(builder, start, (k, entry * number_of), (step, LINE))
                if part == 0:
                    vectors.prefetch(builder, builder.add(here, number(AHEAD)))
                words = part * entry // 4
                held = vectors.load(builder, place(builder, here, (number(words), 4 * LANES)), WORDS, entry)
                return builder.bitcast(held, VECTOR) if entry == 4 else vectors.split(builder, held)[part % 2]

            sums = vectors.products(builder, x, k, (rows, many), STEP[entry], read)
            for of_row, each in enumerate(sums):
                for i, value in enumerate(each):
                    kept = value if entry == 4 else vectors.rounded(builder, value)
                    here = place(builder, out, (row, entry), (n, entry * i), (number(of_row), entry))
                    vectors.store(builder, kept, here, entry)

        vectors.in_blocks(builder, first, last, inputs, block)
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def spread(typing: Any, bits: Any, room: Any, k: Any) -> Any:
    """Write k bfloat16 as float32: of every two vectors of them the even ones, then the odd ones."""
    del typing
    signature = types.void(types.int64, types.int64, types.int64)

    def generate(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        bits, room, k = args
        with cgutils.for_range(builder, builder.udiv(k, number(2 * LANES))) as loop:
            words = vectors.load(builder, place(builder, bits, (loop.index, 4 * LANES)), WORDS)
            for part, value in enumerate(vectors.split(builder, words)):
                here = place(builder, room, (loop.index, 8 * LANES), (number(part), 4 * LANES))
                vectors.store(builder, value, here, 4)
        return context.get_dummy_value()

    return signature, generate


@compiled
def share_of_vectors(task):
    """A thread's part of (weight, x, out, room, inputs, n, k, bytes of an entry); see `runtime.kernels.product`."""
    weight, x, out, room, inputs, n, k, entry = task[0], task[1], task[2], task[3], task[4], task[5], task[6], task[7]
    own, all_ = thread(), threads()
    first, last = n // GROUP * own // all_ * GROUP, n // GROUP * (own + 1) // all_ * GROUP
    read = x
    if entry == 2:
        read = room + own * inputs * k * 4
        for i in range(inputs):
            spread(x + i * k * 2, read + i * k * 4, k)
    for start in range(first, last, STRETCH):
        end = min(start + STRETCH, last)
        for i in range(0, inputs, BLOCK):
            many = min(BLOCK, inputs - i)
            if entry == 4:
                _over(weight, read + i * k * 4, out + i * n * 4, k, n, start, end, many, 4)
            else:
                _over(weight, read + i * k * 4, out + i * n * 2, k, n, start, end, many, 2)
