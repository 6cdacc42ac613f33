"""`reader datastore` sorts what people have into what drafts are taken from, whole or not at all."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from proofs_tests.cli.cli_examples import save_pair, save_prompts, tokenizer
from proofs_tests.documents import documents_examples as examples
from reader_theory.documents import Cost, Plan, RunRecord, Trace
from runtime.cli.main import app
from runtime.models.text import encode_text
from runtime.models.vocabulary import fingerprint_of
from runtime.retrieval.datastore import Datastore


def invoke(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["datastore", *(str(argument) for argument in arguments)])


@pytest.fixture
def target(tmp_path: Path) -> Path:
    tokenizer().save_pretrained(tmp_path / "target")
    return tmp_path / "target"


def test_outputs_of_every_kind_are_sorted_in(tmp_path: Path, target: Path) -> None:
    words = tokenizer()
    trace = examples.trace(tmp_path / "trace.json")
    (tmp_path / "lines.jsonl").write_text(
        json.dumps({"prompt": "for number", "output": " in range"})
        + "\n"
        + json.dumps({"text": "total"})
        + "\n"
        + json.dumps({"output": [1, 2, 3]})
        + "\n"
    )
    (tmp_path / "whole.txt").write_text("print(total)\n")
    with gzip.open(tmp_path / "more.jsonl.gz", "wt") as file:
        file.write(json.dumps({"completion": "count"}) + "\n")
    path = tmp_path / "past.datastore"
    given = ("trace.json", "lines.jsonl", "whole.txt", "more.jsonl.gz")
    done = invoke("build", *(tmp_path / name for name in given), "--target", target, "-o", path, "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    texts = ("for number in range", "total", "print(total)\n", "count")
    expected = [encode_text(words, text).tolist() for text in texts] + [[1, 2, 3], trace.columns["token"].tolist()]
    made = Datastore.open(path)
    assert sorted(text.tolist() for text in made.texts()) == sorted(expected)
    assert told["rows"][0]["documents"] == 6 and told["rows"][0]["tokens"] == made.tokens
    assert made.tokenizer == told["rows"][0]["tokenizer"] == fingerprint_of(words)


def test_more_is_added_by_the_same_tokenizer_only(tmp_path: Path, target: Path) -> None:
    (tmp_path / "one.txt").write_text("range(count)")
    path = tmp_path / "past.datastore"
    assert invoke("build", tmp_path / "one.txt", "--target", target, "-o", path).exit_code == 0
    assert invoke("add", tmp_path / "one.txt", "--datastore", path, "--target", target).exit_code == 0
    assert Datastore.open(path).documents == 2
    before = path.read_bytes()
    refused = invoke("add", tmp_path / "one.txt", "--datastore", path)
    assert refused.exit_code == 2 and "one tokenizer" in refused.stderr
    assert path.read_bytes() == before
    shown = invoke("show", path)
    assert shown.exit_code == 0 and "documents" in shown.stdout


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        ('{"question": "why"}\n', "must hold an output"),
        ('{"output": {"a": 1}}\n', "text, or token ids"),
        ('{"output": [1, "a"]}\n', "text, or token ids"),
        ('{"output": [1, -4]}\n', "token ids in"),
        ('{"output": [100000]}\n', "vocabulary"),
        ('{"output": ""}\n', "must hold some output"),
    ],
)
def test_what_is_no_output_is_refused(tmp_path: Path, target: Path, content: str, rule: str) -> None:
    (tmp_path / "bad.jsonl").write_text(content)
    path = tmp_path / "past.datastore"
    done = invoke("build", tmp_path / "bad.jsonl", "--target", target, "-o", path)
    assert done.exit_code == 2 and rule in done.stderr, done.output
    assert not path.exists()


def test_what_is_no_datastore_is_refused(tmp_path: Path) -> None:
    (tmp_path / "no.datastore").write_bytes(np.arange(200, dtype=np.uint8).tobytes())
    for name in ("no.datastore", "absent.datastore"):
        done = invoke("show", tmp_path / name)
        assert done.exit_code == 2 and "datastore" in done.stderr


def stage(*arguments: object) -> dict[str, Any]:
    done = CliRunner().invoke(app, [*(str(argument) for argument in arguments), "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_a_datastore_is_recorded_priced_planned_and_run(tmp_path: Path) -> None:
    target, _ = save_pair(tmp_path)
    models = ("--target", target, "--draft", "none", "--prompts", save_prompts(tmp_path / "prompts.jsonl"))
    names = ("past", "trace", "fit", "cost", "plan", "bare", "chosen", "run", "sweep")
    made = {name: tmp_path / f"{name}.json" for name in names}
    stage("record", *models, "--new-tokens", 24, "-o", made["past"])
    store = tmp_path / "past.datastore"
    stage("datastore", "build", made["past"], "--target", target, "-o", store)
    beside = ("--datastore", store)
    stage("record", *models, *beside, "--grown", "--new-tokens", 24, "-o", made["trace"])
    trace = Trace.read(made["trace"])
    assert trace.drafters["datastore"].model == str(store)
    assert trace.columns["datastore_run"].sum() > trace.columns["retrieval_run"].sum()
    stage("fit", made["trace"], "--resamples", 100, "-o", made["fit"])
    grid = ("--batch", 1, "--tokens", 1, "--tokens", 9, "--context", 32, "--context", 96, "--seconds", 0.05)
    stage("calibrate", *models, *beside, *grid, "-o", made["cost"])
    cost = Cost.read(made["cost"])
    assert cost.drafters["datastore"].row_s is not None and "datastore" in cost.closures
    planning = ("plan", made["fit"], made["cost"], "--trace", made["trace"], "--batch", 1, "--resamples", 100)
    stage(*planning, *beside, "-o", made["plan"])
    stage(*planning, "-o", made["bare"])
    plan, bare = Plan.read(made["plan"]), Plan.read(made["bare"])
    assert plan.drafters["datastore"] == str(store) and "datastore" not in bare.drafters
    looking = {entry.workload: entry.alternatives["datastore"] for entry in plan.entries}
    past = {entry.workload: entry.alternatives["retrieval"] for entry in plan.entries}
    assert any(looking[name].tokens_per_step > past[name].tokens_per_step for name in looking)
    entries = tuple(entry.model_copy(update={"policy": looking[entry.workload].policy}) for entry in plan.entries)
    plan.model_copy(update={"entries": entries}).write(made["chosen"])
    assert all("datastore" not in each.policy.drafters for entry in bare.entries for each in entry.candidates)
    running = ("run", made["chosen"], *models[4:], "-o", made["run"])
    refused = CliRunner().invoke(app, [str(word) for word in running])
    assert refused.exit_code == 2 and "Pass --datastore" in refused.stderr
    assert not made["run"].exists()
    stage(*running, *beside)
    record = RunRecord.read(made["run"])
    assert record.drafters["datastore"] == str(store)
    assert {cell.lossless for cell in record.cells} <= {"greedy_identical", "greedy_near_tie"}
    for cell in record.cells:
        assert cell.tokens_per_step == pytest.approx(looking[cell.workload].tokens_per_step, rel=1e-9)
    stage("sweep", made["chosen"], *models[4:], *beside, "--batch", 1, "--limit", 1, "-o", made["sweep"])


def test_a_datastore_of_another_tokenizer_is_refused(tmp_path: Path) -> None:
    target, _ = save_pair(tmp_path)
    Datastore.build([[1, 2]], tokenizer="1234567812345678").save(tmp_path / "other.datastore")
    words = ("record", "--target", target, "--datastore", tmp_path / "other.datastore", "-o", tmp_path / "trace.json")
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == 2 and "one tokenizer" in done.stderr
