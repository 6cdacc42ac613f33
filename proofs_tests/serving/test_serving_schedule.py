"""`reader plan --rate --slo`: the best tree at every batch and context, and where the rate settles by Little's law."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from optimizer.serving_schedule import schedule_problem, serving_schedule
from proofs_tests.plans import plan_examples as examples
from reader_theory.documents import Cost, Trace, read_document
from reader_theory.documents.fit import AcceptanceFit
from reader_theory.documents.schemas import document_kinds
from reader_theory.documents.serving_schedule import ServingSchedule
from reader_theory.errors import InvalidInputError
from runtime.cli.main import app

BATCHES = (1, 4, 16, 64)


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, AcceptanceFit, Cost, Trace]:
    folder = tmp_path_factory.mktemp("schedule")
    trace, cost = examples.trace(folder / "trace.json"), examples.cost()
    fit = examples.fit(trace)
    fit.write(folder / "fit.json")
    cost.write(folder / "cost.json")
    return folder, fit, cost, trace


def made(parts: tuple[Path, AcceptanceFit, Cost, Trace], **changes: Any) -> ServingSchedule:
    _, fit, cost, trace = parts
    asked: dict[str, Any] = {"rate_per_s": 2.0, "max_nodes": 12, "max_depth": 5}
    return serving_schedule(fit, cost, trace, **{**asked, **changes})


def test_trees_shrink_as_the_batch_grows_and_never_lose_to_plain_decoding(parts: Any) -> None:
    told = made(parts)
    assert len(told.cells) == 8 and told.cells[0].policy is not None
    for context in (64, 1024):
        row = [told.cell("simulated", context, batch) for batch in BATCHES]
        sizes = [cell.policy.tree.nodes for cell in row if cell.policy is not None]
        assert sizes == sorted(sizes, reverse=True) and sizes[0] > sizes[-1]
        assert all(cell.speed_up is not None and cell.speed_up >= 1 - 1e-12 for cell in row)
        assert all(cell.gap < 1e-9 and cell.tokens_per_step.low <= cell.tokens_per_step.value for cell in row)  # type: ignore[union-attr]


def test_a_step_is_never_cheaper_than_its_level_widths_make_it(parts: Any) -> None:
    _, fit, cost, _ = parts
    told, table = made(parts), fit.workload("simulated").ranks()
    problem = schedule_problem(table, cost, "draft", batches=BATCHES, contexts=(64, 1024), max_nodes=12, max_depth=5)
    assert problem.nodes == 12 and problem.depth == 5
    for cell in told.cells:
        assert cell.policy is not None and cell.step_s is not None
        widths = [1, *cell.policy.tree.level_widths.tolist()[:-1]] if cell.policy.fixed else []
        forward = float(cost.target_forward.at(cell.batch, cell.policy.tree.nodes + 1, cell.context))
        drafting = sum(float(cost.draft_forward.at(cell.batch, width, cell.context)) for width in widths)
        assert cell.step_s >= forward + drafting - 1e-12


def test_a_larger_rate_settles_at_a_larger_batch_until_none_sustains_it(parts: Any) -> None:
    points = [made(parts, rate_per_s=rate, contexts=(64,)).points[0] for rate in (0.2, 5.0, 15.0)]
    assert all(point.sustained for point in points)
    running = [point.running for point in points]
    assert running == sorted(running) and points[0].latency_s < points[-1].latency_s  # type: ignore[operator,type-var]
    assert all(p.batch is not None and p.running is not None and p.running <= 64 for p in points)
    over = made(parts, rate_per_s=2 * points[0].capacity_per_s, contexts=(64,)).points[0]
    assert not over.sustained and over.batch is None
    assert points[0].capacity_per_s >= points[0].off_capacity_per_s


def test_a_target_is_kept_by_every_cell_and_point_or_said_to_be_out_of_reach(parts: Any) -> None:
    told = made(parts, slo_s=0.016, rate_per_s=1.0)
    kept = [cell for cell in told.cells if cell.policy is not None]
    assert len(kept) > 0
    assert all(cell.step_s / cell.tokens_per_step.value <= 0.016 for cell in kept)  # type: ignore[operator,union-attr]
    assert all(p.seconds_per_token <= 0.016 for p in told.points if p.sustained)  # type: ignore[operator]
    none = made(parts, slo_s=1e-4)
    assert all(cell.policy is None for cell in none.cells) and not any(p.sustained for p in none.points)


def test_memory_ends_the_row(parts: Any) -> None:
    told = made(parts, kv_tokens=16 * 1024 + 200)
    assert told.cell("simulated", 1024, 64).policy is None
    assert told.cell("simulated", 64, 64).policy is not None
    kept = [cell.batch * (cell.context + 1) for cell in told.cells if cell.policy is not None]
    assert max(kept) <= 16 * 1024 + 200


def test_the_command_writes_a_document_that_reads_back(parts: Any) -> None:
    folder = parts[0]
    words = [
        "plan",
        folder / "fit.json",
        folder / "cost.json",
        "--trace",
        folder / "trace.json",
        "--rate",
        2,
        "--slo",
        0.02,
    ]
    asked = [str(word) for word in [*words, "--max-nodes", 8, "--output", folder / "schedule.json", "--json"]]
    done = CliRunner().invoke(app, asked)
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    document = read_document(folder / "schedule.json", document_kinds())
    assert isinstance(document, ServingSchedule) and told["fingerprint"] == document.fingerprint()
    assert len(told["rows"]) == len(document.cells) == 8 and told["points"][0]["sustained"]
    assert CliRunner().invoke(app, ["show", str(folder / "schedule.json")]).exit_code == 0
    hopeless = CliRunner().invoke(app, [*asked[:6], "1e6", *asked[7:]])
    assert hopeless.exit_code == 3


def test_a_schedule_exports_its_batches_to_vllm_with_the_loss_stated(parts: Any) -> None:
    folder, told = parts[0], made(parts)
    told.write(folder / "whole.json")
    words = ["export", "vllm", str(folder / "whole.json"), "--output", str(folder / "vllm.json"), "--nearest", "--json"]
    assert CliRunner().invoke(app, words).exit_code == 2, "it must ask which context"
    done = CliRunner().invoke(app, [*words, "--context", "64", "--max-batch", "64"])
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    rows = {row["batch"]: row for row in said["rows"]}
    assert sorted(rows) == list(BATCHES)
    for batch, row in rows.items():
        cell = told.cell("simulated", 64, batch)
        weighed = {each.policy.name: each.tokens_per_s for each in cell.candidates}
        assert row["exported"] in weighed and row["tokens_per_s"] == pytest.approx(weighed[row["exported"]])
        assert 0 <= row["lost_percent"] < 100 and max(weighed.values()) <= cell.tokens_per_s * (1 + 1e-12)


@pytest.mark.parametrize(
    "words", [["--slo", "1"], ["--kv-tokens", "64"], ["--scheduler", "tcp://x:1"], ["--rate", "-1"], ["--rate", "nan"]]
)
def test_what_makes_no_sense_ends_with_code_2(parts: Any, words: list[str]) -> None:
    folder = parts[0]
    files = [str(folder / name) for name in ("fit.json", "cost.json")]
    done = CliRunner().invoke(app, ["plan", *files, "--trace", str(folder / "trace.json"), *words, "--json"])
    assert done.exit_code == 2 and json.loads(done.stdout)["error"]["fix"]


@pytest.mark.parametrize(
    "words",
    [
        ["--rate", "1", "--resamples", "200"], ["--rate", "1", "--risk", "0.5"], ["--rate", "1", "--datastore", "x"],
        ["--kv-bytes", "1000", "--max-nodes", "4"], ["--kv", "all"], ["--quality-budget", "2"], ["--drafter", "draft"],
        ["--grid", "x.toml", "--batch", "2"], ["--grid", "x.toml", "--rate", "1"], ["--workers", "2"],
    ],
)  # fmt: skip
def test_an_option_that_nobody_would_read_is_refused_by_name(parts: Any, words: list[str], tmp_path: Path) -> None:
    folder = parts[0]
    files = [str(folder / name) for name in ("fit.json", "cost.json")]
    if "--grid" not in words:
        files += ["--trace", str(folder / "trace.json")]
    done = CliRunner().invoke(app, ["plan", *files, *words, "--output", str(tmp_path / "plan.json"), "--json"])
    told = json.loads(done.stdout)["error"]
    assert done.exit_code == 2 and "would ignore" in told["rule"] and told["got"] in words
    assert list(tmp_path.iterdir()) == []


def test_a_trace_without_a_draft_is_sent_to_the_plan_of_retrieval(parts: Any) -> None:
    _, fit, cost, trace = parts
    with pytest.raises(InvalidInputError, match="drafter with ranks"):
        serving_schedule(fit, cost.model_copy(update={"drafters": {}}), trace, rate_per_s=1.0)
