"""A plan drafts where that is faster at the risk it states, and nowhere else: noise is no reason to draft."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest

from optimizer.plan import make_plan
from proofs_tests.documents.documents_examples import STAMP
from proofs_tests.plans.plan_examples import cost, fit
from reader_theory.acceptance import simulated_trace
from reader_theory.documents import Cost, CostTable, Off, Trace
from reader_theory.documents.cost import DrafterCost
from reader_theory.documents.policy import DRAFT, RETRIEVAL
from reader_theory.documents.trace import TraceDrafter, TracePrompt
from reader_theory.errors import InvalidInputError
from reader_theory.estimate import Estimate

VOCABULARY, CANDIDATES, TOKENS = 128, 4, 32


def random_models(seed: int, prompts: int = 8) -> Trace:
    """What two random models of 128 tokens leave behind: ranks and look-ups that are right by chance."""
    g = np.random.default_rng(seed)
    shape = (prompts, TOKENS)
    prompt, position = np.indices(shape)
    rank = g.integers(0, VOCABULARY, shape)
    match = np.where(g.random(shape) < np.minimum((16 + position) / VOCABULARY, 1), g.geometric(0.99, shape), 0)
    run = np.minimum(np.where(match > 0, g.geometric(1 - 1 / VOCABULARY, shape) - 1, 0), TOKENS - position)
    columns = {
        "prompt": prompt, "position": position, "context_tokens": position + 16, "token": rank,
        "draft_rank": np.where(rank < CANDIDATES, rank, -1), "retrieval_match": match, "retrieval_count": match > 0,
        "retrieval_offered": np.where(match > 0, 24, 0), "retrieval_run": run,
    }  # fmt: skip
    flat = {name: column.ravel().astype(np.int32) for name, column in columns.items()}
    even = np.full((prompts * TOKENS, CANDIDATES), 1 / VOCABULARY, dtype=np.float32)
    laws = {
        "draft_probability": even,
        "draft_overlap": even[:, 0],
        "target_probability": np.ones(len(even), np.float32),
    }
    names = [TracePrompt(id=str(i), workload="w", prompt_tokens=16, output_tokens=TOKENS) for i in range(prompts)]
    drafters = {
        DRAFT: TraceDrafter(kind="model", model="a/draft", candidates=CANDIDATES),
        RETRIEVAL: TraceDrafter(kind="lookups"),
    }
    return Trace.in_memory(
        flat | laws, stamp=STAMP, target="a/target", temperature=0.0, drafters=drafters, prompts=tuple(names)
    )


def short_calibration(seed: int) -> Cost:
    """A step measured so briefly that each point errs by 10 %, and plain decoding by as much again."""
    g = np.random.default_rng(seed)
    axes = {"batch": (1, 4), "tokens": (1, 2, 9, 33), "context": (64, 256)}
    b, t, _ = np.meshgrid(*axes.values(), indexing="ij")

    def noisy(seconds: Any) -> Any:
        return (seconds * np.exp(0.1 * g.standard_normal(seconds.shape))).tolist()

    def closed() -> Estimate:
        value = float(np.exp(0.1 * g.standard_normal()))
        return Estimate(value=value, low=0.97 * value, high=1.03 * value, origin="measured")

    small = Estimate.exact(1e-5, "measured")
    return Cost(
        stamp=STAMP, device="cpu", target="a/target", dtype="float32",
        target_forward=CostTable(**axes, seconds=noisy(1e-3 * (1 + 0.02 * b * t)), relative_spread=0.05),
        drafters={
            DRAFT: DrafterCost(
                model="a/draft", forward=CostTable(**axes, seconds=noisy(2e-4 * np.ones(b.shape)), relative_spread=0.05)
            ),
            RETRIEVAL: DrafterCost(term="lookups", row_s=small),
        },
        verify_s=small, commit_s=small, step_overhead_s=small, plain_overhead_s=small, closure=closed(),
        closures={"off": closed(), RETRIEVAL: closed(), f"{DRAFT}+{RETRIEVAL}": closed()},
    )  # fmt: skip


@pytest.mark.parametrize("tens", [(0,), pytest.param(range(1, 10), marks=pytest.mark.slow)], ids=["10", "90 more"])
def test_random_models_are_planned_off_in_every_short_calibration(tens: Iterable[int]) -> None:
    for seed in (10 * ten + one for ten in tens for one in range(10)):
        if seed % 10 == 0:
            recorded = random_models(seed)
            fitted = fit(recorded)
        options = {
            "batches": (1 + 3 * (seed % 2),),
            "max_nodes": 4,
            "max_depth": 2,
            "resamples": 100,
            "evaluations": 150,
        }
        for entry in make_plan(fitted, short_calibration(seed), recorded, **options).entries:
            assert entry.policy == Off(), (seed, entry.policy.name, entry.prediction.speed_up)
            assert entry.prediction.speed_up.value == 1.0 and entry.loss_chance == 0.0


def test_drafts_that_may_lose_are_left_out_at_the_stated_risk() -> None:
    recorded = simulated_trace(prompts=12, tokens=48, spread=0.5, seed=5)
    fitted = fit(recorded)
    drafted = {risk: 0 for risk in (0.01, 0.3)}
    for risk in drafted:
        for draft_s in np.geomspace(2e-3, 3e-2, 10):
            priced = cost(row_s=2e-2, draft_s=float(draft_s))
            options = {"batches": (1,), "max_nodes": 4, "max_depth": 3, "resamples": 200, "risk": risk}
            plan = make_plan(fitted, priced, recorded, **options)
            (entry,) = plan.entries
            assert plan.risk == risk >= entry.loss_chance
            drafted[risk] += entry.policy != Off()
    assert 0 < drafted[0.01] < drafted[0.3] < 10


def test_a_run_of_one_batch_gains_or_is_planned_off() -> None:
    """Its rows come to their end one by one, where a full batch gain is lost: no plan is said to be slower."""
    recorded = simulated_trace(prompts=24, tokens=48, spread=0.8, seed=5)
    fitted, drafted = fit(recorded), 0
    options = {"batches": (8,), "max_nodes": 4, "max_depth": 3, "resamples": 100, "prompts_per_workload": 8}
    for draft_s in np.geomspace(1e-3, 3e-2, 16):
        (entry,) = make_plan(fitted, cost(row_s=2e-3, draft_s=float(draft_s)), recorded, **options).entries
        assert entry.policy == Off() or entry.prediction.speed_up.value > 1, (draft_s, entry.prediction.speed_up)
        drafted += entry.policy != Off()
    assert 0 < drafted < 16


def test_a_certificate_says_what_it_certifies() -> None:
    recorded = simulated_trace(prompts=12, tokens=48, copying=0.05, seed=5)
    (entry,) = make_plan(fit(recorded), cost(), recorded, batches=(1,), max_nodes=8, resamples=100).entries
    assert entry.certifies.startswith("best tree of draft under its fitted table: ")
    assert entry.certifies.endswith(" replayed") and "ended early" not in entry.certifies
    (early,) = make_plan(
        fit(recorded), cost(), recorded, batches=(1,), max_nodes=8, resamples=100, evaluations=9
    ).entries
    assert "the search ended early" in early.certifies and "best of 9 replayed" in early.certifies


def test_a_risk_must_be_a_chance() -> None:
    recorded = simulated_trace(prompts=4, tokens=24, seed=5)
    with pytest.raises(InvalidInputError, match="risk"):
        make_plan(fit(recorded), cost(), recorded, risk=1.5)
