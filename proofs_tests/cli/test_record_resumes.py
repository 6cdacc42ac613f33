"""A record that is killed loses no answer: the next run takes them up and writes the trace of a run in one go."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from proofs_tests.tiny import random_prompts, tiny_model
from reader_theory.documents import Trace
from runtime.engine.engine import Engine
from runtime.measure.journal import Journal
from runtime.measure.record import record_trace
from runtime.models.load import load_model

KILLED = """
import sys
from pathlib import Path
from proofs_tests.tiny import random_prompts
from runtime.measure.record import record_trace
from runtime.models.load import load_model

folder, output = map(Path, sys.argv[1:])

def progress(label, done, total):
    kept = output.with_suffix(".partial.jsonl").read_text().splitlines()
    if label == "generate" and len(kept) >= 3:
        print("two answers are kept", flush=True)
        sys.stdin.read()

record_trace(load_model(folder), None, random_prompts(5), path=output, new_tokens=8, max_batch=2, progress=progress)
"""


def test_a_killed_record_is_taken_up_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, output = tmp_path / "model", tmp_path / "trace.json"
    tiny_model("llama").save_pretrained(folder)
    command = [sys.executable, "-c", KILLED, str(folder), str(output)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "two answers are kept\n"
        process.kill()
    partial = output.with_suffix(".partial.jsonl")
    assert not output.exists()
    with partial.open("a") as file:
        file.write('{"key": "4", "va')  # a line that the kill cut off
    kept, asked, added = len(partial.read_text().splitlines()) - 2, list[str](), Engine.add

    def counting(self: Engine, prompt: Any, *args: Any, **options: Any) -> Any:
        asked.append(options["id"])
        return added(self, prompt, *args, **options)

    target, prompts = load_model(folder), random_prompts(5)
    monkeypatch.setattr(Engine, "add", counting)
    record_trace(target, None, prompts, path=output, new_tokens=8, max_batch=2)
    assert kept >= 2 and len(asked) == 5 - kept and not partial.exists()
    monkeypatch.setattr(Engine, "add", added)
    whole = record_trace(target, None, prompts, path=tmp_path / "whole.json", new_tokens=8, max_batch=2)
    for name, column in Trace.read(output).columns.items():
        np.testing.assert_array_equal(column, whole.columns[name])


def test_a_journal_of_another_task_is_not_taken_up(tmp_path: Path) -> None:
    path = tmp_path / "some.partial.jsonl"
    with Journal(path, {"seed": 0}) as first:
        first.add("a", [1, 2])
    with Journal(path, {"seed": 0}) as again:
        assert again.kept == {"a": [1, 2]}
    with Journal(path, {"seed": 1}) as other:
        assert not other.kept
