"""LLVM's vectors in compiled code: loads and stores by address, bfloat16 by its bits, sums, transpositions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import binding, ir
from numba.core.cgutils import alloca_once_value, for_range, for_range_slice, get_or_insert_function

__all__ = [
    "BLOCK",
    "F32",
    "GROUP",
    "I8",
    "I16",
    "I64",
    "LANES",
    "SUMS",
    "VECTOR",
    "WORDS",
    "call",
    "filled",
    "in_blocks",
    "load",
    "number",
    "part_of",
    "partial_products",
    "place",
    "prefetch",
    "products",
    "rounded",
    "split",
    "store",
    "total",
    "totals",
    "transposed",
]

LANES = 16 if binding.get_host_cpu_features().get("avx512f") else 8
"""Numbers in a register of this processor."""
SUMS = LANES
"""Sums that stay in registers, half of which are there for them: 32 registers of 16 lanes, or 16 of 8."""
GROUP = 4
"""What the number of weight rows is a multiple of: so many are read side by side, or fewer with many inputs."""
BLOCK = SUMS // 2
"""Inputs that are multiplied at once, at most, with two weight rows at once."""
F32, I8, I16, I32, I64 = ir.FloatType(), ir.IntType(8), ir.IntType(16), ir.IntType(32), ir.IntType(64)
VECTOR, WORDS = ir.VectorType(F32, LANES), ir.VectorType(I32, LANES)


def number(value: float, kind: Any = I64) -> Any:
    """A constant; of a vector, in every lane."""
    return ir.Constant(kind, [value] * kind.count if isinstance(kind, ir.VectorType) else value)


def place(builder: Any, address: Any, *terms: tuple[Any, int]) -> Any:
    """Address plus each index times its bytes."""
    for index, size in terms:
        address = builder.add(address, builder.mul(index, number(size)))
    return address


def call(builder: Any, name: str, *args: Any, result: Any = ir.VoidType()) -> Any:  # noqa: B008
    """One of LLVM's own functions."""
    kind = ir.FunctionType(result, [each.type for each in args])
    return builder.call(get_or_insert_function(builder.module, kind, name), args)


def prefetch(builder: Any, address: Any) -> None:
    """Ask for a line of memory, into the second cache."""
    hints = [number(each, I32) for each in (0, 2, 1)]
    call(builder, "llvm.prefetch.p0", builder.inttoptr(address, I8.as_pointer()), *hints)


def load(builder: Any, address: Any, kind: Any, align: int = 2) -> Any:
    """What lies at an address."""
    return builder.load(builder.inttoptr(address, kind.as_pointer()), align=align)


def store(builder: Any, value: Any, address: Any, align: int = 2) -> None:
    """Write a value at an address."""
    builder.store(value, builder.inttoptr(address, value.type.as_pointer()), align=align)


def split(builder: Any, words: Any) -> list[Any]:
    """Of two bfloat16 a word, the even ones and the odd ones as float32."""
    even = builder.shl(words, number(16, WORDS))
    odd = builder.and_(words, number(0xFFFF0000, WORDS))
    return [builder.bitcast(even, VECTOR), builder.bitcast(odd, VECTOR)]


def filled(builder: Any, value: Any) -> Any:
    """A vector of one number."""
    first = builder.insert_element(ir.Constant(VECTOR, ir.Undefined), value, number(0, I32))
    return _shuffled(builder, first, first, [0] * LANES)


def rounded(builder: Any, value: Any) -> Any:
    """The bits of the nearest bfloat16, ties to even, of a scalar or vector; of what is no number, one that is none."""
    words, halves = (WORDS, ir.VectorType(I16, LANES)) if value.type == VECTOR else (I32, I16)
    bits, high = builder.bitcast(value, words), number(16, words)
    odd = builder.and_(builder.lshr(bits, high), number(1, words))
    near = builder.add(bits, builder.add(odd, number(0x7FFF, words)))
    none = builder.or_(bits, number(0x400000, words))
    chosen = builder.select(builder.fcmp_unordered("uno", value, value), none, near)
    return builder.trunc(builder.lshr(chosen, high), halves)


def in_blocks(
    builder: Any, first: Any, last: Any, inputs: Any, block: Callable[[Any, int, int], None], most: int = GROUP
) -> None:
    """Write a loop over weight rows for each number of inputs, and go through that of `inputs`, 1 to `BLOCK`.

    ``block(row, rows, inputs)`` writes what is done with some rows, `most` or less, from `row` on: so many sums fit in
    the registers.
    """
    for many in range(1, BLOCK + 1):
        rows = min(most, next(rows for rows in (GROUP, 2) if rows * many <= SUMS))
        with (
            builder.if_then(builder.icmp_signed("==", inputs, number(many))),
            for_range_slice(builder, first, last, number(rows)) as (row, _),
        ):
            block(row, rows, many)


def products(
    builder: Any, x: Any, k: Any, shape: tuple[int, int], entries: int, read: Callable[[int, Any, int], Any]
) -> list[list[Any]]:
    """Sums over k of some weight rows times some inputs, (rows, inputs) = `shape`, in the same order whatever it is.

    See `partial_products`.
    """
    sums = partial_products(builder, x, k, shape, entries, read)
    return [[total(builder, each) for each in row] for row in sums]


def partial_products(
    builder: Any, x: Any, k: Any, shape: tuple[int, int], entries: int, read: Callable[[int, Any, int], Any]
) -> list[list[Any]]:
    """The same before their lanes are summed.

    Parameters
    ----------
    x : address of float32 inputs, k apart
    entries : int
        Of a row, read in one step: a multiple of `LANES`.
    read : of a row's number, a step and a part of it
        That part's entries as a vector.
    """
    rows, inputs = shape
    zero = number(0.0, VECTOR)
    sums = [[alloca_once_value(builder, zero) for _ in range(inputs)] for _ in range(rows)]
    with for_range(builder, builder.udiv(k, number(entries))) as loop:
        for part in range(entries // LANES):
            values = [read(row, loop.index, part) for row in range(rows)]
            for i in range(inputs):
                here = place(builder, x, (k, 4 * i), (loop.index, 4 * entries), (number(part), 4 * LANES))
                value = load(builder, here, VECTOR, 4)
                for row in range(rows):
                    old = builder.load(sums[row][i])
                    new = call(builder, f"llvm.fma.v{LANES}f32", values[row], value, old, result=VECTOR)
                    builder.store(new, sums[row][i])
    return [[builder.load(each) for each in row] for row in sums]


def total(builder: Any, vector: Any) -> Any:
    """Sum of a vector's lanes, half upon half: the same order whatever stands around it."""
    lanes = LANES
    while lanes > 1:
        lanes //= 2
        halves = [part_of(builder, vector, first, lanes) for first in (0, lanes)]
        vector = builder.fadd(*halves)
    return builder.extract_element(vector, number(0, I32))


def totals(builder: Any, sums: Sequence[Any]) -> Any:
    """`total` of up to `LANES` vectors at once, in the lanes of one; the sums are the same."""
    none = ir.Constant(VECTOR, ir.Undefined)
    parts = [sums[lane] if lane < len(sums) else none for lane in map(_reversed, range(LANES))]
    half = LANES
    while half > 1:
        half //= 2
        apart = len(parts) // 2
        low = [j // half * 2 * half + j % half for j in range(LANES)]
        parts = [
            builder.fadd(*(_shuffled(builder, parts[i], parts[i + apart], [j + add for j in low]) for add in (0, half)))
            for i in range(apart)
        ]
    return parts[0]


def _reversed(lane: int) -> int:
    """The lane with its bits in reverse: where halves of pairs of vectors come to lie."""
    return int(f"{lane:0{LANES.bit_length() - 1}b}"[::-1], 2)


def part_of(builder: Any, vector: Any, first: int, lanes: int) -> Any:
    """Some neighbouring lanes of a vector."""
    return _shuffled(builder, vector, vector, range(first, first + lanes))


def transposed(builder: Any, vectors: Sequence[Any]) -> list[Any]:
    """Of `LANES` vectors the first lanes, the second lanes, and so on."""
    turned, apart = list(vectors), LANES // 2
    while apart:
        low = [j if not j & apart else LANES + j - apart for j in range(LANES)]
        high = [j + apart if not j & apart else LANES + j for j in range(LANES)]
        for i in (i for i in range(LANES) if not i & apart):
            a, b = turned[i], turned[i + apart]
            turned[i], turned[i + apart] = _shuffled(builder, a, b, low), _shuffled(builder, a, b, high)
        apart //= 2
    return turned


def _shuffled(builder: Any, a: Any, b: Any, lanes: Sequence[int]) -> Any:
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(I32, len(lanes)), list(lanes)))
