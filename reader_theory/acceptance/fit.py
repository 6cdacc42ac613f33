"""From a Trace to an AcceptanceFit: every model that the trace can support, by workload, with intervals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reader_theory.acceptance.calibration import Scored, calibrate, draft_scores, retrieval_scores
from reader_theory.acceptance.intervals import Interval, Statistic, bootstrap_prompts, ratio_of_sums
from reader_theory.acceptance.matched import COUNT_BINS, LENGTH_BINS, matched_parameters, matched_sums
from reader_theory.acceptance.rank_table import reached_depth
from reader_theory.acceptance.replay import ReplayResult, replay_many
from reader_theory.acceptance.statistics import PromptRows, conditionals_of, rank_depth_counts, rows_of
from reader_theory.documents.base import Stamp
from reader_theory.documents.fit import AcceptanceFit, CalibrationFit, DrafterFit, MatchedFit, RankTableFit, WorkloadFit
from reader_theory.documents.policy import RETRIEVAL, Chain, Policy, Static
from reader_theory.documents.trace import Trace
from reader_theory.errors import require
from reader_theory.estimate import Estimate
from reader_theory.trees.tree import TokenTree

__all__ = ["fit_acceptance"]

REFERENCE_LENGTHS = (1, 2, 4, 8)
FloatArray = NDArray[np.float64]


class _Resampler:
    """The same resampled documents for every statistic of a workload."""

    def __init__(self, resamples: int, seed: int, level: float, documents: NDArray[np.intp]) -> None:
        self.resamples, self.seed, self.level, self.documents = resamples, seed, level, documents

    def interval(self, sums: FloatArray, statistic: Statistic, within: tuple[float, float] = (0.0, 1.0)) -> Interval:
        shape = sums.shape[1:]
        flat = np.zeros((int(self.documents.max()) + 1, int(np.prod(shape))))
        np.add.at(flat, self.documents, sums.reshape(len(sums), -1))

        def of_flat(sums: FloatArray) -> FloatArray:
            return statistic(sums.reshape(*sums.shape[:-1], *shape))

        return bootstrap_prompts(
            flat, of_flat, resamples=self.resamples, seed=self.seed, level=self.level, within=within
        )

    def mean(self, rows: PromptRows, values: NDArray[Any], most: float = 1.0) -> Estimate:
        """Mean over positions of values from 0 to `most`."""
        sums = np.stack([rows.sums(values), rows.sums(np.ones(len(rows.rows)))], axis=1)
        return self.interval(sums, ratio_of_sums, (0.0, most)).estimate()


def fit_acceptance(
    trace: Trace, *, depth: int = 8, level: float = 0.95, resamples: int = 1000, seed: int = 0
) -> AcceptanceFit:
    """Fit every model that a trace supports, workload by workload.

    Parameters
    ----------
    trace : Trace
        At least 2 prompts a workload; 20 make the intervals useful.
    depth : int, >= 1
        Depths that the rank x depth table tells apart.
    level : float
        Coverage that the intervals claim.
    resamples, seed : int
        Resampled sets of prompts, and the seed that draws them.

    Raises
    ------
    InvalidInputError
        If a workload has fewer than 2 prompts, or `depth` is below 1.
    """
    require(depth >= 1, "`depth` must be >= 1", got=depth, fix="Pass the depth of the deepest tree to plan.")

    def fitted(name: str) -> WorkloadFit:
        rows = rows_of(trace, name)
        documents = trace.documents(rows.column("prompt")[rows.starts])
        return _fit_workload(trace, name, rows, depth, _Resampler(resamples, seed, level, documents))

    return AcceptanceFit(
        stamp=Stamp.now(seed=seed),
        target=trace.target,
        drafters=trace.drafters,
        trace=trace.fingerprint(),
        trace_file=trace.arrays.name,
        temperature=trace.temperature,
        level=level,
        resamples=resamples,
        workloads=tuple(map(fitted, trace.workloads)),
    )


def _fit_workload(trace: Trace, name: str, rows: PromptRows, depth: int, resampler: _Resampler) -> WorkloadFit:
    surprise = -np.log(np.maximum(np.asarray(rows.column("target_probability"), dtype=np.float64), 1e-30))
    found = {drafter: _fit_drafter(trace.of(drafter), name, depth, resampler) for drafter in trace.drafters}
    return WorkloadFit(
        workload=name,
        prompts=rows.prompts,
        positions=len(rows.rows),
        sources=trace.sources(name),
        drafters={drafter: each for drafter, each in found.items() if each is not None},
        entropy_nats=resampler.mean(rows, surprise, np.inf) if trace.temperature > 0 else None,
    )


def _fit_drafter(trace: Trace, workload: str, depth: int, resampler: _Resampler) -> DrafterFit | None:
    """Of a trace with one drafter, under the name of its kind; None where it offered nothing."""
    rows = rows_of(trace, workload)
    if RETRIEVAL in trace.drafters:
        if not np.any(rows.column("retrieval_offered")):
            return None
        chains = {k: Chain(min_match=1, offset=k, factor=0.0, max_tokens=k) for k in REFERENCE_LENGTHS}
        return DrafterFit(
            matched=_matched(rows, resampler),
            tokens_per_step=_references(trace, workload, chains, resampler),
            calibration=_calibration(retrieval_scores(trace, workload)),
        )
    if not has_draft(trace, rows):
        return None
    trees = {k: Static.of(TokenTree.chain(k)) for k in REFERENCE_LENGTHS if k <= _deepest(rows)}
    return DrafterFit(
        geometric=resampler.mean(rows, rows.first_ranks == 0),
        overlap=_overlap(rows, resampler),
        rank_depth=_rank_depth(rows, trace.candidates, depth, resampler),
        tokens_per_step=_references(trace, workload, trees, resampler),
        calibration=_calibration(draft_scores(trace, workload)),
    )


def _deepest(rows: PromptRows) -> float:
    """Levels that ranks were recorded for: those of a block, or as many as one likes."""
    rank = rows.column("draft_rank")
    return rank.shape[1] if rank.ndim == 2 else np.inf


def _overlap(rows: PromptRows, resampler: _Resampler) -> Estimate | None:
    """None where no law was recorded."""
    if not rows.has("draft_overlap"):
        return None
    overlap = np.asarray(rows.column("draft_overlap"), dtype=np.float64)
    return resampler.mean(rows, overlap) if bool(np.isfinite(overlap).all()) else None


def has_draft(trace: Trace, rows: PromptRows) -> bool:
    """Whether a draft's ranks were recorded on these rows."""
    return trace.candidates > 0 and bool(np.any(np.asarray(rows.column("draft_rank")) >= 0))


def _rank_depth(rows: PromptRows, ranks: int, depth: int, resampler: _Resampler) -> RankTableFit:
    counts = rank_depth_counts(rows, depth, ranks)
    counts = counts[:, : reached_depth(counts.sum(axis=0))]
    positions = counts.sum(axis=(0, 2))
    found = resampler.interval(counts, conditionals_of)
    unspread = found.high == found.low
    beyond = 1 - ((1 - resampler.level) / 2) ** (1 / np.maximum(positions, 1))
    high = np.where(unspread, np.minimum(np.maximum(found.high, beyond[:, None]), 1), found.high)
    ends = (found.value, np.minimum(found.low, found.value), np.maximum(high, found.value))
    value, low, high = (_plain(table) for table in ends)
    return RankTableFit(value=value, low=low, high=high, positions=tuple(int(n) for n in positions))


def _plain(table: FloatArray) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(float(x) for x in row) for row in table)


def _matched(rows: PromptRows, resampler: _Resampler) -> MatchedFit:
    sums = matched_sums(rows)
    hit = resampler.interval(sums, lambda s: matched_parameters(s)[0])
    decay = resampler.interval(sums, lambda s: matched_parameters(s)[1])
    weight = matched_parameters(sums.sum(axis=0))[2]
    lengths, counts = range(len(LENGTH_BINS)), range(len(COUNT_BINS))
    return MatchedFit(
        lengths=LENGTH_BINS,
        counts=COUNT_BINS,
        hit=tuple(tuple(hit.estimate(i, j) for j in counts) for i in lengths),
        decay=tuple(decay.estimate(i) for i in lengths),
        weight=_plain(weight),
    )


def _references(
    trace: Trace, workload: str, chains: Mapping[int, Policy], resampler: _Resampler
) -> dict[str, Estimate]:
    results = replay_many(trace, chains.values(), workload=workload)
    return {f"chain {k}": _tokens_per_step(result, resampler) for k, result in zip(chains, results, strict=True)}


def _tokens_per_step(result: ReplayResult, resampler: _Resampler) -> Estimate:
    sums = np.stack([result.tokens, result.steps], axis=1).astype(np.float64)
    return resampler.interval(sums, ratio_of_sums, (1.0, np.inf)).estimate()


def _calibration(scored: Scored) -> CalibrationFit:
    found = calibrate(scored)
    columns = {key: tuple(getattr(found, key).tolist()) for key in ("score", "observed", "acceptance", "weight")}
    return CalibrationFit(**columns, raw_error=found.raw_error, error=found.error)
