"""The demo runs the whole loop on two targets and ends in one table and one report; here with tiny house models."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from proofs_tests.cli.cli_examples import TEXT, save_model
from reader_theory.documents import Plan, RunRecord
from runtime.cli.main import app
from runtime.models import house
from runtime.models.house import inflate as inflation


@pytest.fixture
def tiny_house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """House models of 16 wide, house prompts of a line, and an inflation that stays small."""
    folders = {name: save_model(tmp_path / name, seed, 16) for seed, name in enumerate(("target", "draft"))}
    monkeypatch.setattr(house, "house_folder", folders.__getitem__)
    monkeypatch.setattr(house, "load_prompts", _prompts)
    small = partial(inflation.inflate, hidden_size=64, layers=3, intermediate_size=64)
    monkeypatch.setattr(inflation, "inflate", small)


def _prompts(workload: str, split: str | None = None) -> list[Any]:
    names = [f"{workload}-{split}-{number}" for number in range(4)]
    return [house.Prompt(name, workload, str(split), f"# {name}\n{TEXT * 2}", "source", "sha") for name in names]


@pytest.mark.slow
def test_demo_shows_predicted_beside_measured_for_both_targets(tiny_house: None, tmp_path: Path) -> None:
    output = tmp_path / "out"
    done = CliRunner().invoke(
        app, ["demo", "--fast", "--workload", "code", "--output", str(output), "--json"], catch_exceptions=False
    )
    assert done.exit_code == 0
    told = json.loads(done.stdout)
    cells = [(row["target"], row["workload"], row["batch"]) for row in told["rows"]]
    assert cells == [(name, "code", batch) for name in ("house-target", "house-inflated") for batch in (1, 4)]
    assert all(row["tokens_per_step"]["low"] <= row["tokens_per_step"]["value"] for row in told["rows"])
    assert {row["output"] for row in told["rows"]} <= {"identical", "identical but for ties"}
    page = Path(told["report"]).read_text()
    assert all(name in page for name in ("house-target, float32", "house-inflated, bfloat16"))
    for half in ("house", "inflated"):
        plan, record = Plan.read(output / half / "plan.json"), RunRecord.read(output / half / "run.json")
        assert record.plan == plan.fingerprint(), "the documents of both halves are kept"
    assert RunRecord.read(output / "inflated" / "run.json").dtype == "bfloat16"
