"""A plan from acceptance that an engine counted is the plan that the trace of the same run would give."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from optimizer.advice import acceptance_scaled, flips
from optimizer.imported_plan import ImportedStudy, plan_imported
from optimizer.imported_schedule import schedule_imported, settled_batch
from optimizer.plan import Study
from proofs_tests.importers.test_import_metrics import scrape
from proofs_tests.plans.plan_examples import cost, fit, trace
from reader_theory.acceptance import fit_acceptance
from reader_theory.documents import Cost, Off, Plan, Static, Trace
from reader_theory.documents.cost import DrafterCost
from reader_theory.documents.imported import ImportedAcceptance
from reader_theory.documents.policy import DRAFT
from reader_theory.errors import InvalidInputError
from reader_theory.trees.tree import TokenTree
from runtime.importers import read_acceptance

COST = cost().of([DRAFT])


def counted(recorded: Trace, length: int) -> ImportedAcceptance:
    """What an engine would count that drafts a chain of `length` where `recorded` was made, a window a prompt."""
    windows: list[list[int]] = []
    for prompt in range(len(recorded.prompts)):
        right = recorded.columns["draft_rank"][recorded.columns["prompt"] == prompt] == 0
        survivors, at = np.zeros(length + 1, dtype=int), 1
        while at < len(right):
            wrong = np.flatnonzero(~right[at : at + length])
            accepted = int(wrong[0]) if wrong.size else min(length, len(right) - at)
            survivors[: accepted + 1] += 1
            at += accepted + 1
        windows.append(survivors.tolist())
    return ImportedAcceptance.from_counts(windows, engine="vllm", source="metrics", workload="simulated")


@pytest.mark.slow
def test_the_house_pair_by_its_metrics_is_planned_as_by_its_trace(tmp_path: Path) -> None:
    """Our engine runs a chain of 4; what vLLM would expose of that run is imported, planned, and held to the trace."""
    from runtime import Engine, SamplingParams
    from runtime.measure.prompts import house_prompts
    from runtime.measure.record import record_trace
    from runtime.models.house import house_folder
    from runtime.models.load import load_model

    engine = Engine.from_pretrained(house_folder("target"), draft=house_folder("draft"), max_context=512)
    draft = load_model(str(house_folder("draft")), "float32")
    prompts = house_prompts(["code"], "fit", engine.tokenizer, 12)
    recorded = record_trace(
        engine.target, {DRAFT: draft}, prompts, path=tmp_path / "trace.json", temperature=0.0,
        new_tokens=64, names=("a/target", {DRAFT: "a/draft"}), ignore_eos=True, tokenizer=engine.tokenizer,
    )  # fmt: skip
    engine.use(Static.of(TokenTree.chain(4)))
    texts: list[str] = []
    for prompt in prompts:
        engine.generate([prompt.tokens], SamplingParams(max_new_tokens=64, ignore_eos=True))
        counters = engine.counters
        texts.append(scrape(np.array([counters.offered[DRAFT][0], *counters.accepted[DRAFT]])))
    (tmp_path / "metrics.txt").write_text("".join(texts))
    told = read_acceptance(tmp_path / "metrics.txt", workload="code")
    fitted = fit_acceptance(recorded, depth=4, resamples=100)
    replayed = Study(fitted, COST, recorded, "code", 8, 4)
    study = ImportedStudy(told, COST, DRAFT, 4)
    exact = [replayed.weighed(Static.of(TokenTree.chain(k))).result.tokens_per_step for k in range(1, 5)]
    for k, tokens in enumerate(exact, 1):
        low, high = np.quantile(study.lengths[k].draws, [0.025, 0.975])
        assert low <= tokens <= high
    (entry,) = plan_imported(told, COST, batches=(4,), max_depth=4).entries
    rates = [replayed.ranked(4, 1024.0)]
    best = max((rate for weighed, rate in rates[0] if weighed.policy.shape in ("chain", "off")), default=0.0)
    assert entry.prediction.tokens_per_s.covers(best)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Trace:
    return trace(tmp_path_factory.mktemp("imported") / "trace.npz")


@pytest.mark.parametrize("length", [3, 6])
def test_every_chain_is_what_the_replay_of_the_trace_gives(recorded: Trace, length: int) -> None:
    study = ImportedStudy(counted(recorded, length), COST, DRAFT, 8)
    replayed = Study(fit(recorded), COST, recorded, "simulated", 8, 8)
    for k in range(1, length + 1):
        exact = replayed.weighed(Static.of(TokenTree.chain(k))).result.tokens_per_step
        low, high = np.quantile(study.lengths[k].draws, [0.025, 0.975])
        assert study.lengths[k].tokens == pytest.approx(exact, rel=0.02)
        assert low <= exact <= high


def test_nothing_is_planned_past_the_counted_depth_and_the_document_says_so(recorded: Trace) -> None:
    cheap = cost(row_s=1e-6, draft_s=1e-5).of([DRAFT])
    plan = plan_imported(counted(recorded, 3), cheap, batches=(1,), max_depth=8)
    (entry,) = plan.entries
    assert entry.policy == Static.of(TokenTree.chain(3)) and "depth of acceptance" in entry.binding
    assert any("depth 3" in note for note in plan.notes) and not entry.certified
    assert {each.policy.shape for each in entry.candidates} == {"off", "chain"}
    (short,) = plan_imported(counted(recorded, 3), cheap, batches=(1,), max_depth=2).entries
    assert "max_depth" in short.binding


def test_off_is_chosen_where_the_gain_may_be_a_loss(recorded: Trace) -> None:
    dear = cost(draft_s=0.02).of([DRAFT])
    (entry,) = plan_imported(counted(recorded, 3), dear, batches=(1,)).entries
    assert entry.policy == Off() and entry.prediction.speed_up.value == 1
    assert (
        max(entry.candidates, key=lambda each: each.tokens_per_s).tokens_per_s
        <= 1.05 * entry.prediction.tokens_per_s.value
    )


def test_counts_that_are_few_give_wide_intervals(recorded: Trace) -> None:
    told = counted(recorded, 3)
    few = ImportedAcceptance.from_counts([[8, 5, 3, 1]] * 5, engine="vllm", source="m")
    wide, narrow = (
        (p := plan_imported(each, COST, batches=(1,)).entries[0].prediction.tokens_per_step).high - p.low
        for each in (few, told)
    )
    assert wide > 1.5 * narrow


def test_memory_caps_the_batch_and_the_plan_says_so(recorded: Trace) -> None:
    held = COST.model_copy(update={"kv_tokens": {"off": 20_000, DRAFT: 10_000}})
    free, full = (
        plan_imported(counted(recorded, 3), each, batches=(64,), contexts=(1000,)).entries[0] for each in (COST, held)
    )
    assert "memory" in full.binding and "memory" not in free.binding
    assert full.prediction.tokens_per_s.value < free.prediction.tokens_per_s.value
    nothing = COST.model_copy(update={"kv_tokens": {"off": 500, DRAFT: 400}})
    with pytest.raises(InvalidInputError, match="memory must hold"):
        plan_imported(counted(recorded, 3), nothing, batches=(1,), contexts=(1000,))


def test_a_cost_without_the_drafter_or_with_two_is_refused(recorded: Trace) -> None:
    two = COST.model_copy(update={"drafters": {**COST.drafters, "other": COST.drafters[DRAFT]}})
    for wrong, name in ((COST.of([]), None), (two, None), (COST, "other")):
        with pytest.raises(InvalidInputError, match="one drafter of the cost"):
            plan_imported(counted(recorded, 3), wrong, drafter=name)
    assert plan_imported(counted(recorded, 3), two, batches=(1,), drafter="other").entries


def test_steps_without_a_draft_cost_less_and_count(recorded: Trace) -> None:
    looks = DrafterCost(term="lookups", row_s=COST.step_overhead_s)
    ngram: Cost = COST.model_copy(update={"drafters": {"ngram": looks}})
    told = counted(recorded, 3)
    half = told.model_copy(update={"row_steps": 2 * told.drafts, "draft_tokens": 3 * told.drafts})
    every, some = (ImportedStudy(each, ngram, "ngram", 8).lengths[3] for each in (told, half))
    assert some.tokens == pytest.approx(1 + (every.tokens - 1) / 2, rel=0.01)
    assert (every.coverage, some.coverage) == (1.0, pytest.approx(0.5))
    assert some.drafted == 3


def test_what_lay_past_the_end_of_requests_is_no_token(recorded: Trace) -> None:
    """A plan gives the tokens that requests keep, at every length in the same share of what drafts added."""
    told = counted(recorded, 3)
    steps, whole = told.drafts, told.tokens_per_row_step
    kept = told.model_copy(update={"row_steps": steps, "emitted": steps * (1 + 0.9 * (whole - 1))})
    every, less = (ImportedStudy(each, COST, DRAFT, 8).lengths for each in (told, kept))
    assert less[3].tokens == pytest.approx(kept.tokens_per_row_step, rel=1e-9)
    for before, after in zip(every, less, strict=True):
        assert after.tokens - 1 == pytest.approx(0.9 * (before.tokens - 1), rel=1e-6)


def test_a_schedule_settles_where_littles_law_says(recorded: Trace) -> None:
    told = counted(recorded, 4)
    found = schedule_imported(told, COST, rate_per_s=1.0, batches=(1, 4, 16), contexts=(512,), output_tokens=100)
    (point,) = found.points
    assert point.sustained and point.running is not None and point.latency_s is not None
    assert point.running == pytest.approx(point.latency_s * 1.0, rel=1e-6)
    cells = {cell.batch: cell for cell in found.cells}
    alone = plan_imported(told, COST, batches=(4,), contexts=(512,)).entries[0]
    assert cells[4].policy == alone.policy and cells[4].tokens_per_s == pytest.approx(
        alone.prediction.tokens_per_s.value
    )
    assert isinstance(found.plan(512), Plan)
    study = ImportedStudy(told, COST, DRAFT, 8)
    assert settled_batch(study, 1.0, 512, 100) == pytest.approx(point.running, rel=0.2)
    for call in (lambda: settled_batch(study, 1e6, 512, 100), lambda: settled_batch(study, float("nan"), 512, 100)):
        with pytest.raises(InvalidInputError, match="rate"):
            call()
    unmet = schedule_imported(told, COST, rate_per_s=1e5, batches=(1,), contexts=(512,)).points[0]
    assert not unmet.sustained and unmet.capacity_per_s > 0


def test_a_target_in_time_forbids_what_is_too_slow(recorded: Trace) -> None:
    found = schedule_imported(counted(recorded, 4), COST, rate_per_s=1.0, slo_s=1e-6, batches=(1,), contexts=(512,))
    assert found.cells[0].policy is None and not found.points[0].sustained


def test_the_choice_flips_where_it_is_said_to(recorded: Trace) -> None:
    study = ImportedStudy(counted(recorded, 6), cost(row_s=1e-4).of([DRAFT]), DRAFT, 8)
    chosen = study.choice(16, 512.0)[0]
    found = flips(study, 16, 512.0)
    assert found
    for flip in found:
        other = study if flip.what != "acceptance" else acceptance_scaled(study, flip.at)
        batch = int(flip.at) if flip.what == "batch" else 16
        length = other.choice(batch, flip.at if flip.what == "context" else 512.0)[0]
        assert study.policy(length).name == flip.becomes and length != chosen
