"""Plans by context: entries where the cost tells contexts apart, run by the engine, held against their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from optimizer.plan import make_plan
from proofs_tests.documents.documents_examples import STAMP
from proofs_tests.export.exports import export_vllm
from proofs_tests.plans.plan_examples import fit
from proofs_tests.tiny import TinyPrompt, tiny_model
from reader_theory.acceptance import simulated_trace
from reader_theory.documents import Cost, CostTable, DrafterCost, Plan
from reader_theory.errors import InvalidInputError, UnsupportedByEngineError
from reader_theory.estimate import Estimate
from reader_theory.validate import validate
from runtime.engine.engine import Engine
from runtime.engine.sampling import SamplingParams
from runtime.measure.run import run_plan
from runtime.models.load import wrap

SHORT, LONG = 32, 96


def cost(contexts: tuple[int, ...] = (SHORT, LONG)) -> Cost:
    """Nodes are free at the short context and dear at the long one."""
    batch, tokens = (1, 4), (1, 2, 8, 32)
    b, t, c = np.meshgrid(batch, tokens, contexts, indexing="ij")
    slow = 0.02 + 2e-3 * b * (t - 1) * (c > SHORT)
    axes = {"batch": batch, "tokens": tokens, "context": contexts, "relative_spread": 0.05}
    small = Estimate.exact(1e-5, "measured")
    return Cost(
        stamp=STAMP, device="cpu", target="a/target", dtype="float32",
        target_forward=CostTable(**axes, seconds=slow.tolist()),
        drafters={
            "draft": DrafterCost(forward=CostTable(**axes, seconds=np.full(slow.shape, 1e-4).tolist())),
            "retrieval": DrafterCost(term="lookups", row_s=small),
        },
        verify_s=small, commit_s=small, step_overhead_s=small, plain_overhead_s=small,
        closure=Estimate.exact(1.0, "measured"),
    )  # fmt: skip


@pytest.fixture(scope="module")
def planned() -> Plan:
    recorded = simulated_trace(prompts=12, tokens=48, seed=5, workload="random")
    found = make_plan(
        fit(recorded), cost(), recorded, batches=(1, 2), contexts=(LONG, SHORT), max_nodes=8, max_depth=4,
        new_tokens=24, resamples=100,
    )  # fmt: skip
    return found


def test_entries_follow_the_cost_of_their_context(planned: Plan) -> None:
    assert [(e.context_tokens, e.batch) for e in planned.entries] == [(SHORT, 1), (SHORT, 2), (LONG, 1), (LONG, 2)]
    sizes = {(e.context_tokens, e.batch): e.policy.tree.nodes for e in planned.entries}
    assert sizes[SHORT, 1] > sizes[LONG, 1] and sizes[SHORT, 2] > sizes[LONG, 2]
    steps = {(e.context_tokens, e.batch): e.prediction.step_s.value for e in planned.entries}
    assert steps[LONG, 1] == pytest.approx(
        sum(next(e for e in planned.entries if e.context_tokens == LONG).prediction.terms_s.values())
    )


def models() -> tuple[Any, Any]:
    return wrap(tiny_model("llama")), wrap(tiny_model("llama", hidden=32, layers=1, seed=1))


def test_the_engine_drafts_another_tree_as_its_rows_grow_longer(planned: Plan) -> None:
    target, draft = models()
    engine = Engine(target, draft, policy=planned, max_batch=1, max_context=128)
    (done,) = engine.generate([np.arange(8)], SamplingParams(max_new_tokens=80))
    plain = Engine(target, max_batch=1, max_context=128).generate([np.arange(8)], SamplingParams(max_new_tokens=80))
    assert done.tokens == plain[0].tokens
    texts = np.cumsum([9, *(step.emitted for step in engine.timings)])
    trees = {c: planned.entry("random", 1, c).policy.tree.nodes for c in (SHORT, LONG)}
    middle = [(t, step.nodes) for t, step in zip(texts, engine.timings, strict=False) if t < 70]
    assert {nodes for t, nodes in middle if t <= SHORT} == {trees[SHORT]}
    assert {nodes for t, nodes in middle if t > SHORT} == {trees[LONG]}


def test_a_run_is_held_against_the_entry_of_its_context(planned: Plan, tmp_path: Path) -> None:
    tokens = np.random.default_rng(0).integers(0, 64, (2, 60))
    for length, context in ((8, SHORT), (60, LONG)):
        prompts = [TinyPrompt(str(i), "random", row[:length]) for i, row in enumerate(tokens)]
        record = run_plan(*models(), planned, prompts, path=tmp_path / "run.json", batches=[1], compare_plain=False)
        entry = next(e for e in planned.entries if (e.context_tokens, e.batch) == (context, 1))
        assert [cell.policy for cell in record.cells] == [entry.policy]
        (told,) = validate(planned, record).of("step_s")
        assert told.predicted == entry.prediction.step_s


def test_contexts_that_the_cost_does_not_tell_apart_are_refused() -> None:
    recorded = simulated_trace(prompts=4, tokens=24, seed=5)
    with pytest.raises(InvalidInputError, match="two contexts or more"):
        make_plan(fit(recorded), cost((SHORT,)), recorded, contexts=(16, 64), resamples=100)


def test_an_engine_that_follows_no_context_refuses_a_plan_by_context(planned: Plan) -> None:
    with pytest.raises(UnsupportedByEngineError, match="one entry a batch"):
        export_vllm(planned, "random")
