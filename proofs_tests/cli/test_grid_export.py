"""Rows of a grid become what an engine takes: one model, drafter and card, at every batch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from optimizer.grid import evaluate, grid, rows_in
from optimizer.grid_cell import PredictedCells
from optimizer.grid_plan import plan_of_rows
from reader_theory.acceptance.rank_table import RankTable
from reader_theory.cost.device import find_device
from reader_theory.documents import Off, Static
from reader_theory.errors import InvalidInputError
from runtime.cli._predicted import model_shape
from runtime.cli.main import app

AXES: dict[str, Any] = {
    "model": ["Qwen3-8B"], "drafter": ["Qwen3-0.6B", "none"], "device": ["H100-SXM"], "batch": [1, 64],
    "context": [1024], "workload": ["chat"], "tensor_parallel": [1],
}  # fmt: skip


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows as the command writes them, of one rank a depth: chains."""
    path = tmp_path_factory.mktemp("grid") / "grid.jsonl"
    names = ("Qwen3-8B", "Qwen3-0.6B")
    models = {name: model_shape(name, path.parent) for name in names}
    cells = PredictedCells(
        {"chat": RankTable.stationary([0.8], 6)}, models, {"H100-SXM": find_device("H100-SXM", None)}, 8, 6
    )
    evaluate([{**cell, "inputs": "a"} for cell in grid(**AXES)], cells, workers=1, output=path)
    return path


def told(*words: Any) -> tuple[int, str]:
    done = CliRunner().invoke(app, [str(word) for word in words])
    return done.exit_code, done.output


def test_a_plan_has_what_the_rows_say(file: Path) -> None:
    rows = rows_in(file)
    plan = plan_of_rows(rows, {"drafter": "Qwen3-0.6B"})
    mine = [row for row in rows if row.cell["drafter"] == "Qwen3-0.6B"]
    assert [entry.batch for entry in plan.entries] == [1, 64] and plan.drafters == {"draft": "Qwen3-0.6B"}
    for entry, row in zip(plan.entries, mine, strict=True):
        assert entry.prediction.tokens_per_s.value == row.result["tokens_per_s"]
        assert entry.prediction.speed_up.low <= row.result["speed_up"] <= entry.prediction.speed_up.high
        assert entry.context_tokens == 1024 and entry.workload == "chat"
    assert isinstance(plan.entries[0].policy, Static)
    assert plan_of_rows(rows, {"drafter": "none"}).entries[0].policy == Off()


def test_rows_export_to_an_engine(file: Path, tmp_path: Path) -> None:
    made = tmp_path / "vllm.json"
    words = ("export", "vllm", file, "--where", "drafter=Qwen3-0.6B", "--method", "draft_model", "-o", made)
    code, output = told(*words, "--max-batch", 64)
    assert code == 0, output
    config = json.loads(made.read_text())
    depth = plan_of_rows(rows_in(file), {"drafter": "Qwen3-0.6B"}).entries[0].policy.most_nodes
    assert config["model"] == "Qwen3-0.6B" and config["num_speculative_tokens"] == depth


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "--where drafter=Qwen3-0.6B"),
        (("--where", "drafter=Qwen3-4B"), "the grid has model: Qwen3-8B; drafter: Qwen3-0.6B, none"),
        (("--where", "colour=blue"), "must name axes of the grid"),
        (("--where", "drafter"), "must be AXIS=VALUE"),
        (("--where", "drafter=none", "--where", "drafter=none"), "each axis once"),
        (("--where", "drafter=none", "--context", 7), "must name axes of the grid"),
    ],
)
def test_what_is_left_open_or_wrong_is_said(file: Path, tmp_path: Path, words: tuple[Any, ...], message: str) -> None:
    code, output = told("export", "vllm", file, *words, "-o", tmp_path / "x.json")
    assert code == 2 and message in " ".join(output.split()) and not (tmp_path / "x.json").exists()


def test_rows_of_two_fits_are_not_one_plan(file: Path) -> None:
    rows = rows_in(file)[:2]
    rows[1] = type(rows[1])({**rows[1].cell, "inputs": "b"}, rows[1].result)
    with pytest.raises(InvalidInputError, match="of one fit"):
        plan_of_rows(rows, {})


def test_a_grid_in_which_nothing_fits_is_refused(file: Path) -> None:
    row = rows_in(file)[0]
    with pytest.raises(InvalidInputError, match="fits its card"):
        plan_of_rows([type(row)(row.cell, {"status": "infeasible", "advice": "too large"})], {})


@pytest.mark.parametrize("text", ["", "notes\n", '{"key": "x", "cell": {}, "result": {}}\n'])
def test_a_file_that_is_no_grid_is_refused_and_left_alone(tmp_path: Path, text: str) -> None:
    path = tmp_path / "notes.jsonl"
    path.write_text(text)
    code, output = told("export", "vllm", path, "-o", tmp_path / "x.json")
    assert code == 2 and "it was not written by one" in " ".join(output.split()) and path.read_text() == text


def test_a_plan_takes_no_where(tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text("{}")
    code, output = told("export", "vllm", tmp_path / "plan.json", "--where", "drafter=none")
    assert code == 2 and "`--where` must be left out" in output
