"""What fits: keys and values by layout, rearrangement, scratch of speculation, the largest batch, a GiB's price."""

from reader_theory.memory.budget import MemoryBudget, largest_batch, memory_budget, shadow_price_per_gib
from reader_theory.memory.kv import kv_bits, kv_bytes_per_token, token_capacity
from reader_theory.memory.layout import Layout, reserved_tokens
from reader_theory.memory.rearrangement import (
    best_period,
    per_row_overhead,
    rectangular_bytes_per_step,
    rectangular_overhead,
)
from reader_theory.memory.scratch import activation_bytes, draft_pool_tokens, logit_bytes, mask_bytes, tree_kv_bytes

__all__ = [
    "Layout",
    "MemoryBudget",
    "activation_bytes",
    "best_period",
    "draft_pool_tokens",
    "kv_bits",
    "kv_bytes_per_token",
    "largest_batch",
    "logit_bytes",
    "mask_bytes",
    "memory_budget",
    "per_row_overhead",
    "rectangular_bytes_per_step",
    "rectangular_overhead",
    "reserved_tokens",
    "shadow_price_per_gib",
    "token_capacity",
    "tree_kv_bytes",
]
