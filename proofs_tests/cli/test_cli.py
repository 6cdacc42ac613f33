"""What the command line answers to mistakes: rule, evidence and way out, an exit code, and nothing half-written."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from proofs_tests.cli.cli_examples import tokenizer
from proofs_tests.documents import documents_examples as examples
from reader_theory.errors import InvalidInputError
from runtime.cli import _shared
from runtime.cli._models import named
from runtime.cli.main import app
from runtime.measure.prompts import DEFAULT_WORKLOAD, read_prompts

COMMANDS = (
    "record",
    "fit",
    "calibrate",
    "plan",
    "run",
    "validate",
    "report",
    "sweep",
    "export",
    "import",
    "inflate",
    "show",
    "demo",
)


def invoke(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_gives_an_example_and_the_common_options(command: str) -> None:
    done = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200", "TERMINAL_WIDTH": "200"})
    assert done.exit_code == 0
    assert f"Example: reader {command}" in done.stdout
    assert "--json" in done.stdout


def test_help_loads_nothing_heavy() -> None:
    heavy = ("torch", "transformers", "matplotlib", "numpy", "pydantic", "pyarrow")
    look = (
        "import sys; sys.argv = ['reader', '--help']\n"
        "from runtime.cli.main import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        f"print([name for name in {heavy!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("[]")


def test_a_missing_document_is_bad_input(tmp_path: Path) -> None:
    done = invoke("fit", tmp_path / "no.json", "--output", tmp_path / "fit.json")
    assert done.exit_code == 2
    assert "must exist" in done.stderr
    assert "Way out:" in done.stderr
    assert "Traceback" not in done.output
    assert list(tmp_path.iterdir()) == []


def test_an_error_is_told_to_machines_as_json(tmp_path: Path) -> None:
    done = invoke("show", tmp_path / "no.json", "--json")
    assert done.exit_code == 2
    told = json.loads(done.stdout)["error"]
    assert told["rule"] == "the document must exist"
    assert "no.json" in told["got"]
    assert told["fix"]


def test_a_document_of_another_kind_is_bad_input(tmp_path: Path) -> None:
    examples.written(tmp_path)
    done = invoke("fit", tmp_path / "plan.json", "--output", tmp_path / "fit.json")
    assert done.exit_code == 2
    assert "kind 'trace'" in done.stderr
    assert not (tmp_path / "fit.json").exists()


def test_a_truncated_document_is_bad_input(tmp_path: Path) -> None:
    path = examples.plan().write(tmp_path / "plan.json")
    path.write_text(path.read_text()[:200])
    done = invoke("run", path, "--output", tmp_path / "run.json")
    assert done.exit_code == 2
    assert "truncated" in done.stderr


@pytest.mark.parametrize("output", ["trace.txt", ".", "file/trace.json"])
def test_an_output_that_cannot_be_written_is_refused_before_any_work(tmp_path: Path, output: str) -> None:
    (tmp_path / "file").write_text("")
    done = invoke("fit", tmp_path / "no.json", "--output", tmp_path / output)
    assert done.exit_code == 2
    assert "--output" in done.stderr
    assert "must exist" not in done.stderr, "the output is looked at first"


def test_a_folder_that_is_no_model_is_bad_input(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    done = invoke("record", "--target", tmp_path / "empty", "--output", tmp_path / "trace.json")
    assert done.exit_code == 2
    assert "from_pretrained" in done.stderr
    assert "Traceback" not in done.output
    assert not (tmp_path / "trace.json").exists()


def test_a_path_that_does_not_exist_is_not_looked_up_on_a_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AutoModelForCausalLM

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("from_pretrained was asked")

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", refuse)
    done = invoke("record", "--target", tmp_path / "nowhere", "--output", tmp_path / "trace.json")
    assert done.exit_code == 2
    assert "nowhere" in done.stderr


@pytest.mark.parametrize(
    "wrong", [["--new-tokens", "0"], ["--temperature", "-1"], ["--batch", "x"], ["--no-such-option"]]
)
def test_a_wrong_option_is_bad_input(wrong: list[str]) -> None:
    assert invoke("record", *wrong).exit_code == 2


@pytest.mark.parametrize("document", ["plan.json", "cost.json", "trace.json", "run.json", "validation.json"])
def test_show_tells_machines_what_a_document_says(tmp_path: Path, document: str) -> None:
    examples.written(tmp_path)
    done = invoke("show", tmp_path / document, "--json")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["rows"]


def test_a_plan_that_drafts_nothing_feasible_exits_with_3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import optimizer.plan

    examples.written(tmp_path)
    monkeypatch.setattr("runtime.cli.plan.read_acceptance_document", lambda _: SimpleNamespace(kind="acceptance_fit"))
    empty = examples.plan().model_copy(update={"entries": ()})
    monkeypatch.setattr(optimizer.plan, "make_plan", lambda *_, **__: empty)
    paths = [tmp_path / "fit.json", tmp_path / "cost.json", "--trace", tmp_path / "trace.json"]
    assert invoke("plan", *paths, "--output", tmp_path / "out.json").exit_code == 3


def test_a_bug_is_not_dressed_up_as_bad_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import reader_theory.documents

    def broken(*_: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(reader_theory.documents, "read_document", broken)
    done = invoke("show", tmp_path / "plan.json")
    assert done.exit_code == 1
    assert isinstance(done.exception, RuntimeError)


def test_a_missing_library_names_the_extra_that_brings_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    for module in ("runtime.models.load", "runtime.models.transformers"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    done = invoke("record", "--target", tmp_path, "--output", tmp_path / "trace.json")
    assert done.exit_code == 2
    assert "reader-theory[run]" in done.stderr


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    assert invoke("fit", "no.json", "--output", tmp_path / "fit.json").exit_code == 2


def test_the_house_draft_goes_with_the_house_target_only() -> None:
    assert named(None, None) == ("house-target", {"draft": "house-draft"})
    assert named(None, ["none"]) == ("house-target", {})
    assert named("some/model", None) == ("some/model", {})
    assert named("some/model", ["house-draft"]) == ("some/model", {"draft": "house-draft"})


def test_bars_stay_away_from_what_is_quick(capsys: pytest.CaptureFixture[str]) -> None:
    with _shared.progress_bars() as progress:
        progress("quick", 1, 2)
    assert capsys.readouterr() == ("", "")


def test_where_there_is_no_terminal_each_stage_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with _shared.progress_bars(after_s=0.0) as progress:
        for done in range(50):
            progress("slow", done, 50)
    printed = capsys.readouterr()
    assert printed.out == "", "the standard output belongs to the result"
    assert printed.err.splitlines() == ["... slow 0 of 50"]


def test_lines_tell_what_is_done_and_the_time_left(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_shared, "LINE_S", 0.0)
    with _shared.progress_bars(after_s=0.0) as progress:
        for done in (0, 5, 10):
            progress("generate", done, 10)
    first, middle, last = capsys.readouterr().err.splitlines()
    assert first == "... generate 0 of 10" and last == "... generate 10 of 10"
    assert re.fullmatch(r"\.\.\. generate 5 of 10, \d+ s left", middle)


def test_prompts_keep_their_ids_workloads_and_order(tmp_path: Path) -> None:
    rows = [{"text": "one"}, {"id": 7, "workload": "chat", "text": "two"}, {"workload": "chat", "text": "three"}]
    (tmp_path / "mine.jsonl").write_text("\n\n".join(json.dumps(row) for row in rows) + "\n")
    found = read_prompts(tmp_path / "mine.jsonl", tokenizer())
    assert [(p.id, p.workload) for p in found] == [("mine-001", DEFAULT_WORKLOAD), ("7", "chat"), ("mine-005", "chat")]
    assert tokenizer().decode(found[0].tokens) == "one"
    assert [p.id for p in read_prompts(tmp_path / "mine.jsonl", tokenizer(), workloads=["chat"], limit=1)] == ["7"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{"text": "a"}\nnot json\n', "line 2"),
        (b'{"id": "x"}\n', "`text`"),
        (b'{"text": "  "}\n', "not empty"),
        (b"[1]\n", "item 1"),
        (b'{"id": "x", "text": "a"}\n{"id": "x", "text": "b"}\n', "there once"),
        (b"\n", "at least one prompt"),
        (b'{"text": "\xff"}\n', "UTF-8"),
    ],
)
def test_prompts_that_cannot_be_used_are_refused(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "bad.jsonl").write_bytes(content)
    with pytest.raises(InvalidInputError, match=said):
        read_prompts(tmp_path / "bad.jsonl", tokenizer())


def test_an_unknown_workload_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "one.jsonl").write_text('{"text": "a"}\n')
    with pytest.raises(InvalidInputError, match="chat"):
        read_prompts(tmp_path / "one.jsonl", tokenizer(), workloads=["chat"])
