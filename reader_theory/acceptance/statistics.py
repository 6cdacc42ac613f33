"""Sums by prompt that every fit is made of; each trace is read once, and resampling only re-adds them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from reader_theory.documents.trace import Trace
from reader_theory.errors import require

__all__ = ["PromptRows", "conditionals_of", "rank_depth_counts", "ranks_anew", "rows_of", "streaks"]

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]


class PromptRows:
    """Rows of a workload with their prompts numbered 0, ..., P - 1."""

    def __init__(self, trace: Trace, workload: str | None = None) -> None:
        known = workload is None or workload in trace.workloads
        require(
            known,
            "`workload` must be one that the trace recorded",
            got=f"{workload!r}; the trace has {list(trace.workloads)}",
            fix="Choose one of these, or leave it out for all prompts.",
        )
        self.rows = np.arange(len(trace.columns["prompt"])) if workload is None else trace.rows(workload)
        self._columns = trace.columns
        prompt = self.column("prompt")
        fresh = np.diff(prompt, prepend=-1) != 0
        self.prompt: NDArray[np.intp] = np.cumsum(fresh) - 1
        self.starts = np.flatnonzero(fresh)
        self.prompts = len(self.starts)

    def has(self, name: str) -> bool:
        """Whether the trace has such a column."""
        return name in self._columns

    def column(self, name: str) -> NDArray[Any]:
        """A column of the trace at these rows."""
        return self._columns[name][self.rows]

    @property
    def first_ranks(self) -> IntArray:
        """(T,) int64: rank of each row's token among the draft's first candidates there."""
        rank = np.asarray(self.column("draft_rank"), dtype=np.int64)
        return rank if rank.ndim == 1 else rank[:, 0]

    def sums(self, values: NDArray[Any]) -> FloatArray:
        """(P,) float64: `values` of each row added by prompt."""
        return np.asarray(np.bincount(self.prompt, values, self.prompts), dtype=np.float64)


def rows_of(trace: Trace, workload: str | None = None) -> PromptRows:
    """Rows of `workload`, or of all prompts."""
    return PromptRows(trace, workload)


def streaks(inside: NDArray[np.bool_], starts: NDArray[np.intp]) -> IntArray:
    """(T,) int64: how many rows just before each one, of the same prompt, are all `inside`."""
    order = np.arange(len(inside))
    barrier = np.where(inside, -1, order + 1)
    begins = np.zeros(len(inside), dtype=np.int64)
    begins[starts] = starts
    last = np.maximum.accumulate(np.maximum(np.concatenate(([0], barrier[:-1])), begins))
    return order - last


def ranks_anew(rows: PromptRows) -> IntArray:
    """(T,) int64: ranks of a draft that is asked anew at every node, so that one serves every depth.

    Raises
    ------
    InvalidInputError
        If the draft offers a whole block at once: each depth has ranks of its own.
    """
    rank = np.asarray(rows.column("draft_rank"), dtype=np.int64)
    require(
        rank.ndim == 1,
        "the draft must be one that is asked anew at every node",
        got=f"ranks of shape {rank.shape}, of a block drafter",
        fix="Take RankTable, or replay, which know ranks by depth.",
    )
    return rank


def rank_depth_counts(rows: PromptRows, depth: int, ranks: int) -> FloatArray:
    """(P, D, R + 1) float64: steps whose first d - 1 tokens were all candidates, by the rank of the next.

    The last column counts next tokens beyond the candidates; a row serves every depth that its streak allows.
    """
    rank = np.asarray(rows.column("draft_rank"), dtype=np.int64)
    if rank.ndim == 2:
        return _block_counts(rows, rank[:, :depth], depth, ranks)
    streak = np.minimum(streaks(rank >= 0, rows.starts), depth - 1)
    place = np.where((rank >= 0) & (rank < ranks), rank, ranks)
    cell = (rows.prompt * depth + streak) * (ranks + 1) + place
    counts = np.bincount(cell, minlength=rows.prompts * depth * (ranks + 1)).astype(np.float64)
    by_streak = counts.reshape(rows.prompts, depth, ranks + 1)
    return by_streak[:, ::-1].cumsum(axis=1)[:, ::-1]


def _block_counts(rows: PromptRows, rank: IntArray, depth: int, ranks: int) -> FloatArray:
    """`rank_depth_counts` of (T, D') ranks by depth of the step that starts at each row."""
    left = np.append(rows.starts[1:], len(rank))[rows.prompt] - np.arange(len(rank))
    counts = np.zeros((rows.prompts, depth, ranks + 1))
    reached = np.ones(len(rank), dtype=np.bool_)
    for d in range(rank.shape[1]):
        reached &= left > d
        place = np.where((rank[:, d] >= 0) & (rank[:, d] < ranks), rank[:, d], ranks)
        cell = (rows.prompt * (ranks + 1) + place)[reached]
        counts[:, d] = np.bincount(cell, minlength=rows.prompts * (ranks + 1)).reshape(rows.prompts, ranks + 1)
        reached &= rank[:, d] >= 0
    return counts


def conditionals_of(counts: FloatArray) -> FloatArray:
    """(..., D, R + 1) counts to (..., D, R) conditionals; 0 where nothing was counted."""
    total = counts.sum(axis=-1, keepdims=True)
    return counts[..., :-1] / np.where(total > 0, total, 1)
