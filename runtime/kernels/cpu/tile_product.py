"""Products of a bfloat16 weight in rows on the processor's matrix tiles (AMX).

A tile of 16 weight rows of 32 entries is loaded as it lies in memory; the inputs, which are few, are laid in pairs as
tiles want them. So no weight is packed, and one input and thirty take the read of the weight alike. An output is summed
in the same order for any number of inputs. It is imported, and compiled, where the processor has tiles.
"""

from __future__ import annotations

import struct
from typing import Any

from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from runtime.kernels.cpu import vectors
from runtime.kernels.cpu.lanes import LINE
from runtime.kernels.cpu.threads import compiled, thread, threads
from runtime.kernels.cpu.vectors import I8, LANES, VECTOR, WORDS, number, place

__all__ = ["CONFIGURATION", "ROWS", "room_bytes", "share_of_tiles"]

ROWS = 32
"""What the number of weight rows is a multiple of: two tiles."""
ENTRIES = 32
"""What the number of a row's entries is a multiple of: those of a tile."""
TILE = 1024
"""Bytes of a tile: 16 rows of a line each."""
CONFIGURATION = struct.pack("<BB14x8H16x8B8x", 1, 0, *[LINE] * 8, *[TILE // LINE] * 8)
"""What the processor is told: eight whole tiles. Sums lie in the first four."""
WEIGHTS, INPUTS = 4, 6


def room_bytes(inputs: int, k: int) -> int:
    """Bytes that a thread writes its laid inputs and its sums to."""
    return -(-inputs // LANES) * (k // ENTRIES) * TILE + 4 * TILE


def _tile(builder: Any, name: str, tile: int, *args: Any) -> None:
    vectors.call(builder, f"llvm.x86.{name}", number(tile, I8), *args)


def _at(builder: Any, address: Any) -> Any:
    return builder.inttoptr(address, I8.as_pointer())


@intrinsic
def _configure(typing: Any, address: Any) -> Any:
    """Make this thread's tiles what the 64 bytes at an address say."""
    del typing

    def generate(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        vectors.call(builder, "llvm.x86.ldtilecfg", _at(builder, args[0]))
        return context.get_dummy_value()

    return types.void(types.int64), generate


@intrinsic
def _release(typing: Any) -> Any:
    """Leave this thread's tiles to others."""
    del typing

    def generate(context: Any, builder: Any, _signature: Any, _args: Any) -> Any:
        vectors.call(builder, "llvm.x86.tilerelease")
        return context.get_dummy_value()

    return types.void(), generate


@intrinsic
def _lay(typing: Any, x: Any, packed: Any, k: Any, inputs: Any) -> Any:
    """Write up to 16 inputs as tiles of pairs, k / ENTRIES of them; the last input stands in for those missing."""
    del typing
    signature = types.void(types.int64, types.int64, types.int64, types.int64)

    def generate(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        x, packed, k, inputs = args
        last = builder.sub(inputs, number(1))
        starts = list[Any]()
        for i in range(LANES):
            row = builder.select(builder.icmp_signed("<", number(i), last), number(i), last)
            starts.append(place(builder, x, (builder.mul(row, k), 2)))
        with cgutils.for_range(builder, builder.udiv(k, number(ENTRIES))) as loop:
            rows = [vectors.load(builder, place(builder, start, (loop.index, LINE)), WORDS) for start in starts]
            for pair, value in enumerate(vectors.transposed(builder, rows)):
                vectors.store(builder, value, place(builder, packed, (loop.index, TILE), (number(pair), LINE)), LINE)
        return context.get_dummy_value()

    return signature, generate


@intrinsic(prefer_literal=True)
def _multiply(typing: Any, weight: Any, packed: Any, sums: Any, k: Any, tiles: Any) -> Any:
    """Write the sums of 32 weight rows with one or two tiles of inputs: for each, two tiles of float32.

    The next block of weight rows is asked for meanwhile.
    """
    del typing
    many = tiles.literal_value
    signature = types.void(types.int64, types.int64, types.int64, types.int64, tiles)

    def generate(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        weight, packed, sums, k = args[:4]
        steps, stride, line = builder.udiv(k, number(ENTRIES)), builder.mul(k, number(2)), number(LINE)
        for total in range(2 * many):
            _tile(builder, "tilezero", total)
        with cgutils.for_range(builder, steps) as loop:
            asked = place(builder, weight, (k, 2 * ROWS), (loop.index, LINE * ROWS))
            for row in range(ROWS):
                vectors.prefetch(builder, place(builder, asked, (number(row), LINE)))
            for half in range(2):
                here = place(builder, weight, (k, half * ROWS), (loop.index, LINE))
                _tile(builder, "tileloadd64", WEIGHTS + half, _at(builder, here), stride)
            for i in range(many):
                here = place(builder, packed, (loop.index, TILE), (steps, i * TILE))
                _tile(builder, "tileloadd64", INPUTS + i, _at(builder, here), line)
                for half in range(2):
                    operands = [number(WEIGHTS + half, I8), number(INPUTS + i, I8)]
                    _tile(builder, "tdpbf16ps", 2 * i + half, *operands)
        for total in range(2 * many):
            here = place(builder, sums, (number(total), TILE))
            _tile(builder, "tilestored64", total, _at(builder, here), line)
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def _write(typing: Any, sums: Any, out: Any, n: Any, inputs: Any) -> Any:
    """Write a tile of sums, 16 weight rows by 16 inputs, as outputs of those inputs that there are; n apart."""
    del typing
    signature = types.void(types.int64, types.int64, types.int64, types.int64)

    def generate(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        sums, out, n, inputs = args
        rows = [vectors.load(builder, place(builder, sums, (number(row), LINE)), VECTOR, LINE) for row in range(LANES)]
        for i, value in enumerate(vectors.transposed(builder, rows)):
            with builder.if_then(builder.icmp_signed("<", number(i), inputs)):
                vectors.store(builder, vectors.rounded(builder, value), place(builder, out, (n, 2 * i)))
        return context.get_dummy_value()

    return signature, generate


@njit(nogil=True)
def _rows_by_inputs(weight, packed, sums, out, inputs, n, k):
    """32 weight rows with all inputs, 32 at once."""
    of_one = k // ENTRIES * TILE
    for i in range(0, inputs, 2 * LANES):
        left = inputs - i
        if left > LANES:
            _multiply(weight, packed + i // LANES * of_one, sums, k, 2)
        else:
            _multiply(weight, packed + i // LANES * of_one, sums, k, 1)
        for part in range(2 if left > LANES else 1):
            for half in range(2):
                to = out + ((i + part * LANES) * n + half * LANES) * 2
                _write(sums + (2 * part + half) * TILE, to, n, left - part * LANES)


@compiled
def share_of_tiles(task):
    """A thread's part of (weight, x, out, room, inputs, n, k, configuration); see `runtime.kernels.product`."""
    weight, x, out, room, inputs, n, k = task[0], task[1], task[2], task[3], task[4], task[5], task[6]
    own, all_ = thread(), threads()
    first, last = n // ROWS * own // all_ * ROWS, n // ROWS * (own + 1) // all_ * ROWS
    tiles, of_one = (inputs + LANES - 1) // LANES, k // ENTRIES * TILE
    packed = room + own * (tiles * of_one + 4 * TILE)
    for i in range(0, inputs, LANES):
        _lay(x + i * k * 2, packed + i // LANES * of_one, k, inputs - i)
    _configure(task[7])
    for row in range(first, last, ROWS):
        _rows_by_inputs(weight + row * k * 2, packed, packed + tiles * of_one, out + row * 2, inputs, n, k)
    _release()
