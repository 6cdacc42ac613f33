"""Keys and values: bytes a token of a target with its drafters, quantised or not, and how many tokens fit.

Prefer `token_capacity` with the engine's own page size: engines hand out whole pages.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from reader_theory.cost.model import ModelShape
from reader_theory.errors import require

__all__ = ["kv_bits", "kv_bytes_per_token", "token_capacity"]


def kv_bits(bits: float, *, group: int | None = None, scale_bits: int = 16, zero_points: bool = False) -> float:
    """Bits an element with the overhead of quantisation: `scale_bits`, twice with zero points, for each `group`.

    Parameters
    ----------
    bits : float
        Bits of the stored element.
    group : int, optional
        Elements that share a scale; None for a scale a tensor, whose share is nothing.
    """
    require(
        0 < bits <= 32 and (group is None or group >= 1),
        "`bits` must be in (0, 32] and `group` at least 1",
        got=(bits, group),
        fix="Give the bits of one stored element.",
    )
    return bits + (0.0 if group is None else scale_bits * (2 if zero_points else 1) / group)


def kv_bytes_per_token(
    target: ModelShape, drafters: Iterable[ModelShape] = (), *, bits: float = 16.0, tensor_parallel: int = 1
) -> float:
    """Bytes of keys and values that one token takes in the target and in every drafter that keeps its own cache."""
    return sum(shape.kv_bytes_per_token(bits=bits, tensor_parallel=tensor_parallel) for shape in (target, *drafters))


def token_capacity(free_bytes: float, bytes_per_token: float, page_tokens: int = 16) -> int:
    """Tokens that fit in `free_bytes` in whole pages."""
    require(
        free_bytes >= 0 and bytes_per_token > 0 and page_tokens >= 1,
        "`free_bytes` must be >= 0, `bytes_per_token` > 0 and `page_tokens` >= 1",
        got=(free_bytes, bytes_per_token, page_tokens),
        fix="Subtract the weights and the activations from the memory that the engine may use.",
    )
    return math.floor(free_bytes / (bytes_per_token * page_tokens)) * page_tokens
