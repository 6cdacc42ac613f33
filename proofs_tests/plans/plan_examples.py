"""A trace of known law, its fit, and a cost with a neural draft, in memory and on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from proofs_tests.documents.documents_examples import STAMP
from reader_theory.acceptance import fit_acceptance, simulated_trace
from reader_theory.documents import Cost, CostTable, Trace
from reader_theory.documents.cost import DrafterCost
from reader_theory.documents.fit import AcceptanceFit
from reader_theory.documents.policy import DRAFT, RETRIEVAL
from reader_theory.estimate import Estimate


def cost(target_s: float = 0.02, row_s: float = 2e-4, draft_s: float = 1e-3) -> Cost:
    """A step that is flat to 64 tokens in all and then pays by the token; the draft has a slope of its own."""
    batch, tokens, context = (1, 4, 16, 64), (1, 2, 8, 32), (64, 1024)
    b, t, c = np.meshgrid(batch, tokens, context, indexing="ij")
    slow = target_s + row_s * np.maximum(b * t - 64, 0) + 1e-8 * b * c
    fast = draft_s + 1e-6 * b * t
    axes = {"batch": batch, "tokens": tokens, "context": context, "relative_spread": 0.05}
    small = Estimate.exact(1e-5, "measured")
    return Cost(
        stamp=STAMP, device="cpu", target="a/target", dtype="float32",
        target_forward=CostTable(**axes, seconds=slow.tolist()),
        drafters={
            DRAFT: DrafterCost(model="a/draft", forward=CostTable(**axes, seconds=fast.tolist())),
            RETRIEVAL: DrafterCost(term="lookups", row_s=small),
        },
        verify_s=small, commit_s=small, step_overhead_s=small, plain_overhead_s=small,
        closure=Estimate.exact(1.0, "measured"),
    )  # fmt: skip


def trace(path: Path) -> Trace:
    """16 simulated prompts, written to `path`."""
    made = simulated_trace(prompts=16, tokens=48, spread=0.3, seed=5)
    fields = {name: getattr(made, name) for name in ("target", "temperature", "drafters", "prompts")}
    return Trace.create(path, made.columns, stamp=STAMP, **fields)


def fit(recorded: Trace) -> AcceptanceFit:
    return fit_acceptance(recorded, depth=6, resamples=100)
