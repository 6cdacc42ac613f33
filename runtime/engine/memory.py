"""Memory as an engine meets it: how many token slots a budget in bytes buys, and what running out looks like."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from reader_theory.errors import require
from reader_theory.memory import token_capacity
from runtime.cache.rows import RowCache
from runtime.models.base import LanguageModel
from runtime.models.inputs import prefill

__all__ = ["is_out_of_memory", "slots_within"]


def slots_within(kv_bytes: int, models: Sequence[tuple[LanguageModel, RowCache]]) -> int:
    """Token slots that `kv_bytes` hold when each model keeps its own keys and values of every token."""
    each = 0
    for model, cache in models:
        if not cache.kv_bytes_per_token():
            prefill(model, cache, np.zeros(1, dtype=np.int64), 0)
            cache.lengths[0] = 0
        each += cache.kv_bytes_per_token()
    require(
        kv_bytes >= 2 * each,
        "`kv_bytes` must hold the keys and values of at least two tokens",
        got=f"{kv_bytes} bytes where a token takes {each}",
        fix="Give what is left of the device's memory after weights and activations.",
    )
    return token_capacity(kv_bytes, each, page_tokens=1)


def is_out_of_memory(error: Exception) -> bool:
    """Whether `error` says that an allocation failed, on the host or on a device."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and "allocate memory" in str(error)
    )
