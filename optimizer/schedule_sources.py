"""Retrieval, both sources side by side and grown trees in the cells of a schedule, weighed by replay as in a plan.

The schedule's own trees are those of drafters with ranks, each certified. A cell takes another source where a plan
would, where that is faster than the certified tree, and where it keeps the limits of memory and latency.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from optimizer.plan import Study
from optimizer.schedule_problem import ScheduleProblem
from reader_theory.documents import Policy
from reader_theory.estimate import Estimate

__all__ = ["Sourced", "sourced_cells"]


@dataclass(frozen=True)
class Sourced:
    """What a cell drafts.

    Attributes
    ----------
    price : float
        Tokens that one more node must bring.
    nodes : float
        Mean verified nodes a row.
    binding : tuple of str
        Limits that the policy stops at.
    by_batch : (B,) float64
        Seconds of a step of this policy at every batch of the schedule.
    """

    policy: Policy
    tokens_per_step: Estimate
    step_s: float
    price: float
    nodes: float
    binding: tuple[str, ...]
    by_batch: NDArray[np.float64]


def sourced_cells(study: Study, problem: ScheduleProblem, value: NDArray[np.float64]) -> dict[tuple[int, int], Sourced]:
    """By place of batch and context: the cells where another source is better than `value` (B, C) tokens a second."""
    better = dict[tuple[int, int], Sourced]()
    if not study.chains and not study.grown:
        return better
    room = problem.most_nodes()
    for c, context in enumerate(problem.contexts):
        for b, batch in enumerate(problem.batches):
            at = max(round(context), 1)
            entry = study.entry(batch, at)
            if entry.policy.kind in ("off", "static"):
                continue
            weighed, tokens = study.weighed(entry.policy), entry.prediction.tokens_per_step
            step_s = study.step(weighed, batch, at).step_s
            fits = weighed.result.nodes_histogram.shape[1] - 1 <= room[b, c]
            kept = fits and bool(problem.objective.allows(tokens.value, step_s))
            if kept and batch * tokens.value / step_s > float(value[b, c]):
                by_batch = np.array([study.step(weighed, each, at).step_s for each in problem.batches])
                nodes = weighed.result.nodes_per_step
                better[b, c] = Sourced(entry.policy, tokens, step_s, entry.price, nodes, entry.binding, by_batch)
    return better
