"""GPU twin: all layers, rows and heads in one launch, then the lengths."""

from __future__ import annotations

from typing import Any

from runtime.kernels.gpu import _launch

__all__ = ["commit"]


def commit(table: Any, shape: tuple[int, int, int, int], first_row: int, lengths: Any, path: Any, kept: Any) -> None:
    """As the door says; `shape` is rows, heads, slots and bytes of an entry."""
    rows, heads, slots, entry_bytes = shape
    word = 16 if entry_bytes % 16 == 0 else 4
    words = entry_bytes // word
    parts = -(-heads * words // _launch.THREADS)
    arguments = (table, rows, heads, slots, words, first_row, lengths, path, kept, path.shape[1])
    _launch.launch("commit", f"commit_{word}", (len(table), len(kept), parts), arguments)
    lengths.add_(kept)
