"""CPU twins of rejection, multi-round and without replacement, with NumPy's own order of summation.

What is accepted equals the NumPy rules bit by bit: sums are taken pairwise over blocks as `numpy.sum` takes them. What
a last rejection leaves is picked from without being written.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from runtime.kernels.cpu.lanes import borrowed, larger
from runtime.kernels.cpu.powers import total_of
from runtime.kernels.cpu.softmax import BLOCK, block_at, picked
from runtime.kernels.cpu.verify import finish, is_tree

__all__ = ["verify_rejection", "verify_without_replacement"]


@njit(cache=True, nogil=True)
def pairwise_sum(a):
    """``numpy.sum`` of a contiguous row, bit by bit."""
    n = a.size
    if n < 8:
        total = -0.0
        for i in range(n):
            total += a[i]
        return total
    if n <= 128:
        r0, r1, r2, r3, r4, r5, r6, r7 = a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7]
        whole = n - n % 8
        for i in range(8, whole, 8):
            r0 += a[i]
            r1 += a[i + 1]
            r2 += a[i + 2]
            r3 += a[i + 3]
            r4 += a[i + 4]
            r5 += a[i + 5]
            r6 += a[i + 6]
            r7 += a[i + 7]
        total = ((r0 + r1) + (r2 + r3)) + ((r4 + r5) + (r6 + r7))
        for i in range(whole, n):
            total += a[i]
        return total
    half = n // 2
    half -= half % 8
    return pairwise_sum(a[:half]) + pairwise_sum(a[half:])


@njit(cache=True, nogil=True)
def residual_into(target, draft, out):
    """The positive part of target - draft, normalised, into `out`; the target itself where nothing is left."""
    if not surplus(target, draft) > 0:
        out[:] = target
        return
    surplus_into(target, draft, out)
    mass = pairwise_sum(out)
    for i in range(out.size):
        out[i] /= mass


@njit(cache=True, nogil=True)
def without_token_into(draft, token, out):
    """The draft's law once `token` was drawn and may not come again; zeros when nothing is left."""
    out[:] = draft
    out[token] = 0.0
    mass = pairwise_sum(out)
    if mass > 0:
        for i in range(out.size):
            out[i] /= mass


@njit(cache=True, nogil=True)
def surplus_into(target, draft, out):
    """The positive part of target - draft."""
    for i in range(out.size):
        out[i] = larger(target[i] - draft[i], 0.0)


@njit(cache=True, nogil=True, fastmath={"nnan", "nsz", "reassoc"})
def surplus(target, draft):
    """Sum of the positive part of target - draft."""
    total = 0.0
    for i in range(target.size):
        total += larger(target[i] - draft[i], 0.0)
    return total


@njit(cache=True, nogil=True)
def pick(law, uniform, parts):
    """Token whose cumulative weight first exceeds ``uniform * total``; never one of weight 0.

    Sums of blocks (into `parts`) find the block, which is then walked: where a uniform lies within rounding of a
    boundary (1e-15), the token may be the neighbour of the one that a plain running sum gives.
    """
    total = 0.0
    for k in range(parts.size):
        parts[k] = total_of(law[k * BLOCK : (k + 1) * BLOCK])
        total += parts[k]
    k, running = block_at(parts, uniform * total)
    return k * BLOCK + picked(law[k * BLOCK : (k + 1) * BLOCK], running, uniform * total)


@njit(cache=True, nogil=True)
def pick_surplus(target, draft, uniform, parts, room):
    """`pick` from what a rejection leaves, which is summed but not written; from the target where nothing is left."""
    total = 0.0
    for k in range(parts.size):
        parts[k] = surplus(target[k * BLOCK : (k + 1) * BLOCK], draft[k * BLOCK : (k + 1) * BLOCK])
        total += parts[k]
    if not total > 0:
        return pick(target, uniform, parts)
    k, running = block_at(parts, uniform * total)
    weights = room[: min(BLOCK, target.size - k * BLOCK)]
    surplus_into(target[k * BLOCK : (k + 1) * BLOCK], draft[k * BLOCK : (k + 1) * BLOCK], weights)
    return k * BLOCK + picked(weights, running, uniform * total)


@njit(cache=True, nogil=True)
def descend(
    target, draft, tokens, parents, counts, acceptance, recovery, scratch, path, kept, emitted, parts, room, distinct
):
    """-1, or the first row that is no tree; what a rejection leaves is written only if another child follows."""
    target, draft, tokens, parents = borrowed(target), borrowed(draft), borrowed(tokens), borrowed(parents)
    scratch, path, emitted, parts, room = (
        borrowed(scratch), borrowed(path), borrowed(emitted), borrowed(parts), borrowed(room)
    )  # fmt: skip
    for b in range(counts.size):
        count = counts[b]
        if not is_tree(tokens[b], parents[b], count):
            return b
        node, length, walking = 0, 0, True
        while walking:
            path[b, length] = node
            length += 1
            walking = False
            left, law, tried = target[b, node], draft[b, node], -1
            for child in range(node + 1, count):
                if parents[b, child] != node:
                    continue
                token = tokens[b, child]
                if token < 0 or token >= law.size:
                    return b
                if tried >= 0:
                    residual_into(left, law, scratch[b, 0])
                    left = scratch[b, 0]
                    if distinct:
                        without_token_into(law, tried, scratch[b, 1])
                        law = scratch[b, 1]
                tried = token
                if acceptance[b, child] * law[token] < left[token]:
                    emitted[b, length - 1] = token
                    node, walking = child, True
                    break
            if walking:
                continue
            if tried >= 0:
                token = pick_surplus(left, law, recovery[b, node], parts, room)
            else:
                token = pick(left, recovery[b, node], parts)
            finish(path[b], kept[b : b + 1], emitted[b], length, token)
    return -1


@njit(cache=True, nogil=True)
def _reject(target, draft, tokens, parents, counts, acceptance, recovery, scratch, path, kept, emitted, distinct):
    parts, room = np.empty(-(-target.shape[2] // BLOCK)), np.empty(BLOCK)
    return descend(
        target, draft, tokens, parents, counts, acceptance, recovery, scratch, path, kept, emitted, parts, room,
        distinct,
    )  # fmt: skip


@njit(cache=True, nogil=True)
def verify_rejection(target, draft, tokens, parents, counts, acceptance, recovery, scratch, path, kept, emitted):
    """-1, or the first row that is no tree."""
    return _reject(
        target, draft, tokens, parents, counts, acceptance, recovery, scratch, path, kept, emitted, False
    )  # fmt: skip


@njit(cache=True, nogil=True)
def verify_without_replacement(
    target, draft, tokens, parents, counts, acceptance, recovery, scratch, path, kept, emitted
):
    """-1, or the first row that is no tree."""
    return _reject(
        target, draft, tokens, parents, counts, acceptance, recovery, scratch, path, kept, emitted, True
    )  # fmt: skip
