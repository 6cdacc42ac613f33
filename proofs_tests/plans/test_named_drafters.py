"""Two drafts of different size, and look-ups, under names: recorded, fitted, calibrated, planned, run and reported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from optimizer.plan import make_plan
from proofs_tests.cli.cli_examples import save_model, save_pair, save_prompts
from proofs_tests.tiny import TinyPrompt, random_prompts, tiny_model
from reader_theory.acceptance.fit import fit_acceptance
from reader_theory.documents import Cost, Plan, RunRecord, Static, Trace
from reader_theory.documents.fit import AcceptanceFit
from reader_theory.documents.serving_schedule import ServingSchedule
from reader_theory.trees import TokenTree
from reader_theory.validate import validate
from runtime.cli._models import named
from runtime.cli.main import app
from runtime.measure.calibrate import calibrate_cost
from runtime.measure.record import record_trace
from runtime.measure.replay import grown_family
from runtime.measure.run import run_plan
from runtime.models.load import wrap
from runtime.report.html import Part, write_report

TOKENS = 16


def drafts() -> dict[str, Any]:
    """The target itself, which is always right and dear, and a small model that is cheap and seldom right."""
    return {"twin": wrap(tiny_model("llama")), "small": wrap(tiny_model("llama", hidden=16, layers=1, seed=3))}


def prompts() -> list[TinyPrompt]:
    return random_prompts(4, workload="a", seed=0)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Trace, AcceptanceFit, Cost, Plan, Path]:
    folder, target = tmp_path_factory.mktemp("named"), wrap(tiny_model("llama"))
    names = ("the target", {"twin": "a/twin", "small": "a/small"})
    few = [policy for policy in grown_family(drafted=True) if policy.nodes == 8]
    record_trace(
        target, drafts(), prompts(), path=folder / "trace.json", new_tokens=TOKENS, candidates=4, names=names, grown=few
    )
    trace = Trace.read(folder / "trace.json")
    fit = fit_acceptance(trace, depth=4, resamples=100)
    cost = calibrate_cost(
        target, drafts(), prompts(), device_name="here", dtype="float32", names=names, batches=(1, 2),
        tokens=(1, 3, 9), contexts=(32, 64), seconds=0.2,
    )  # fmt: skip
    plan = make_plan(fit, cost, trace, batches=(1, 2), max_nodes=8, max_depth=3, new_tokens=TOKENS, resamples=100)
    return trace, fit, cost, plan, folder


def test_every_document_holds_a_table_a_drafter(made: Any) -> None:
    trace, fit, cost, plan, _ = made
    assert set(trace.drafters) == set(fit.drafters) == set(cost.drafters) == {"twin", "small", "retrieval"}
    assert plan.drafters == {"twin": "a/twin", "small": "a/small", "retrieval": None}
    found = fit.workload("a").drafters
    assert found["twin"].geometric.value == 1.0 > found["small"].geometric.value
    assert trace.grown.keys() == {"twin", "small"}
    assert {policy.drafter for policy in trace.grown["small"].policies} == {"small"}
    assert (cost.drafters["twin"].forward.values > 0).all() and cost.drafters["small"].model == "a/small"


def test_an_entry_says_what_every_drafter_would_have_given(made: Any) -> None:
    trace, _, _, plan, _ = made
    for entry in plan.entries:
        told = entry.alternatives
        assert {"twin", "small", "off"} <= told.keys() <= {*trace.drafters, "off"}
        assert all(name in told[name].policy.drafters for name in told.keys() - {"off"})
        assert max(each.tokens_per_s for each in told.values()) == pytest.approx(entry.upper_bound_tokens_per_s)
        assert entry.policy.drafters == () or set(entry.policy.drafters) <= set(trace.drafters)


@pytest.mark.parametrize("drafter", ["twin", "small"])
def test_a_plan_runs_with_the_drafter_that_it_names_and_is_reported(made: Any, drafter: str) -> None:
    trace, fit, cost, plan, folder = made
    entry = plan.entry("a", 2)
    asking = plan.model_copy(
        update={"entries": (entry.model_copy(update={"policy": Static.of(TokenTree.chain(3), drafter)}),)}
    )
    path = folder / f"run-{drafter}.json"
    run_plan(wrap(tiny_model("llama")), drafts(), asking, prompts(), path=path)
    record = RunRecord.read(path)
    (cell,) = record.cells
    assert record.drafters == plan.drafters and cell.lossless == "greedy_identical"
    assert cell.policy.name == f"chain 3 of {drafter}"
    assert (cell.tokens_per_step > 3) == (drafter == "twin")
    part = Part(asking, record, validate(asking, record), fit, cost, trace)
    report = write_report(folder / f"{drafter}.html", [part], title="two drafts")
    text = report.read_text()
    assert drafter in text and "a/small" in text and "Tokens a second with other drafters" in text


@pytest.mark.slow
def test_two_drafts_go_through_every_command(tmp_path: Path) -> None:
    """A draft that is always right and one that never is: both recorded, priced and told of; the plan's own is run."""
    target, good = save_pair(tmp_path)
    poor, texts = save_model(tmp_path / "poor", 9, 16), save_prompts(tmp_path / "prompts.jsonl", 2)
    prompts = ["--prompts", texts, "--workload", "code"]
    models = ["--target", target, "--draft", f"good={good}", "--draft", f"poor={poor}", *prompts]
    grid = ["--batch", 1, "--batch", 2, "--tokens", 1, "--tokens", 4, "--context", 32, "--context", 96]
    planning = ["fit.json", "cost.json", "--trace", "trace.json", "--max-nodes", 4, "--max-depth", 2]
    shown = ["--fit", "fit.json", "--cost", "cost.json", "--trace", "trace.json"]
    stages: list[list[Any]] = [
        ["record", *models, "--new-tokens", 12, "--candidates", 64, "--output", "trace.json"],
        ["fit", "trace.json", "--resamples", 100, "--output", "fit.json"],
        ["calibrate", *models, *grid, "--seconds", 0.05, "--output", "cost.json"],
        ["plan", *planning, "--batch", 1, "--batch", 2, "--resamples", 100, "--output", "plan.json"],
        ["plan", *planning, "--rate", 1e-6, "--output", "schedule.json"],
        ["run", "plan.json", *prompts, "--output", "run.json"],
        ["validate", "plan.json", "run.json", "--output", "validation.json"],
        ["report", "plan.json", "run.json", "validation.json", *shown, "--output", "report.html"],
    ]
    for words in stages:
        placed = [str(tmp_path / w if str(w).endswith((".json", ".html")) else w) for w in words]
        done = CliRunner().invoke(app, placed, catch_exceptions=False)
        assert done.exit_code == 0, done.output
    trace, plan = Trace.read(tmp_path / "trace.json"), Plan.read(tmp_path / "plan.json")
    schedule = ServingSchedule.read(tmp_path / "schedule.json")
    named = {"good": str(good), "poor": str(poor), "retrieval": None}
    assert plan.drafters == schedule.drafters == schedule.plan(32).drafters == named
    assert all({"good", "poor", "off"} <= entry.alternatives.keys() for entry in plan.entries)
    assert np.mean(trace.columns["good_rank"] == 0) > np.mean(trace.columns["poor_rank"] == 0)
    for cell in schedule.cells:
        told = {name: each.tokens_per_s for name, each in cell.alternatives.items()}
        assert {"good", "poor", "off"} <= told.keys() and cell.tokens_per_s >= max(told.values()) * (1 - 1e-9)
        assert cell.policy is not None and set(cell.policy.drafters) <= named.keys()
        assert all(cell.alternatives[name].policy.drafters == (name,) for name in ("good", "poor"))
    record = RunRecord.read(tmp_path / "run.json")
    assert [cell.policy for cell in record.cells] == [entry.policy for entry in plan.entries]
    report = (tmp_path / "report.html").read_text()
    assert "Tokens a second with other drafters" in report and "poor" in report


def test_the_command_line_names_drafts() -> None:
    assert named("t", ["big", "small=x/y"]) == ("t", {"draft": "big", "small": "x/y"})
    assert named("t", None) == ("t", {}) == named("t", ["none"])
    for bad in (["a", "b"], ["s=a", "s=b"], ["=a"], ["s="]):
        with pytest.raises(ValueError, match="name of its own"):
            named("t", bad)
