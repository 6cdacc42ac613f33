"""How far a draft's law is from the target's, row by row, with the gradient by the draft's logits, in three passes.

torch's operators go over a row of the vocabulary some ten times, and keep what each of them made for the way back.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import carray, njit

from runtime.kernels.cpu.lanes import larger, narrowed, same, widened
from runtime.kernels.cpu.powers import LOG2_E, LOW, exp2
from runtime.kernels.cpu.threads import compiled, thread, threads
from runtime.retrieval.bodies.memory import pointer

__all__ = ["share_of_divergences"]

KL, TV, HYBRID, NLA = range(4)
"""Objectives by number, in the order of `runtime.training.heads.objectives.OBJECTIVES`."""
LEAST = np.float32(1e-9)
FAST = {"nnan", "nsz", "reassoc"}


def _kind(value: Any, kept: Any) -> Any:
    """The row's loss for logits and laws of one type; the logits are replaced by the gradient."""

    @njit(nogil=True, fastmath=FAST)
    def highest(logits):
        found = value(logits[0])
        for i in range(logits.size):
            found = larger(found, value(logits[i]))
        return found

    @njit(nogil=True, fastmath=FAST)
    def weighed(logits, law, weights):
        """Weights of the draft, their mass, that of the law, and that of law times logit."""
        top = highest(logits)
        mass, whole, mixed = np.float32(0), np.float32(0), np.float32(0)
        for i in range(logits.size):
            distance, p = value(logits[i]) - top, value(law[i])
            weights[i] = exp2(distance, LOW, LOG2_E)
            mass += weights[i]
            whole += p
            mixed += p * distance
        return mass, whole, mixed

    @njit(nogil=True, fastmath=FAST)
    def shared(weights, law, scale):
        """Mass that both laws have, and of the draft's law where it is below the target's."""
        both, below = np.float32(0), np.float32(0)
        for i in range(weights.size):
            q, p = weights[i] * scale, value(law[i])
            both += min(p, q)
            below += q if q < p else np.float32(0)
        return both, below

    @njit(nogil=True, fastmath=FAST)
    def led_by_kl(weights, law, scale, each, kl, out):
        for i in range(weights.size):
            out[i] = kept(kl * (weights[i] * scale - value(law[i]) * each))

    @njit(nogil=True, fastmath=FAST)
    def led_by_both(weights, law, scale, each, kl, alpha, below, out):
        for i in range(weights.size):
            q, p = weights[i] * scale, value(law[i])
            mine = (np.float32(1) if q < p else np.float32(0)) - below
            out[i] = kept(kl * (q - p * each) + alpha * q * mine)

    @njit(nogil=True, error_model="numpy")
    def lost(logits, law, weight, objective, weights):
        mass, whole, mixed = weighed(logits, law, weights)
        scale, each = np.float32(1) / mass, np.float32(1) / max(whole, LEAST)
        divergence = (np.log(mass) * whole - mixed) * each
        if objective == KL:
            led_by_kl(weights, law, scale, each, weight, logits)
            return divergence * weight
        alpha, below = shared(weights, law, scale)
        if objective == TV:
            loss, by_kl, by_alpha = np.float32(1) - alpha, np.float32(0), np.float32(-1)
        elif objective == HYBRID:
            by_kl = np.exp(np.float32(-3) * alpha)
            by_alpha = by_kl - np.float32(1)
            loss = by_kl * divergence + (np.float32(1) - by_kl) * (np.float32(1) - alpha)
        else:
            near = max(alpha, LEAST)
            loss, by_kl = -np.log(near), np.float32(0)
            by_alpha = np.float32(-1) / near if alpha >= LEAST else np.float32(0)
        led_by_both(weights, law, scale, each, by_kl * weight, by_alpha * weight, below, logits)
        return loss * weight

    return lost


_lost32, _lost16 = _kind(same, same), _kind(widened, narrowed)


@compiled
def share_of_divergences(task):
    """Of (bytes of an entry, logits, laws, weights, losses, a row of float32 for each thread, rows, size, objective):
    logits, which are replaced by the gradient of the weighted loss, and losses, both of each row.
    """
    rows, size, objective = task[6], task[7], task[8]
    own, all_ = thread(), threads()
    counted, losses = carray(pointer(task[3]), (rows,), np.float32), carray(pointer(task[4]), (rows,), np.float32)
    weights = carray(pointer(task[5]), (all_, size), np.float32)[own]
    for row in range(rows * own // all_, rows * (own + 1) // all_):
        at = row * size * task[0]
        if task[0] == 4:
            logits32 = carray(pointer(task[1] + at), (size,), np.float32)
            law32 = carray(pointer(task[2] + at), (size,), np.float32)
            losses[row] = _lost32(logits32, law32, counted[row], objective, weights)
        else:
            logits16 = carray(pointer(task[1] + at), (size,), np.uint16)
            law16 = carray(pointer(task[2] + at), (size,), np.uint16)
            losses[row] = _lost16(logits16, law16, counted[row], objective, weights)
