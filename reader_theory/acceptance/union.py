r"""Acceptance of a `Union`: a neural tree and a retrieved chain in one trie, with their overlap.

A node of the chain adds a token only where the tree does not already hold it:

.. math:: P(i) = \sum_m w_m\, \pi_m \rho_m^{i-1} \Bigl(1 - \sum_{v \in T, |v| = i} \prod_{u \preceq v} C_m(u)\Bigr)

with C the draft's law of ranks *inside right copies*, which is kinder than outside. Prefer it to see what a second
source adds before it is recorded at that size; where a trace offered enough, `replay` is exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from reader_theory.acceptance.base import AcceptanceModel, as_probabilities
from reader_theory.acceptance.matched import LENGTH_BINS, match_bins
from reader_theory.acceptance.rank_table import reached_depth
from reader_theory.acceptance.statistics import PromptRows, conditionals_of, ranks_anew, rows_of, streaks
from reader_theory.documents.trace import Trace
from reader_theory.errors import require
from reader_theory.trees.tree import TokenTree
from reader_theory.trees.value import by_depth_and_rank, path_probability

__all__ = ["UnionAcceptance"]

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class UnionAcceptance(AcceptanceModel):
    """Both sources by bin of match length; bin 0 is no match. Nodes of source ``"retrieval"`` are the chain.

    Parameters
    ----------
    lengths : (M,) int, ascending from 1
        Smallest match length of bins 1, ..., M.
    weight : (M + 1,) float64, sums to 1
        Share of positions in each bin.
    table, copied : (M + 1, D, R) float64, rows sum to at most 1
        The draft's ranks by depth: overall, and where the retrieved chain is right so far.
    hit, decay : (M + 1,) float64, in [0, 1]
        First retrieved token is right; the next is, given the one before.
    """

    name: ClassVar[str] = "union"
    sources: ClassVar[tuple[str, ...]] = ("draft", "retrieval")

    lengths: tuple[int, ...]
    weight: FloatArray
    table: FloatArray
    copied: FloatArray
    hit: FloatArray
    decay: FloatArray

    def __post_init__(self) -> None:
        object.__setattr__(self, "lengths", tuple(int(length) for length in self.lengths))
        for field in ("weight", "table", "copied", "hit", "decay"):
            object.__setattr__(self, field, as_probabilities(field, getattr(self, field)))
        bins = len(self.lengths) + 1
        shapes = {len(getattr(self, field)) for field in ("weight", "table", "copied", "hit", "decay")}
        heaviest = float(np.max(self.table.sum(axis=-1)))
        require(
            shapes == {bins}
            and self.table.shape == self.copied.shape
            and self.table.ndim == 3
            and heaviest <= 1 + 1e-9,
            "a model of unions must have one entry a bin of match length, and tables with row sums <= 1",
            got=f"{bins} bins, lengths {sorted(shapes)}, tables {self.table.shape}, sum {heaviest:.6g}",
            fix="Fit the model from a trace.",
        )

    def path_probability(self, tree: TokenTree, *, context_tokens: float | None = None) -> FloatArray:
        """Of draft nodes, that their path is emitted; of chain nodes, that it is and the tree does not hold it."""
        found = self.weight @ self.by_bin(tree)
        found[0] = 1.0  # what the weights sum to, up to rounding
        return found

    def by_bin(self, tree: TokenTree) -> FloatArray:
        """(M + 1, N + 1) float64: `path_probability` within each bin of match length."""
        chain = np.array([source == "retrieval" for source in tree.sources], dtype=np.bool_)
        return np.stack([self._one_bin(tree, chain, b) for b in range(len(self.weight))])

    def steps_share(self, tree: TokenTree) -> FloatArray:
        """(M + 1,) float64: share of steps, not positions, in each bin; long emissions skip over positions."""
        share = self.weight / self.by_bin(tree).sum(axis=1)
        return share / share.sum()

    def tokens_per_renewed_step(self, tree: TokenTree) -> float:
        """Tokens a step when steps start where the last one ended, rather than at a position drawn at random."""
        return float(1 / np.sum(self.weight / self.by_bin(tree).sum(axis=1)))

    def _one_bin(self, tree: TokenTree, chain: NDArray[np.bool_], b: int) -> FloatArray:
        neural = path_probability(tree, np.where(chain, 0.0, by_depth_and_rank(self.table[b], tree)))
        inside = path_probability(tree, np.where(chain, 0.0, by_depth_and_rank(self.copied[b], tree)))
        held = np.bincount(tree.depths, weights=inside, minlength=tree.depth + 1)
        run = self.hit[b] * self.decay[b] ** np.maximum(tree.depths - 1.0, 0.0)
        return np.where(chain, np.where(tree.ranks == 0, run * np.clip(1 - held[tree.depths], 0, 1), 0.0), neural)

    @classmethod
    def fit(cls, trace: Trace, workload: str | None = None, *, depth: int = 8) -> Self:
        """Shares over every position, by the match that a step starting there would have found."""
        rows, bins = rows_of(trace, workload), len(LENGTH_BINS) + 1
        start_bin = match_bins(rows)[0] + 1
        run = np.asarray(rows.column("retrieval_run"), dtype=np.float64)
        offered = np.asarray(rows.column("retrieval_offered"), dtype=np.float64)
        everywhere = _tables(rows, start_bin, np.full(len(run), np.inf), depth, max(trace.candidates, 1))
        copied = _tables(rows, start_bin, run, depth, max(trace.candidates, 1))
        tried, right = np.where(run > 0, np.minimum(run, offered - 1), 0), np.maximum(run - 1, 0)
        met, hits, tries, rights = (np.bincount(start_bin, part, bins) for part in (run >= 0, run > 0, tried, right))
        hit, decay = hits / np.maximum(met, 1), rights / np.maximum(tries, 1)
        return cls(LENGTH_BINS, met / met.sum(), everywhere, copied, hit, decay)


def _tables(rows: PromptRows, start_bin: NDArray[np.intp], run: FloatArray, depth: int, ranks: int) -> FloatArray:
    """(M + 1, D, R) conditionals by bin of the start, over the first `run` tokens from it."""
    rank = ranks_anew(rows)
    streak, bins = streaks(rank >= 0, rows.starts), len(LENGTH_BINS) + 1
    counts = np.zeros((bins, depth, ranks + 1))
    for d in range(min(depth, len(rank))):
        start, at = np.arange(len(rank) - d), np.arange(d, len(rank))
        kept = (run[start] > d) & (streak[at] >= d) & (rows.prompt[start] == rows.prompt[at])
        place = np.where((rank[at] >= 0) & (rank[at] < ranks), rank[at], ranks)[kept]
        cell = start_bin[start][kept] * (ranks + 1) + place
        counts[:, d] = np.bincount(cell, minlength=bins * (ranks + 1)).reshape(bins, -1)
    deepest = np.array([reached_depth(one) - 1 for one in counts])  # bins that were met rarely repeat their last depth
    return conditionals_of(counts)[np.arange(bins)[:, None], np.minimum(np.arange(depth), deepest[:, None])]
