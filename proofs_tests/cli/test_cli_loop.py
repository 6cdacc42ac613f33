"""The command line carries documents through the whole loop, on tiny models in local folders."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from proofs_tests.cli.cli_examples import WORKLOADS, save_model, save_pair, save_prompts
from reader_theory.documents import Cost, CostTable, Plan, read_document
from reader_theory.documents.schemas import document_kinds
from reader_theory.estimate import Estimate
from runtime.cli.main import app


@dataclass(frozen=True)
class Loop:
    """A folder in which every stage has run, and what each printed for machines."""

    folder: Path
    told: dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def loop(tmp_path_factory: pytest.TempPathFactory) -> Loop:
    folder = tmp_path_factory.mktemp("loop")
    target, draft = save_pair(folder)
    models = ["--target", str(target), "--draft", str(draft), "--prompts", str(save_prompts(folder / "prompts.jsonl"))]
    grid = ["--batch", "1", "--batch", "2", "--tokens", "1", "--tokens", "4", "--context", "32", "--context", "96"]
    stages = {
        "record": [*models, "--new-tokens", "12", "--grown", "--output", "trace.json"],
        "fit": ["trace.json", "--resamples", "100", "--output", "fit.json"],
        "calibrate": [*models, *grid, "--seconds", "0.05", "--output", "cost.json"],
        "plan": ["fit.json", "steady.json", "--trace", "trace.json", "--batch", "1", "--batch", "2", "--new-tokens",
                 "12", "--max-nodes", "4", "--max-depth", "2", "--resamples", "100", "--output", "plan.json"],
        "run": ["plan.json", *models[4:], "--output", "run.json"],
        "validate": ["plan.json", "run.json", "--output", "validation.json"],
        "report": ["plan.json", "run.json", "validation.json", "--fit", "fit.json", "--cost", "steady.json", "--trace",
                   "trace.json", "--output", "report.html"],
    }  # fmt: skip
    told: dict[str, dict[str, Any]] = {}
    for stage, arguments in stages.items():
        placed = [str(folder / word) if word.endswith((".json", ".html")) else word for word in arguments]
        done = CliRunner().invoke(app, [stage, *placed, "--json"], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        told[stage] = json.loads(done.stdout)
        if stage == "calibrate":
            steady(Cost.read(folder / "cost.json")).write(folder / "steady.json")
    return Loop(folder, told)


def steady(cost: Cost) -> Cost:
    """The same with forwards of 10 and 1 ms and no doubt, whatever this machine measured just now."""

    def flat(table: CostTable, seconds: float) -> CostTable:
        planes = tuple(tuple((seconds,) * len(row) for row in plane) for plane in table.seconds)
        return table.model_copy(update={"seconds": planes, "relative_spread": 0.0})

    one, draft = Estimate.exact(1.0, "assumed"), cost.drafters["draft"]
    assert draft.forward is not None
    quick = draft.model_copy(update={"forward": flat(draft.forward, 1e-3)})
    return cost.model_copy(
        update={
            "target_forward": flat(cost.target_forward, 1e-2), "drafters": {**cost.drafters, "draft": quick},
            "closure": one, "closures": dict.fromkeys(cost.closures, one), "ratios": dict.fromkeys(cost.ratios, one),
        }
    )  # fmt: skip


@pytest.mark.parametrize(
    ("stage", "kind"),
    [("record", "trace"), ("fit", "acceptance_fit"), ("calibrate", "cost"), ("plan", "plan"), ("run", "run_record"),
     ("validate", "validation")],
)  # fmt: skip
def test_a_stage_tells_machines_what_it_wrote(loop: Loop, stage: str, kind: str) -> None:
    told = loop.told[stage]
    document = read_document(told["path"], document_kinds())
    assert told["kind"] == document.kind == kind
    assert told["fingerprint"] == document.fingerprint()
    assert told["rows"]


def test_models_and_type_of_a_run_are_those_of_its_plan(loop: Loop) -> None:
    planned, run = loop.told["plan"], loop.told["run"]
    models = {name: model for name, model in planned["drafters"].items() if model is not None}
    assert (run["target"], run["drafters"], run["dtype"]) == (planned["target"], models, planned["dtype"])
    assert Path(run["target"]).name == "target"


def test_a_draft_that_is_always_right_is_used(loop: Loop) -> None:
    assert {row["draft_top_1"] for row in loop.told["record"]["rows"]} == {1.0}
    assert "off" not in {row["policy"] for row in loop.told["run"]["rows"]}
    assert min(row["tokens_per_step"] for row in loop.told["run"]["rows"]) > 1.5


def test_grown_policies_are_recorded_weighed_and_shown(loop: Loop) -> None:
    for row in loop.told["record"]["rows"]:
        assert row["grown_tree_tokens_per_step"] >= row["retrieved_tree_tokens_per_step"] >= 1.0
    entries = Plan.read(loop.folder / "plan.json").entries
    names = {candidate.policy.name for each in entries for candidate in each.candidates}
    assert any(name.startswith(("grown tree", "retrieved tree")) for name in names)
    assert {"off"} | {row["policy"] for row in loop.told["run"]["rows"]} <= names


def test_a_run_tells_how_many_tokens_came_from_each_source(loop: Loop) -> None:
    for row in loop.told["run"]["rows"]:
        shares = [value for name, value in row.items() if name.startswith("from_")]
        assert shares and row["tokens_per_step"] == pytest.approx(1 + sum(shares), rel=0.05)


def test_plans_by_context_are_made_and_run(loop: Loop, tmp_path: Path) -> None:
    files = [str(loop.folder / name) for name in ("fit.json", "cost.json")]
    asked = ["--trace", str(loop.folder / "trace.json"), "--batch", "1", "--context", "64", "--context", "1000"]
    few = ["--max-nodes", "3", "--max-depth", "2", "--resamples", "100"]
    done = CliRunner().invoke(app, ["plan", *files, *asked, *few, "--output", str(tmp_path / "plan.json"), "--json"])
    rows = json.loads(done.stdout)["rows"]
    assert [(row["workload"], row["context"]) for row in rows] == [(w, c) for w in WORKLOADS for c in (64, 1000)]
    run = ["run", str(tmp_path / "plan.json"), "--prompts", str(loop.folder / "prompts.jsonl"), "--limit", "1"]
    done = CliRunner().invoke(app, [*run, "--output", str(tmp_path / "run.json"), "--json"], catch_exceptions=False)
    assert {row["workload"] for row in json.loads(done.stdout)["rows"]} == set(WORKLOADS)
    cells = json.loads((tmp_path / "run.json").read_text())["cells"]
    assert all(cell["context_tokens"] > 0 for cell in cells)


def test_greedy_output_of_every_cell_is_checked_against_plain_decoding(loop: Loop) -> None:
    rows = loop.told["run"]["rows"]
    assert [(row["workload"], row["batch"]) for row in rows] == [(name, b) for name in WORKLOADS for b in (1, 2)]
    assert {row["output"] for row in rows} <= {"identical", "identical but for ties"}


def test_a_run_of_one_workload_is_still_a_run_of_its_plan(loop: Loop, tmp_path: Path) -> None:
    prompts, plan = loop.folder / "prompts.jsonl", str(loop.folder / "plan.json")
    one = ["--workload", "code", "--batch", "1", "--limit", "2", "--prompts", str(prompts)]
    run = CliRunner().invoke(app, ["run", plan, *one, "--output", str(tmp_path / "run.json"), "--json"])
    assert [(row["workload"], row["batch"]) for row in json.loads(run.stdout)["rows"]] == [("code", 1)]
    judged = ["validate", plan, str(tmp_path / "run.json"), "--output", str(tmp_path / "v.json")]
    assert CliRunner().invoke(app, judged).exit_code == 0


def test_strict_validation_exits_with_3_exactly_when_a_value_misses_its_interval(loop: Loop, tmp_path: Path) -> None:
    judged = ["validate", *(str(loop.folder / name) for name in ("plan.json", "run.json"))]
    done = CliRunner().invoke(app, [*judged, "--strict", "--output", str(tmp_path / "v.json"), "--json"])
    inside = all(row["inside"] for row in json.loads(done.stdout)["rows"])
    assert done.exit_code == (0 if inside else 3)
    assert (tmp_path / "v.json").is_file(), "the document is written whether or not it is strict"


def test_validation_of_another_plan_is_bad_input(loop: Loop, tmp_path: Path) -> None:
    plan = json.loads((loop.folder / "plan.json").read_text())
    (tmp_path / "plan.json").write_text(json.dumps({**plan, "new_tokens": 13}))
    judged = ["validate", str(tmp_path / "plan.json"), str(loop.folder / "run.json")]
    done = CliRunner().invoke(app, [*judged, "--output", str(tmp_path / "v.json")])
    assert done.exit_code == 2
    assert "must be a run of `plan`" in done.stderr
    assert not (tmp_path / "v.json").exists()


@pytest.mark.parametrize("name", ["trace", "fit", "cost", "plan", "run", "validation"])
def test_show_reads_every_document(loop: Loop, name: str) -> None:
    done = CliRunner().invoke(app, ["show", str(loop.folder / f"{name}.json")])
    assert done.exit_code == 0
    assert "─" in done.stdout, "a table"


def test_report_of_the_loop_holds_every_figure(loop: Loop) -> None:
    page = (loop.folder / "report.html").read_text()
    assert loop.told["report"]["bytes"] == len(page.encode())
    headings = ("Predicted against measured", "draft trees", "Acceptance", "Step cost", "Where a step")
    assert [heading for heading in headings if heading not in page] == []


def test_target_without_draft_records_retrieval_alone(loop: Loop, tmp_path: Path) -> None:
    models = ["--target", str(loop.folder / "target"), "--prompts", str(loop.folder / "prompts.jsonl")]
    output = ["--new-tokens", "4", "--limit", "2", "--output", str(tmp_path / "trace.json"), "--json"]
    done = CliRunner().invoke(app, ["record", *models, *output])
    assert json.loads(done.stdout)["draft"] is None


def test_a_draft_of_another_vocabulary_is_bad_input(loop: Loop, tmp_path: Path) -> None:
    other = save_model(tmp_path / "other", 3, vocabulary=300)
    models = ["--target", str(loop.folder / "target"), "--draft", str(other)]
    done = CliRunner().invoke(app, ["record", *models, "--output", str(tmp_path / "trace.json")])
    assert done.exit_code == 2
    assert "one vocabulary" in done.stderr
    assert "300" in done.stderr
    assert not (tmp_path / "trace.json").exists()
