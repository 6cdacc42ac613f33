"""The plan's schedule is looked up by batch and context; counters say what happened; drift asks for a new plan."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from proofs_tests.documents.documents_examples import plan
from proofs_tests.tiny import POLICIES, TinyPrompt, random_prompts, tiny_model
from reader_theory.acceptance.drift_test import DriftReport
from reader_theory.acceptance.fit import fit_acceptance
from reader_theory.documents import Policy, Trace, policy_of
from reader_theory.trees import TokenTree
from runtime.engine.engine import Engine
from runtime.engine.sampling import SamplingParams
from runtime.measure.drift import DriftMonitor
from runtime.measure.record import record_trace
from runtime.models.load import wrap

CHAINS = {
    (batch, context): policy_of(TokenTree.chain(k))
    for k, (batch, context) in enumerate([(1, 16), (4, 16), (1, 64), (4, 64)], start=1)
}


def _scheduled() -> Any:
    first = plan().entries[0]
    entries = [
        first.model_copy(update={"batch": batch, "context_tokens": context, "policy": policy})
        for (batch, context), policy in CHAINS.items()
    ]
    return plan().model_copy(update={"entries": tuple(entries)}), first.workload


@pytest.mark.parametrize(
    ("rows", "context", "cell"),
    [(1, 3, (1, 16)), (2, 16, (4, 16)), (1, 17, (1, 64)), (9, 64, (4, 64)), (1, 900, (1, 64))],
)
def test_an_entry_is_looked_up_by_batch_and_context(rows: int, context: float, cell: tuple[int, int]) -> None:
    document, workload = _scheduled()
    assert document.entry(workload, rows, context).policy == CHAINS[cell]


def test_the_engine_drafts_by_the_cell_that_it_is_in() -> None:
    draft = wrap(tiny_model("llama", hidden=32, layers=1, seed=1))
    engine = Engine(wrap(tiny_model("llama")), draft, policy=_scheduled()[0], max_batch=4, max_context=96)
    engine.generate([np.arange(8)], SamplingParams(max_new_tokens=24))
    nodes, texts = [step.nodes for step in engine.timings], np.cumsum([9, *(s.emitted for s in engine.timings)])
    for count, text in zip(nodes, texts, strict=False):
        last = 8 + 24 - 1  # a node deeper than the last token but one could never be emitted
        assert count == min(1 if text <= 16 else 3, last - text)


def test_counters_add_up() -> None:
    draft = wrap(tiny_model("llama", hidden=32, layers=1, seed=1))
    engine = Engine(wrap(tiny_model("llama")), draft, policy=POLICIES["both"], max_batch=3, max_context=96)
    done = engine.generate([p.tokens for p in random_prompts(6)], SamplingParams(max_new_tokens=16))
    counted = engine.counters
    assert counted.finished == {"length": 6}
    assert counted.steps == len(engine.timings) and counted.row_steps == sum(each.steps for each in done)
    assert counted.emitted == sum(len(each.tokens) - 1 for each in done)
    assert sum(map(sum, counted.accepted.values())) == sum(each.accepted for each in done) > 0
    assert sum(map(sum, counted.offered.values())) == sum(step.nodes for step in engine.timings)
    assert counted.accepted.keys() == {"draft", "retrieval"}
    assert all(0 <= share <= 1 for source in counted.offered for share in counted.acceptance(source))
    assert counted.seconds["step"] == pytest.approx(sum(step.step_s for step in engine.timings))
    assert type(counted).model_validate_json(counted.model_dump_json()) == counted


def _served(count: int, seed: int, repeat: bool) -> list[TinyPrompt]:
    return random_prompts(count, workload="random", seed=seed, repeat=repeat)


def test_drift_is_found_replanned_and_tested_against_the_new_fit(tmp_path: Any) -> None:
    target, draft = wrap(tiny_model("llama")), wrap(tiny_model("llama", hidden=32, layers=1, seed=1))
    fitted = record_trace(
        target, target, _served(12, 0, True), path=tmp_path / "trace.json", new_tokens=16, names=("tiny", "itself")
    )
    asked: list[tuple[DriftReport, Trace]] = []

    def replan(report: DriftReport, trace: Trace) -> Policy:
        asked.append((report, trace))
        return POLICIES["off"]

    fit = fit_acceptance(fitted, resamples=200)
    same = DriftMonitor(fit, "random", target, target, block=6, replan=replan)
    steady = Engine(target, draft, policy=POLICIES["tree"], max_batch=3, max_context=96, monitor=same)
    steady.generate([p.tokens for p in _served(12, 5, True)], SamplingParams(max_new_tokens=16))
    assert len(same.reports) == 2 and not asked, "the draft that was fitted drafts as it did"

    other = DriftMonitor(fit, "random", target, draft, block=6, replan=replan)
    engine = Engine(target, draft, policy=POLICIES["tree"], max_batch=3, max_context=96, monitor=other)
    engine.generate([p.tokens for p in _served(12, 5, True)], SamplingParams(max_new_tokens=16))
    assert len(asked) == 1 and asked[0][0].drifted, "a worse draft is drift, once: the second block fits the new fit"
    assert [report.drifted for report in other.reports] == [True, False]
    assert other.reports[1].level < other.reports[0].level
    assert engine.timings[0].drafted and not engine.timings[-1].drafted, "the new policy runs from the next step on"
