"""What fits: keys and values by layout, rearrangement, scratch of speculation, the largest batch, a GiB's price."""

from reader_theory.memory.budget import MemoryBudget, largest_batch, memory_budget
from reader_theory.memory.kv import kv_bits, kv_bytes_per_token, token_capacity
from reader_theory.memory.layout import Layout, reserved_tokens
from reader_theory.memory.quantised import KVFormat, Window, rows_admitted
from reader_theory.memory.rearrangement import (
    best_period,
    per_row_overhead,
    rectangular_bytes_per_step,
)
from reader_theory.memory.scratch import activation_bytes, logit_bytes

__all__ = [
    "KVFormat",
    "Layout",
    "MemoryBudget",
    "Window",
    "activation_bytes",
    "best_period",
    "kv_bits",
    "kv_bytes_per_token",
    "largest_batch",
    "logit_bytes",
    "memory_budget",
    "per_row_overhead",
    "rectangular_bytes_per_step",
    "reserved_tokens",
    "rows_admitted",
    "token_capacity",
]
