"""Products of a weight in rows with a few inputs, in vectors: the weight is streamed from memory, ahead of its use.

A step of decoding is bound by the read of its weights. A product that computes between its reads waits twice, so each
row is asked for some kilobytes before it is needed. An output is summed in the same order for any number of inputs.
"""

from __future__ import annotations

from typing import Any

from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from runtime.kernels.cpu import vectors
from runtime.kernels.cpu.threads import compiled, thread, threads
from runtime.kernels.cpu.vectors import LANES, VECTOR, WORDS, number, place

__all__ = ["AHEAD", "BLOCK", "GROUP", "STEP", "STRETCH", "share_of_vectors"]

GROUP = 4
"""What the number of weight rows is a multiple of: so many are read side by side."""
STEP = {4: LANES, 2: 2 * LANES}
"""Entries of a row that are read at once, by their bytes."""
BLOCK = 8
"""Inputs that are multiplied at once, at most."""
STRETCH = 16
"""Weight rows that stay in the cache while every block of inputs passes over them."""
AHEAD = 9216
"""Bytes between what is read and what is asked for."""


@intrinsic(prefer_literal=True)
def _block(typing: Any, weight: Any, x: Any, out: Any, k: Any, n: Any, rows: Any, inputs: Any, size: Any) -> Any:
    """Write the products of some weight rows with some inputs; n is the distance of an input's outputs.

    Addresses are those of the first weight row, input and output; of bfloat16, inputs lie as `_spread` lays them.
    """
    del typing
    count, many, entry = rows.literal_value, inputs.literal_value, size.literal_value
    signature = types.void(types.int64, types.int64, types.int64, types.int64, types.int64, rows, inputs, size)

    def generate(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        weight, x, out, k, n = args[:5]
        zero = number(0.0, VECTOR)
        sums = [[cgutils.alloca_once_value(builder, zero) for _ in range(many)] for _ in range(count)]
        steps = builder.udiv(k, number(STEP[entry]))
        with cgutils.for_range(builder, steps) as loop:
            read = list[list[Any]]()
            for row in range(count):
                here = place(builder, weight, (k, entry * row), (loop.index, STEP[entry] * entry))
                vectors.prefetch(builder, builder.add(here, number(AHEAD)))
                words = vectors.load(builder, here, WORDS, entry)
                read.append([builder.bitcast(words, VECTOR)] if entry == 4 else vectors.split(builder, words))
            for i in range(many):
                for part in range(STEP[entry] // LANES):
                    here = place(builder, x, (k, 4 * i), (loop.index, STEP[entry] * 4), (number(part), LANES * 4))
                    value = vectors.load(builder, here, VECTOR, 4)
                    for row in range(count):
                        old = builder.load(sums[row][i])
                        new = vectors.call(builder, "llvm.fma.v16f32", read[row][part], value, old, result=VECTOR)
                        builder.store(new, sums[row][i])
        for i in range(many):
            for row in range(count):
                value = vectors.total(builder, builder.load(sums[row][i]))
                value = value if entry == 4 else vectors.rounded(builder, value)
                vectors.store(builder, value, place(builder, out, (n, entry * i), (number(row), entry)), entry)
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def _spread(typing: Any, bits: Any, room: Any, k: Any) -> Any:
    """Write k bfloat16 as float32: of every 32 the even ones, then the odd ones."""
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


def _pass_of(entry: int) -> Any:
    """One block of inputs over a stretch of weight rows, whose entries have so many bytes."""

    @njit(nogil=True)
    def over(weight, x, out, k, n, first, last, inputs):
        for row in range(first, last, 4 if inputs <= 4 else 2):
            w, y = weight + row * k * entry, out + row * entry
            if inputs == 1:
                _block(w, x, y, k, n, 4, 1, entry)
            elif inputs == 2:
                _block(w, x, y, k, n, 4, 2, entry)
            elif inputs == 3:
                _block(w, x, y, k, n, 4, 3, entry)
            elif inputs == 4:
                _block(w, x, y, k, n, 4, 4, entry)
            elif inputs == 5:
                _block(w, x, y, k, n, 2, 5, entry)
            elif inputs == 6:
                _block(w, x, y, k, n, 2, 6, entry)
            elif inputs == 7:
                _block(w, x, y, k, n, 2, 7, entry)
            else:
                _block(w, x, y, k, n, 2, 8, entry)

    return over


_over_float32, _over_bfloat16 = _pass_of(4), _pass_of(2)


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
            _spread(x + i * k * 2, read + i * k * 4, k)
    for start in range(first, last, STRETCH):
        end = min(start + STRETCH, last)
        for i in range(0, inputs, BLOCK):
            many = min(BLOCK, inputs - i)
            if entry == 4:
                _over_float32(weight, read + i * k * 4, out + i * n * 4, k, n, start, end, many)
            else:
                _over_bfloat16(weight, read + i * k * 4, out + i * n * 2, k, n, start, end, many)
