"""Replay: what a policy would have emitted on a recorded trace, step by step and exactly.

Prefer it to any fitted model when the trace is of the workload to be served; a model extrapolates, a replay does not.
It is exact for verification that follows the target's own tokens (greedy and target-only), because an accepted path
is the true prefix: the ranks recorded on that prefix decide every depth.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from reader_theory.documents.policy import Policy
from reader_theory.documents.trace import Trace
from reader_theory.errors import require
from reader_theory.trees.tree import TokenTree

__all__ = ["ReplayResult", "replay", "replay_many"]

_NEVER = np.iinfo(np.int32).max
Ints = NDArray[np.int32]


@dataclass(frozen=True)
class ReplayResult:
    """Sums over the steps of each of P replayed prompts.

    Parameters
    ----------
    prompts : (P,) int32
        Index of each prompt in `Trace.prompts`.
    steps, tokens : (P,) int64
        Verification steps, and tokens that they emitted; the last step of a prompt is clipped at its end.
    drafted_steps, retrieval_steps : (P,) int64
        Steps on which the neural draft ran; steps on which a chain was retrieved.
    verified_nodes : (P,) int64
        Draft nodes verified, the root not counted. Nodes that the chain shares with the tree count once where the
        trace can tell, which is along the emitted path.
    nodes_histogram : (P, M + 1) int32
        Steps that verified 0, 1, ..., M nodes: the expected cost of a step under any table over nodes is a product.
    accepted_histogram : (P, A + 1) int32
        Steps that accepted 0, 1, ..., A draft tokens.
    forwards_histogram : (F, W + 1) int64, optional
        Of recorded grown policies: steps whose first, second, ... forward of the draft had 0, 1, ..., W tokens.
    """

    prompts: NDArray[np.int32]
    steps: NDArray[np.int64]
    tokens: NDArray[np.int64]
    drafted_steps: NDArray[np.int64]
    retrieval_steps: NDArray[np.int64]
    verified_nodes: NDArray[np.int64]
    nodes_histogram: NDArray[np.int32]
    accepted_histogram: NDArray[np.int32]
    forwards_histogram: NDArray[np.int64] | None = None

    @property
    def tokens_per_step(self) -> float:
        """Tokens a step over all prompts."""
        return float(self.tokens.sum() / self.steps.sum())

    @property
    def nodes_per_step(self) -> float:
        """Mean draft nodes verified a step."""
        return float(self.verified_nodes.sum() / self.steps.sum())

    @property
    def accepted_by_depth(self) -> NDArray[np.float64]:
        """(A,) share of steps that accepted at least 1, 2, ..., A draft tokens."""
        at_least = self.accepted_histogram.sum(axis=0)[::-1].cumsum()[::-1]
        return at_least[1:] / at_least[0]

    def pooled(self) -> ReplayResult:
        """The same with histograms summed over prompts, (1, M + 1) and (1, A + 1): small enough to keep thousands."""
        histograms = {
            name: getattr(self, name).sum(axis=0, keepdims=True) for name in ("nodes_histogram", "accepted_histogram")
        }
        return replace(self, **histograms)

    def mean_over_nodes(self, table: NDArray[np.float64]) -> float:
        """Mean over steps of ``table[nodes]``, such as a tabulated cost in seconds.

        Parameters
        ----------
        table : (>= M + 1,) float64
            Value at 0, 1, ... verified nodes.
        """
        totals = self.nodes_histogram.sum(axis=0)
        return float(totals @ table[: len(totals)] / totals.sum())


def replay(trace: Trace, policy: Policy, *, workload: str | None = None, first_position: int = 0) -> ReplayResult:
    """Replay a policy over every prompt of a trace, or of one of its workloads.

    A step that starts at position t accepts the longer of the path that successive ranks follow in the tree (those of
    later positions, or of the later depths of a block) and the retrieved chain, cut at its cap; the next step starts
    one token later than what was accepted.

    Parameters
    ----------
    trace : Trace
    policy : Policy
        Of fixed ranks, a retrieved chain, or both; what grown policies did only a run can tell (`recorded_grown`).
    workload : str, optional
        Replay this workload only.
    first_position : int
        Position at which the first step starts: 1 when the engine's prefill emits the first token.

    Raises
    ------
    InvalidInputError
        If the workload is unknown, the tree asks for ranks that the trace did not record, or it is grown.
    """
    return replay_many(trace, [policy], workload=workload, first_position=first_position)[0]


def replay_many(
    trace: Trace, policies: Iterable[Policy], *, workload: str | None = None, first_position: int = 0
) -> list[ReplayResult]:
    """Replay several policies over the same positions; see `replay`."""
    walked = _walked(trace, workload, first_position)
    return [_replay_one(trace, policy, walked) for policy in policies]


class _Walked(NamedTuple):
    """What the walk reads: (P,) rows of each prompt, and (T,) columns of the drafters; (T, D) ranks of a block."""

    prompts: Ints
    starts: Ints
    ends: Ints
    ranks: dict[str, Ints]
    looked_up: dict[str, tuple[Ints, Ints, Ints]]
    nothing: Ints


def _walked(trace: Trace, workload: str | None, first_position: int) -> _Walked:
    column = trace.columns["prompt"]
    starts = np.flatnonzero(np.diff(column, prepend=-1)).astype(np.int32)
    ends = np.append(starts[1:], len(column)).astype(np.int32)
    prompts = np.asarray(column[starts], dtype=np.int32)
    starts = starts + np.int32(first_position)
    wanted = np.array([workload in (None, trace.prompts[int(i)].workload) for i in prompts])
    chosen = (starts < ends) & wanted
    require(
        bool(chosen.any()) and first_position >= 0,
        "`workload` must be one that the trace recorded, with output beyond `first_position` >= 0",
        got=f"{workload!r} from position {first_position}; the trace has {list(trace.workloads)}",
        fix="Choose one of these, or leave it out for all prompts.",
    )

    def recorded(name: str) -> Ints:
        return np.ascontiguousarray(trace.columns[name], dtype=np.int32)

    return _Walked(
        prompts[chosen],
        starts[chosen],
        ends[chosen],
        {name: recorded(f"{name}_rank") for name, drafter in trace.drafters.items() if drafter.is_ranked},
        {
            name: (recorded(f"{name}_match"), recorded(f"{name}_offered"), recorded(f"{name}_run"))
            for name, drafter in trace.drafters.items()
            if not drafter.is_ranked
        },
        np.zeros(len(column), dtype=np.int32),
    )


def _replay_one(trace: Trace, policy: Policy, walked: _Walked) -> ReplayResult:
    from reader_theory.acceptance._replay_kernel import walk

    require(
        policy.kind != "grown",
        "`policy` must draft the same ranks or a retrieved chain in every step",
        got=policy.name,
        fix="Record the trace with this policy, and take its result from `recorded_grown`.",
    )
    tree, cap = policy.tree, policy.retrieved
    _check_drafters(trace, policy)
    rank = walked.nothing if policy.asks is None else walked.ranks[policy.asks]
    nothing = walked.nothing
    matches, offered, run = (nothing, nothing, nothing) if cap is None else walked.looked_up[cap.drafter]
    shortest, offset, factor, longest = (
        (_NEVER, 0.0, 0.0, 0) if cap is None else (cap.min_match, cap.offset, cap.factor, cap.max_tokens)
    )
    prompts = len(walked.prompts)
    counts = np.zeros((5, prompts), dtype=np.int64)
    nodes = np.zeros((prompts, len(tree) + longest), dtype=np.int32)
    accepted = np.zeros((prompts, max(tree.depth, longest) + 1), dtype=np.int32)
    skip = policy.skip_at_match if policy.kind == "union" and policy.skip_at_match is not None else _NEVER
    walk(
        walked.starts, walked.ends, rank.ravel(), rank.shape[1] if rank.ndim == 2 else 1, matches, offered, run,
        _child_table(tree), tree.nodes, skip, shortest, offset, factor, longest,
        counts, nodes, accepted,
    )  # fmt: skip
    return ReplayResult(
        prompts=walked.prompts,
        steps=counts[0],
        tokens=counts[1],
        drafted_steps=counts[2],
        retrieval_steps=counts[3],
        verified_nodes=counts[4],
        nodes_histogram=nodes,
        accepted_histogram=accepted,
    )


def _check_drafters(trace: Trace, policy: Policy) -> None:
    ranked = {name: drafter.is_ranked for name, drafter in trace.drafters.items()}
    wanted = {} if policy.asks is None else {policy.asks: True}
    wanted |= {} if policy.retrieved is None else {policy.retrieved.drafter: False}
    require(
        all(ranked.get(name) is kind for name, kind in wanted.items()),
        "`policy` must ask drafters that the trace recorded, trees of those with ranks and chains of look-ups",
        got=f"{policy.name!r}; the trace has { {name: each.kind for name, each in trace.drafters.items()} }",
        fix="Record with these drafters, or plan with those of the trace.",
    )
    if policy.asks is None:
        return
    highest, candidates = int(policy.tree.ranks.max()), trace.drafters[policy.asks].candidates
    require(
        highest < candidates,
        "`policy` must only use ranks that the trace recorded",
        got=f"rank {highest}; the trace holds {candidates} candidates of {policy.asks!r}",
        fix="Record with more candidates, or plan a narrower tree.",
    )
    rank = trace.columns[f"{policy.asks}_rank"]
    require(
        rank.ndim == 1 or policy.tree.depth <= rank.shape[1],
        "`policy` must be no deeper than the block that the trace recorded",
        got=f"{policy.tree.depth} levels; the trace holds {rank.shape[-1]} of {policy.asks!r}",
        fix="Record a longer block, or plan a shallower tree.",
    )


def _child_table(tree: TokenTree) -> Ints:
    """(N + 1, R) int32: the child of a node at a rank, 0 for none."""
    table = np.zeros((len(tree), int(tree.ranks.max()) + 1), dtype=np.int32)
    table[tree.parents[1:], tree.ranks[1:]] = np.arange(1, len(tree))
    return table
