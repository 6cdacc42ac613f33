"""Attention of a few queries over a row cache: each query's sums run over the slots in order, one after the other.

A slot that a query does not see adds nothing, not even a rounding. So a query of a tree, alone or in any batch, is
given the bits that it would be given without the nodes that stand beside it, and without the width of the cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numba import carray, njit, types
from numba.core.cgutils import alloca_once_value, for_range, for_range_slice
from numba.extending import intrinsic

from runtime.kernels.cpu import vectors
from runtime.kernels.cpu.lanes import bits32, float32_of, same, widened
from runtime.kernels.cpu.powers import LOG2_E, LOW, exp2
from runtime.kernels.cpu.threads import compiled, thread, threads
from runtime.kernels.cpu.vector_product import spread
from runtime.kernels.cpu.vectors import BLOCK, GROUP, LANES, SUMS, VECTOR, WORDS, number, place
from runtime.retrieval.bodies.memory import pointer

__all__ = ["STEP", "room_bytes", "share_of_attention"]

STEP = 2 * LANES
"""What the entries of a head are a multiple of."""
UNITS = np.float32(2**30)
"""Of which a weight of 1 has so many, where weights are summed."""
HIDDEN = np.float32(-1e30)
"""A mask's entries below it hide a slot."""


def room_bytes(slots: int, size: int) -> int:
    """Bytes that a thread writes a block to: where its outputs lie, its queries, and their weights."""
    return BLOCK * (16 + 4 * (size + slots))


def _read(builder: Any, address: Any, entry: int) -> list[Any]:
    """`STEP` entries of a head as two vectors: of bfloat16 the even ones and the odd ones."""
    if entry == 2:
        return vectors.split(builder, vectors.load(builder, address, WORDS))
    return [vectors.load(builder, place(builder, address, (number(i), 4 * LANES)), VECTOR, 4) for i in (0, 1)]


def _write(builder: Any, pair: Sequence[Any], address: Any, entry: int) -> None:
    """Write `STEP` entries of a head, as `_read` reads them."""
    if entry == 4:
        for i, each in enumerate(pair):
            vectors.store(builder, each, place(builder, address, (number(i), 4 * LANES)), 4)
        return
    even, odd = (builder.zext(vectors.rounded(builder, each), WORDS) for each in pair)
    vectors.store(builder, builder.or_(even, builder.shl(odd, number(16, WORDS))), address)


@intrinsic(prefer_literal=True)
def _scores(
    typing: Any, q: Any, keys: Any, out: Any, size: Any, apart: Any, slots: Any, wide: Any, many: Any, entry: Any
) -> Any:
    """Write the products of up to `BLOCK` queries with the keys of some slots, `apart` bytes apart, `wide` a query."""
    del typing
    held = entry.literal_value
    signature = types.void(*[types.int64] * 8, entry)

    def generate(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        q, keys, out, size, apart, slots, wide, many = args[:8]

        def block(slot: Any, rows: int, queries: int) -> None:
            def read(row: int, step: Any, part: int) -> Any:
                at = builder.add(keys, builder.mul(builder.add(slot, number(row)), apart))
                return _read(builder, place(builder, at, (step, STEP * held)), held)[part]

            sums = vectors.partial_products(builder, q, size, (rows, queries), STEP, read)
            scores = vectors.totals(builder, [sums[row][query] for query in range(queries) for row in range(rows)])
            for query in range(queries):
                here = place(builder, out, (wide, 4 * query), (slot, 4))
                vectors.store(builder, vectors.part_of(builder, scores, query * rows, rows), here, 4)

        whole = builder.mul(builder.udiv(slots, number(GROUP)), number(GROUP))
        vectors.in_blocks(builder, number(0), whole, many, block)
        vectors.in_blocks(builder, whole, slots, many, block, most=1)
        return context.get_dummy_value()

    return signature, generate


@intrinsic(prefer_literal=True)
def _weighted(
    typing: Any,
    weights: Any,
    values: Any,
    told: Any,
    wide: Any,
    apart: Any,
    slots: Any,
    size: Any,
    many: Any,
    entry: Any,
) -> Any:
    """Write the mean of the values under each of up to `BLOCK` rows of weights.

    `told` holds the address of each row's, and behind them the inverse of what its weights come to.
    """
    del typing
    held = entry.literal_value
    signature = types.void(*[types.int64] * 8, entry)

    def generate(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        weights, values, told, wide, apart, slots, size, many = args[:8]

        def columns(first: Any, queries: int, pairs: int) -> None:
            zero = number(0.0, VECTOR)
            sums = [[alloca_once_value(builder, zero) for _ in range(2 * pairs)] for _ in range(queries)]
            with for_range(builder, slots) as loop:
                at = builder.add(values, builder.mul(loop.index, apart))
                read = [
                    each
                    for pair in range(pairs)
                    for each in _read(builder, place(builder, at, (first, held), (number(pair), STEP * held)), held)
                ]
                for query, row in enumerate(sums):
                    here = place(builder, weights, (wide, 4 * query), (loop.index, 4))
                    weight = vectors.filled(builder, vectors.load(builder, here, vectors.F32, 4))
                    for each, value in zip(row, read, strict=True):
                        old = builder.load(each)
                        new = vectors.call(builder, f"llvm.fma.v{LANES}f32", weight, value, old, result=VECTOR)
                        builder.store(new, each)
            for query, row in enumerate(sums):
                own = place(builder, told, (number(query), 8))
                inverse = vectors.load(builder, place(builder, own, (number(BLOCK), 8)), vectors.F32, 8)
                inverse = vectors.filled(builder, inverse)
                means = [builder.fmul(builder.load(each), inverse) for each in row]
                base = vectors.load(builder, own, vectors.I64, 8)
                for pair in range(pairs):
                    here = place(builder, base, (first, held), (number(pair), STEP * held))
                    _write(builder, means[2 * pair : 2 * pair + 2], here, held)

        for queries in range(1, BLOCK + 1):
            with builder.if_then(builder.icmp_signed("==", many, number(queries))):
                pairs = 2 if 4 * queries <= SUMS else 1
                whole = builder.mul(builder.udiv(size, number(pairs * STEP)), number(pairs * STEP))
                with for_range_slice(builder, number(0), whole, number(pairs * STEP)) as (first, _):
                    columns(first, queries, pairs)
                if pairs > 1:
                    with for_range_slice(builder, whole, size, number(STEP)) as (first, _):
                        columns(first, queries, 1)
        return context.get_dummy_value()

    return signature, generate


@njit(inline="always")
def _ordered(bits):
    """Integers in the order of the floats with these bits, and back."""
    return np.int32(bits ^ ((bits >> np.int32(31)) & np.int32(0x7FFFFFFF)))


@njit(nogil=True)
def copied(x, out, size):
    """Write `size` float32."""
    held, kept = carray(pointer(x), (size,), np.float32), carray(pointer(out), (size,), np.float32)
    for i in range(size):
        kept[i] = held[i]


def _kinds(entry: int, value: Any, laid: Any) -> Any:
    """The whole for one type: bytes of an entry, an entry's value, and how a query is laid for `_scores`."""
    kind = np.float32 if entry == 4 else np.uint16

    @njit(nogil=True)
    def weigh(scores, mask, masked, scale):
        """Scores into weights; the inverse of their sum, which is one of integers: in any order the same."""
        top = np.int32(-(2**31) + 1)
        for slot in range(scores.size):
            score = scores[slot] * scale
            if masked:
                score += value(mask[slot])
            scores[slot] = score
            top = np.int32(max(top, _ordered(bits32(score))))
        largest, mass = float32_of(_ordered(top)), np.int64(0)
        for slot in range(scores.size):
            distance = scores[slot] - largest
            weight = exp2(distance, LOW, LOG2_E) + (distance - distance)  # what is no number stays none
            scores[slot] = np.float32(0) if distance <= LOW else weight
            mass += np.int64(np.int32(scores[slot] * UNITS))
        return UNITS / np.float32(mass)

    @njit(nogil=True)
    def seen(mask):
        slots = mask.size
        while slots > 1 and value(mask[slots - 1]) < HIDDEN:
            slots -= 1
        return slots

    @njit(nogil=True)
    def attend(task, scale):
        q, keys, values, mask, out, room = task[1], task[2], task[3], task[4], task[5], task[6]
        batch, kv_heads, group, queries, size, slots = task[7], task[8], task[9], task[10], task[11], task[12]
        of_row, firsts = queries * group, carray(pointer(task[24]), (batch + 1,), np.int64)
        own, all_ = thread(), threads()
        unit, last = batch * kv_heads * of_row * own // all_, batch * kv_heads * of_row * (own + 1) // all_
        room += own * BLOCK * (16 + 4 * (size + slots))
        places = carray(pointer(room), (BLOCK,), np.int64)
        inverses = carray(pointer(room + 8 * BLOCK), (2 * BLOCK,), np.float32)
        laid_at, scores_at = room + 16 * BLOCK, room + 16 * BLOCK + 4 * BLOCK * size
        while unit < last:
            row, head, inside = unit // (kv_heads * of_row), unit // of_row % kv_heads, unit % of_row
            first, left = row * queries, of_row - inside
            if task[24]:
                first, left = firsts[row], (firsts[row + 1] - firsts[row]) * group - inside
            if left <= 0:
                unit += of_row - inside
                continue
            many, read = min(BLOCK, last - unit, left), slots
            masks = mask + row * task[21]
            if mask:
                read = 1
            for i in range(many):
                query, at = (inside + i) // group, head * group + (inside + i) % group
                token = first + query
                laid(q + token * task[13] + at * task[14], laid_at + 4 * i * size, size)
                places[i] = out + (token * kv_heads * group + at) * size * entry
                if mask:
                    read = max(read, seen(carray(pointer(masks + query * task[22]), (slots,), kind)))
            _scores(
                laid_at, keys + row * task[15] + head * task[16], scores_at, size, task[17], read, slots, many, entry
            )
            for i in range(many):
                scores = carray(pointer(scores_at + 4 * i * slots), (read,), np.float32)
                told = carray(pointer(masks + (inside + i) // group * task[22]), (slots,), kind)
                inverses[2 * i] = weigh(scores, told, mask != 0, scale)
            at = values + row * task[18] + head * task[19]
            _weighted(scores_at, at, room, slots, task[20], read, size, many, entry)
            unit += many

    return attend


_attend32 = _kinds(4, same, copied)
_attend16 = _kinds(2, widened, spread)


@compiled
def share_of_attention(task):
    """A thread's part of (bytes of an entry, q, keys, values, mask or 0, out, room, rows, kv heads, query heads of
    each, queries, entries of a head, slots, and bytes from one to the next: tokens and heads of q; rows, heads and
    slots of keys, and of values; rows and queries of the mask; bits of the scale; address of each row's first token in
    q and of where the last row ends, or 0 where all rows have as many queries).
    """
    scale = float32_of(np.int32(task[23]))
    if task[0] == 4:
        _attend32(task, scale)
    else:
        _attend16(task, scale)
