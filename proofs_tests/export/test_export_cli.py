"""`reader export` and `reader import`: files that are what was asked, exit code 2 and a way out where it cannot be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from optimizer.export import EXPORTERS
from proofs_tests.documents.documents_examples import CHAIN_3, OFF, TREE, entry, plan
from proofs_tests.importers.test_import_metrics import COUNTS, scrape
from proofs_tests.importers.test_import_prompts import CONVERSATION, jsonl, sharegpt
from proofs_tests.importers.test_import_records import sglang_log
from reader_theory.documents.imported import ImportedAcceptance
from runtime.cli import export, import_
from runtime.cli._shared import guarded

app = typer.Typer()
app.command("export")(guarded(export.command))
app.command("import")(guarded(import_.command))


def reader(*arguments: object, expect: int = 0) -> str:
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == expect, done.output
    return done.output


@pytest.fixture
def chain(tmp_path: Path) -> Path:
    return plan(entry(1, CHAIN_3), entry(8, OFF, 1.0, 60.0)).write(tmp_path / "plan.json")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return plan(entry(1, TREE, 2.5, 120.0)).write(tmp_path / "tree.json")


@pytest.mark.parametrize("engine", EXPORTERS.names)
def test_every_engine_gets_its_file(chain: Path, tmp_path: Path, engine: str) -> None:
    output = tmp_path / "out" / "export.json"
    method = ["--method", "EAGLE3"] if engine == "sglang" else []
    told = json.loads(reader("export", engine, chain, "-o", output, "--json", *method))
    written = json.loads(output.read_text())
    assert written == (told["export"]["flags"] if engine == "sglang" else told["export"])
    assert written and told["workload"] == "chat"
    assert told["files"][0] == str(output)


def test_sglang_gets_the_file_that_its_flags_name(chain: Path, tmp_path: Path) -> None:
    told = json.loads(reader("export", "sglang", chain, "--method", "EAGLE3", "-o", tmp_path / "s.json", "--json"))
    adaptive = Path(told["files"][1])
    assert f"--speculative-adaptive-config {adaptive}" in told["command_line"]
    assert json.loads(adaptive.read_text()) == {"1": {"candidate_steps": [3]}, "2": {"candidate_steps": [0]}}


def test_a_refusal_offers_what_the_next_call_exports(tree: Path, tmp_path: Path) -> None:
    output = tmp_path / "v.json"
    refused = json.loads(reader("export", "vllm", tree, "-o", output, "--json", expect=2))["error"]
    assert refused["kind"] == "UnsupportedByEngineError"
    assert "90 tokens/s instead of 120 (-25.0 %)" in refused["fix"] and "--nearest" in refused["fix"]
    assert not output.exists(), "nothing is written of what is refused"
    told = json.loads(reader("export", "vllm", tree, "-o", output, "--json", "--nearest"))
    assert told["export"]["num_speculative_tokens"] == 3
    assert told["rows"][0]["lost_percent"] == pytest.approx(25.0)
    assert "chain 3" in reader("export", "vllm", tree, "-o", output, "--nearest")


@pytest.mark.parametrize("engine", ["sglang", "tensorrt-llm"])
def test_a_dynamic_tree_is_asked_for_by_name(tree: Path, tmp_path: Path, engine: str) -> None:
    said = reader("export", engine, tree, "--dynamic-tree", "-o", tmp_path / "d.json")
    assert "not a prediction" in said


@pytest.mark.parametrize(
    "arguments",
    [
        ["medusa", "--method", "eagle3"],
        ["transformers", "--max-batch", "4"],
        ["vllm", "--dynamic-tree"],
        ["vllm", "--method", "telepathy"],
        ["vllm", "--workload", "poetry"],
        ["vllm", "-o", "export.txt"],
        ["telepathy"],
    ],
)
def test_what_makes_no_sense_ends_with_code_2(chain: Path, arguments: list[str]) -> None:
    engine, *options = arguments
    reader("export", engine, chain, *options, expect=2)


def test_one_of_several_workloads_must_be_named(tmp_path: Path) -> None:
    path = plan(entry(1, CHAIN_3), entry(1, CHAIN_3, workload="code")).write(tmp_path / "plan.json")
    refused = json.loads(reader("export", "vllm", path, "-o", tmp_path / "v.json", "--json", expect=2))
    assert "['chat', 'code']" in refused["error"]["got"]
    reader("export", "vllm", path, "-o", tmp_path / "v.json", "--workload", "code")


def test_metrics_become_a_document(tmp_path: Path) -> None:
    metrics, output = tmp_path / "metrics.txt", tmp_path / "acceptance.json"
    metrics.write_text(scrape(COUNTS[0]))
    told = json.loads(reader("import", "vllm", metrics, "-o", output, "--json"))
    assert told["kind"] == "imported_acceptance"
    assert ImportedAcceptance.read(output).table.ravel().tolist() == [0.8, 0.6, 0.5]
    log = tmp_path / "server.log"
    log.write_text(sglang_log([2.0, 2.2], [1, 2], arguments=""))
    reader("import", "sglang", log, "-o", output, expect=2)
    reader("import", "sglang", log, "-o", output, "--num-steps", 3)
    assert ImportedAcceptance.read(output).engine == "sglang"


@pytest.mark.parametrize("source", ["sharegpt", "openai"])
def test_conversations_become_prompts(tmp_path: Path, source: str) -> None:
    lines: tuple[Any, ...] = ({"prompt": "One?"}, {"prompt": "Two?"})
    file = sharegpt(tmp_path, CONVERSATION) if source == "sharegpt" else jsonl(tmp_path, *lines)
    output = tmp_path / "prompts.jsonl"
    told = json.loads(reader("import", source, file, "-o", output, "--workload", "mine", "--limit", 1, "--json"))
    (row,) = told["rows"]
    assert (row["workload"], row["prompts"]) == ("mine", 1)
    told = json.loads(output.read_text())
    assert (told.get("text") or told["messages"][-1]["content"]) == "One?"
    assert "prompts written to" in reader("import", "prompts", file, "-o", output)
    reader("import", "poetry", file, "-o", output, expect=2)
    reader("import", source, file, file, "-o", output, expect=2)
