"""Bytes that a batch's cache moves a step: rows of their own length against a rectangle that is rearranged.

Both caches hold the same synthetic requests: every step writes a tree of `columns` nodes a row and keeps a random path
of it. A row cache moves accepted entries only. A rectangle reads its holes at every step and gathers itself together at
the best period. Bytes are counted from the entries that were really copied or read for nothing, and seconds are those
of the copies; the formulas are those of `reader_theory.memory.rearrangement`.

    python -m proofs_tests.benchmarks.cache
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
import torch

from proofs_tests.benchmarks._report import write_report
from proofs_tests.benchmarks.rectangle import RectangularCache
from reader_theory.memory import best_period, per_row_overhead, rectangular_bytes_per_step
from runtime.cache.rows import RowCache

BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)


def measured(
    batch: int,
    *,
    context: int = 512,
    columns: int = 16,
    steps: int = 39,
    period: int | None = None,
    shape: tuple[int, int, int] = (2, 2, 32),
    seed: int = 0,
) -> dict[str, Any]:
    """Bytes and seconds a step of both caches, with what the formulas say.

    Parameters
    ----------
    context, columns : int
        Tokens cached at first, and nodes of a step's tree, root included.
    period : int, optional
        Steps between rearrangements; the best one, rounded, when left out.
    shape : (layers, kv heads, head size)
        Of the float32 keys and values.
    """
    layers, heads, size = shape
    rng, kept_mean = np.random.default_rng(seed), (1 + min(5, columns)) / 2
    period = period or max(1, round(best_period(context, columns, kept_mean)))
    room = context + steps * columns + columns
    rows, rect = RowCache(layers, batch, context + 6 * steps + columns), RectangularCache(layers, batch, room)
    kv_bytes = layers * 2 * heads * size * 4
    prompt = torch.randn(batch, heads, context, size)
    rows.fit(batch, rows.slots)
    rows.begin([0] * batch, context)
    rect.begin(context)
    for store in (*rows.stores, *rect.stores):
        store.update(prompt, prompt)
    rows.lengths[:] = context
    rect.commit([list(range(context))] * batch)
    fresh = torch.randn(batch, heads, columns, size)
    moved_rows = moved_rect = kept_total = 0
    seconds = {"row": 0.0, "rectangle": 0.0}
    contexts = []
    for step in range(steps):
        paths = [sorted({0, *rng.choice(columns, int(k) - 1, replace=False)}) for k in rng.integers(1, 6, batch)]
        contexts.append(rows.lengths.mean())
        rows.begin(rows.lengths.tolist(), columns)
        rows.slot_index = torch.from_numpy(rows.lengths[:, None] + np.arange(columns))
        rect.begin(columns)
        for store in (*rows.stores, *rect.stores):
            store.update(fresh, fresh)
        moved_rect += rect.holes  # read by this step's attention for nothing
        kept_total += sum(map(len, paths))
        kept = np.array([len(path) for path in paths])
        padded = np.array([path + [-1] * (int(kept.max()) - len(path)) for path in paths], dtype=np.int64)
        moved_rows += 2 * int((padded > np.arange(padded.shape[1])).sum())
        start = time.perf_counter()
        rows.commit(padded, kept)
        seconds["row"] += time.perf_counter() - start
        start = time.perf_counter()
        rect.commit(paths)
        if step % period == period - 1:
            moved_rect += rect.rearrange()
        seconds["rectangle"] += time.perf_counter() - start
    mean_context, mean_kept = float(np.mean(contexts)), kept_total / steps / batch
    return {
        "batch": batch,
        "context": context,
        "columns": columns,
        "period": period,
        "mean_context": mean_context,
        "mean_kept": mean_kept,
        "kv_bytes": kv_bytes,
        "row_bytes": moved_rows * kv_bytes / steps,
        "rectangle_bytes": moved_rect * kv_bytes / steps,
        "row_formula_bytes": per_row_overhead(mean_context, mean_kept) * mean_context * batch * kv_bytes,
        "rectangle_formula_bytes": rectangular_bytes_per_step(
            mean_context, columns, mean_kept, period, batch=batch, kv_bytes=kv_bytes
        ),
        "kv_read_bytes": mean_context * batch * kv_bytes,
        "row_s": seconds["row"] / steps,
        "rectangle_s": seconds["rectangle"] / steps,
    }


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    rows = [measured(batch) for batch in BATCHES]
    print("batch  rows: bytes (formula)   rectangle: bytes (formula)   share of KV read   rows s  rectangle s")
    for r in rows:
        print(
            f"{r['batch']:5d}  {r['row_bytes']:9.0f} ({r['row_formula_bytes']:9.0f})   {r['rectangle_bytes']:11.0f} "
            f"({r['rectangle_formula_bytes']:11.0f})   {r['row_bytes'] / r['kv_read_bytes']:.2%} "
            f"{r['rectangle_bytes'] / r['kv_read_bytes']:.1%}   {r['row_s']:.2e}  {r['rectangle_s']:.2e}"
        )
    print(write_report("cache", {"rows": rows}))


if __name__ == "__main__":
    main()
