r"""Matched: a retrieved copy is right with a chance that grows with the length of its match and decays along it.

.. math:: P(i) = \pi(m, c)\,\rho(m)^{i - 1}

for the i-th token of a chain whose match is m tokens long and occurred c times. Prefer it to size retrieved chains
beyond what a trace offered; where the trace offered enough, `replay` is exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from reader_theory.acceptance.base import PathwiseModel, as_probabilities
from reader_theory.acceptance.statistics import PromptRows, rows_of
from reader_theory.documents.trace import Trace
from reader_theory.errors import require
from reader_theory.trees.tree import TokenTree

__all__ = ["COUNT_BINS", "LENGTH_BINS", "Matched", "match_bins", "matched_sums"]

LENGTH_BINS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
COUNT_BINS = (1, 2, 4)
FloatArray = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Matched(PathwiseModel):
    """Hit by bin of match length and count, decay by bin of match length.

    Parameters
    ----------
    lengths : (M,) int, ascending from 1
        Smallest match length of each bin.
    counts : (C,) int, ascending from 1
        Smallest match count of each bin.
    hit : (M, C) float64, in [0, 1]
        First retrieved token is right.
    decay : (M,) float64, in [0, 1]
        Next retrieved token is right, given the one before.
    weight : (M, C) float64, sums to at most 1
        Share of steps with such a match; the rest has none.
    """

    name: ClassVar[str] = "matched"
    sources: ClassVar[tuple[str, ...]] = ("retrieval",)

    lengths: tuple[int, ...]
    counts: tuple[int, ...]
    hit: FloatArray
    decay: FloatArray
    weight: FloatArray

    def __post_init__(self) -> None:
        object.__setattr__(self, "lengths", tuple(int(length) for length in self.lengths))
        object.__setattr__(self, "counts", tuple(int(count) for count in self.counts))
        for field in ("hit", "decay", "weight"):
            object.__setattr__(self, field, as_probabilities(field, getattr(self, field)))
        shape = (len(self.lengths), len(self.counts))
        agree = self.hit.shape == shape == self.weight.shape and self.decay.shape == shape[:1]
        require(
            agree and float(self.weight.sum()) <= 1 + 1e-9,
            "`hit` and `weight` must be lengths by counts, `decay` must be lengths, and `weight` must sum to at most 1",
            got=f"{self.hit.shape}, {self.weight.shape}, {self.decay.shape} for {shape}; sum {self.weight.sum():.6g}",
            fix="Fit the model from a trace, or give each bin its numbers.",
        )

    def conditional(self, tree: TokenTree, *, context_tokens: float | None = None) -> FloatArray:
        """Averaged over the recorded matches; a node of rank > 0 is never right, for one chain is retrieved."""
        level = np.arange(tree.depth + 1)
        alive = np.append(1.0, np.tensordot(self.weight, self.hit[..., None] * self._powers(level[1:] - 1), axes=2))
        by_depth = np.divide(alive[1:], alive[:-1], out=np.zeros(tree.depth), where=alive[:-1] > 0)
        return np.where(tree.ranks == 0, np.append(1.0, by_depth)[tree.depths], 0.0)

    def chain_probability(self, match_length: int, match_count: int, length: int) -> FloatArray:
        """(length,) float64: probability that the first 1, 2, ... retrieved tokens are right, for one match."""
        if match_length < self.lengths[0]:
            return np.zeros(length)
        row = int(bin_of(np.array(match_length), self.lengths))
        column = int(bin_of(np.array(max(match_count, self.counts[0])), self.counts))
        return self.hit[row, column] * self.decay[row] ** np.arange(length)

    def _powers(self, exponents: NDArray[np.intp]) -> FloatArray:
        return self.decay[:, None, None] ** exponents

    @classmethod
    def fit(cls, trace: Trace, workload: str | None = None) -> Self:
        """Shares over every position with a match; bins that the trace never met borrow from their neighbours."""
        sums = matched_sums(rows_of(trace, workload)).sum(axis=0)
        return cls(LENGTH_BINS, COUNT_BINS, *matched_parameters(sums))


def bin_of(values: NDArray[np.int64], edges: tuple[int, ...]) -> NDArray[np.intp]:
    """Bin that each value lies in, -1 below the first edge."""
    return np.searchsorted(np.array(edges), values, side="right") - 1


def match_bins(rows: PromptRows) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """(T,) bins of match length, -1 where nothing was offered, and of match count."""
    length = np.asarray(rows.column("retrieval_match"), dtype=np.int64)
    offered = np.asarray(rows.column("retrieval_offered"), dtype=np.int64)
    count = np.maximum(np.asarray(rows.column("retrieval_count"), dtype=np.int64), 1)
    return np.where(offered > 0, bin_of(length, LENGTH_BINS), -1), bin_of(count, COUNT_BINS)


def matched_sums(rows: PromptRows) -> FloatArray:
    """(P, M, C + 1, 4): by length and count the matches, hits, copies tried and copies right; then all positions.

    A copy is tried at every retrieved token after a right one. Positions are in the extra column of the first bin.
    """
    length, count = match_bins(rows)
    run = np.asarray(rows.column("retrieval_run"), dtype=np.float64)
    offered = np.asarray(rows.column("retrieval_offered"), dtype=np.float64)
    right = np.maximum(run - 1, 0)
    tried = np.where(run > 0, np.minimum(run, offered - 1), 0)
    met = np.flatnonzero(length >= 0)
    shape = (rows.prompts, len(LENGTH_BINS), len(COUNT_BINS) + 1)
    cell = np.ravel_multi_index((rows.prompt[met], length[met], count[met]), shape)
    parts = [np.ones(len(run)), (run > 0).astype(np.float64), tried, right]
    size = int(np.prod(shape))
    summed = np.stack([np.bincount(cell, part[met], size) for part in parts], axis=-1)
    sums = np.asarray(summed, dtype=np.float64).reshape(*shape, 4)
    sums[:, 0, -1, 0] = rows.sums(np.ones(len(run)))
    return sums


def matched_parameters(sums: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """`hit` (..., M, C), `decay` (..., M) and `weight` (..., M, C) of sums (..., M, C + 1, 4)."""
    cells, positions = sums[..., :-1, :], sums[..., 0, -1, 0]
    by_length = cells.sum(axis=-2)
    everywhere = by_length.sum(axis=-2)
    overall = _share(everywhere[..., 1], everywhere[..., 0], 0.0)
    hit_of_length = _share(by_length[..., 1], by_length[..., 0], overall[..., None])
    hit = _share(cells[..., 1], cells[..., 0], hit_of_length[..., None])
    decay = _share(by_length[..., 3], by_length[..., 2], _share(everywhere[..., 3], everywhere[..., 2], 0.0)[..., None])
    return hit, decay, cells[..., 0] / np.maximum(positions, 1)[..., None, None]


def _share(part: FloatArray, whole: FloatArray, otherwise: FloatArray | float) -> FloatArray:
    """`part / whole`, and `otherwise` where `whole` is 0."""
    return np.where(whole > 0, part / np.where(whole > 0, whole, 1), otherwise)
