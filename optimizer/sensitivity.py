"""What would change a plan: the best of what it weighed under other acceptance, and at other batches and contexts.

Acceptance is scaled depth by depth, given the depths before. Other batches and contexts are weighed as the plan was
(`weigher`, or the study behind a plan from counters); without its documents, they are those that the plan has entries
for. Prefer `optimizer.advice` for the nearest point at which a chain from counters changes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from optimizer.advice import acceptance_scaled
from optimizer.export.base import Weigher
from optimizer.imported_plan import WORTH, ImportedStudy
from reader_theory.documents import Candidate, Cost, Plan, PlanEntry, Policy

__all__ = ["Sensitivity", "sensitivity", "sensitivity_imported"]

FACTORS = (0.9, 1.1)
MOST = 4
"""Other batches, and other contexts, that are told of."""


@dataclass(frozen=True)
class Sensitivity:
    """The best choice under one changed condition, in words, and its gain over plain decoding."""

    workload: str
    condition: str
    policy: Policy
    speed_up: float
    same: bool


def sensitivity(plan: Plan, weigh: Weigher | None = None, cost: Cost | None = None) -> list[Sensitivity]:
    """Of the smallest planned batch of every workload.

    Parameters
    ----------
    plan : Plan
    weigh, cost : optional
        Weigh at batches and contexts of the cost that the plan has no entry for.
    """
    found: list[Sensitivity] = []
    for workload in plan.workloads:
        mine = [entry for entry in plan.entries if entry.workload == workload]
        first = min(mine, key=lambda entry: (entry.context_tokens or 0, entry.batch))
        found += [each for factor in FACTORS for each in _accepting(first, factor)]
        if weigh is not None and cost is not None:
            found += _elsewhere(first, weigh, cost)
        else:
            found += [_planned(first, entry) for entry in mine if entry is not first]
    return found


def sensitivity_imported(study: ImportedStudy, plan: Plan) -> list[Sensitivity]:
    """The same of a plan from counters: every condition planned anew."""
    first = min(plan.entries, key=lambda entry: (entry.context_tokens or 0, entry.batch))
    batch, context = first.batch, first.context_tokens
    cells = [(f"batch {b}", study, b, context) for b in _near(study.cost.target_forward.batch, batch)]
    if context is not None:
        contexts = _near(study.cost.target_forward.context, context)
        cells += [(f"context {c}", study, batch, c) for c in contexts]
    scaled = [(_percent(factor), acceptance_scaled(study, factor), batch, context) for factor in FACTORS]
    found: list[Sensitivity] = []
    for condition, asked, b, c in (*scaled, *cells):
        entry = asked.entry(b, c)
        gain = entry.prediction.speed_up.value
        found.append(Sensitivity(first.workload, condition, entry.policy, gain, entry.policy == first.policy))
    return found


def _accepting(entry: PlanEntry, factor: float) -> Iterator[Sensitivity]:
    """Nothing where the plan does not hold acceptance by depth of all that it weighed."""
    if all(each.accepted or each.policy.kind == "off" for each in entry.candidates):
        yield _best(entry, _percent(factor), [_scaled(each, factor) for each in entry.candidates])


def _scaled(each: Candidate, factor: float) -> Candidate:
    if not each.accepted:
        return each
    shares = np.asarray(each.accepted)
    given = shares / np.maximum(np.concatenate([[1.0], shares[:-1]]), 1e-12)
    now = np.cumprod(np.minimum(given * factor, 1.0))
    tokens = max(each.tokens_per_step + float(now.sum() - shares.sum()), 1.0)
    rate = each.tokens_per_s * tokens / each.tokens_per_step
    return each.model_copy(update={"tokens_per_step": tokens, "tokens_per_s": rate})


def _elsewhere(entry: PlanEntry, weigh: Weigher, cost: Cost) -> Iterator[Sensitivity]:
    policies = list(dict.fromkeys([entry.policy, *(each.policy for each in entry.candidates)]))
    fixed = [policy for policy in policies if policy.kind != "grown"]
    for batch in _near(cost.target_forward.batch, entry.batch):
        yield _best(entry, f"batch {batch}", weigh(entry.model_copy(update={"batch": batch}), fixed))
    for context in _near(cost.target_forward.context, entry.context_tokens or 0):
        there = entry.model_copy(update={"context_tokens": context})
        yield _best(entry, f"context {context}", weigh(there, fixed))


def _planned(first: PlanEntry, entry: PlanEntry) -> Sensitivity:
    context = "" if entry.context_tokens is None else f", context {entry.context_tokens}"
    gain = entry.prediction.speed_up.value
    same = entry.policy == first.policy
    return Sensitivity(first.workload, f"batch {entry.batch}{context}", entry.policy, gain, same)


def _best(entry: PlanEntry, condition: str, weighed: Sequence[Candidate]) -> Sensitivity:
    """The fastest; plain decoding where it is not worth it."""
    plain = [each for each in weighed if each.policy.kind == "off"]
    off_rate = plain[0].tokens_per_s if plain else entry.prediction.tokens_per_s.value / _gain(entry)
    best = max(weighed, key=lambda each: each.tokens_per_s)
    if plain and best.tokens_per_s < WORTH * off_rate:
        best = plain[0]
    return Sensitivity(
        entry.workload, condition, best.policy, best.tokens_per_s / off_rate, best.policy == entry.policy
    )


def _gain(entry: PlanEntry) -> float:
    return entry.prediction.speed_up.value


def _near(values: Sequence[int], here: int) -> list[int]:
    """At most `MOST` of the values that are not here, the nearest in proportion, in order."""
    apart = sorted(
        (value for value in values if value != here and value > 0),
        key=lambda value: abs(np.log(value / max(here, 1))),
    )
    return sorted(apart[:MOST])


def _percent(factor: float) -> str:
    return f"acceptance {100 * (factor - 1):+.0f} %"
