"""What is killed loses nothing: the next run takes up what there is and writes the document of a run in one go."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from proofs_tests.tiny import POLICIES, random_prompts, tiny_model
from reader_theory.documents import Trace
from runtime.engine.engine import Engine
from runtime.measure.cell import CellRun
from runtime.measure.journal import Journal
from runtime.measure.record import record_trace
from runtime.measure.run import Task, _Bench, measure_cells
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


def test_a_sweep_that_stops_is_taken_up_cell_by_cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target, prompts, path = load_model(_saved(tmp_path)), random_prompts(2, workload="a"), tmp_path / "sweep.json"
    tasks = [Task("a", 1, policy) for policy in (POLICIES["off"], POLICIES["retrieval"])]
    options: dict[str, Any] = dict(new_tokens=6, temperature=0.0, dtype="float32", names=("tiny", {}), repeats=2)

    def stopping(label: str, done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure_cells(target, None, tasks, prompts, path=path, progress=stopping, **options)
    assert not path.exists()
    ran, run = list[Task](), _Bench.run
    monkeypatch.setattr(_Bench, "run", lambda self, task: (ran.append(task), run(self, task))[1])
    record = measure_cells(target, None, tasks, prompts, path=path, **options)
    assert ran == tasks[:1], "the last of four visits, there and back"
    assert [cell.repeats for cell in record.cells] == [2, 2] and not path.with_suffix(".partial.jsonl").exists()
    assert {cell.lossless for cell in record.cells} == {"greedy_identical"}
    whole = measure_cells(target, None, tasks, prompts, path=tmp_path / "whole.json", **options)
    assert record.requests == whole.requests
    np.testing.assert_array_equal(record.columns["emitted"], whole.columns["emitted"])


def test_texts_that_drafts_changed_are_recorded_and_nothing_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, prompts, run = load_model(_saved(tmp_path)), random_prompts(2, workload="a"), _Bench.run

    def faulty(self: _Bench, task: Task) -> CellRun:
        found = run(self, task)
        if task.policy != POLICIES["off"]:
            found.requests[1].output[2] ^= 1
        return found

    monkeypatch.setattr(_Bench, "run", faulty)
    record = measure_cells(
        target, None, [Task("a", 1, POLICIES["retrieval"])], prompts, path=tmp_path / "run.json", new_tokens=6,
        temperature=0.0, dtype="float32", names=("tiny", {}),
    )  # fmt: skip
    assert [cell.lossless for cell in record.cells] == ["greedy_different"]


def _saved(folder: Path) -> Path:
    tiny_model("llama").save_pretrained(folder / "model")
    return folder / "model"
