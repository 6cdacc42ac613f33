"""The staircases of a step: batch sizes that an engine captured in graphs, and tiles of a kernel.

A step pays for the next captured size; beyond the largest one it runs without a graph and pays for its own size.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["VLLM_SIZES", "padded_tokens"]

VLLM_SIZES: tuple[int, ...] = (1, 2, 4, *range(8, 256, 8), *range(256, 513, 16))
"""Numbers of tokens that vLLM captures by default."""


def padded_tokens(tokens: ArrayLike, sizes: tuple[int, ...] = VLLM_SIZES) -> NDArray[np.float64]:
    """Tokens that are computed when `tokens` are asked for: the next captured size, or `tokens` beyond the largest."""
    wanted, steps = np.asarray(tokens, dtype=np.float64), np.asarray(sizes, dtype=np.float64)
    if steps.size == 0:
        return wanted
    place = np.minimum(np.searchsorted(steps, wanted), len(steps) - 1)
    return np.where(wanted > steps[-1], wanted, steps[place])
