"""A plan drafts where that gains more than a calibration errs by, and nowhere else."""

from __future__ import annotations

import numpy as np

from optimizer.plan import WORTH, make_plan
from proofs_tests.plans.plan_examples import cost, fit
from reader_theory.acceptance import simulated_trace
from reader_theory.documents import Off


def test_drafts_that_gain_too_little_are_left_out() -> None:
    recorded = simulated_trace(prompts=12, tokens=48, seed=5)
    fitted = fit(recorded)
    gains: list[float] = []
    left_out: list[float] = []
    for draft_s in np.geomspace(2e-3, 3e-2, 12):
        priced = cost(row_s=2e-2, draft_s=float(draft_s))
        plan = make_plan(fitted, priced, recorded, batches=(1,), max_nodes=4, max_depth=3, new_tokens=24, resamples=100)
        (entry,) = plan.entries
        rates = {candidate.policy.name: candidate.tokens_per_s for candidate in entry.candidates}
        if entry.policy == Off():
            assert entry.prediction.speed_up.value == 1.0
            left_out.append(max(rates.values()) / rates["off"])
        else:
            gains.append(entry.prediction.speed_up.value)
    assert gains and min(gains) >= WORTH
    assert max(left_out) > 1.0, "one that would gain a little, were the cost exact, is among them"
