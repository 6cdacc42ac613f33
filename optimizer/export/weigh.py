"""Weigh what a plan did not keep: by the trace, the fit and the cost that it was made from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from optimizer.export.base import Weigher
from optimizer.forecast import step_forecast
from reader_theory.acceptance.replay import replay_many
from reader_theory.documents import Candidate, Cost, Plan, PlanEntry, Policy, Trace
from reader_theory.documents.fit import AcceptanceFit
from reader_theory.errors import require

__all__ = ["weigher"]


def weigher(plan: Plan, fit: AcceptanceFit, cost: Cost, trace: Trace) -> Weigher:
    """Weighs policies as the plan weighed its own: by replaying the trace, under the cost.

    Raises
    ------
    InvalidInputError
        If the plan was made from another fit or cost, or the fit from another trace.
    """
    told = {"fit": (plan.fit, fit.fingerprint()), "cost": (plan.cost, cost.fingerprint())}
    told["trace"] = (fit.trace, trace.fingerprint())
    other = {name: pair for name, pair in told.items() if pair[0] != pair[1]}
    require(
        not other,
        "`--fit`, `--cost` and `--trace` must be those that the plan was made from",
        got="; ".join(f"{name} {given}, made from {made}" for name, (made, given) in other.items()),
        fix="Pass the files that were given to `reader plan`.",
    )

    def weigh(entry: PlanEntry, policies: Sequence[Policy]) -> list[Candidate]:
        possible = [policy for policy in policies if policy.asks is None or policy.asks in cost.drafters]
        results = replay_many(trace, possible, workload=entry.workload, first_position=1)
        rows = trace.rows(entry.workload)
        mean = float(np.mean(trace.columns["context_tokens"][rows]))
        context = mean if entry.context_tokens is None else float(entry.context_tokens)
        found: list[Candidate] = []
        for policy, result in zip(possible, results, strict=True):
            step = step_forecast(cost, policy, result, entry.batch, context)
            per_s = entry.batch * result.tokens_per_step / step.step_s
            accepted = tuple(result.accepted_by_depth.tolist())
            found.append(
                Candidate(policy=policy, tokens_per_step=result.tokens_per_step, tokens_per_s=per_s, accepted=accepted)
            )
        return found

    return weigh
