"""What each verification rule accepts and emits: exact where the vocabulary is small, numerical where it is real."""

from reader_theory.verification import (
    block,
    chain,
    gumbel,
    multi_round,
    target_only,
    transport,
    traversal,
    typical,
    without_replacement,
)

__all__ = [
    "block",
    "chain",
    "gumbel",
    "multi_round",
    "target_only",
    "transport",
    "traversal",
    "typical",
    "without_replacement",
]
