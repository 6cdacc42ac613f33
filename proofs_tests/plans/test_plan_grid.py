"""`reader plan --grid`: every combination of a file's axes is planned, on cores or on a cluster, and resumed."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from optimizer.cost import level_cost
from optimizer.grid_cell import PredictedCells
from proofs_tests.plans import plan_examples as examples
from reader_theory.acceptance import RankTable
from reader_theory.cost import StepConditions, StepCost, find_device, known_shape
from runtime.cli.main import app

GRID = """
model = ["Qwen3-8B", "Qwen3-32B"]
drafter = ["Qwen3-1.7B", "none"]
device = ["H100-SXM", "A100-40GB"]
batch = [1, 64]
context = [512]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("grid")
    examples.fit(examples.trace(folder / "trace.json")).write(folder / "fit.json")
    (folder / "grid.toml").write_text(GRID)
    return folder


def plan_grid(folder: Path, *more: object) -> Any:
    words = ["plan", folder / "fit.json", "--grid", folder / "grid.toml", "--max-nodes", 8, "--max-depth", 4, *more]
    return CliRunner().invoke(app, [str(word) for word in [*words, "--json"]])


def test_every_cell_of_the_grid_is_planned_and_a_second_run_takes_what_is_there(folder: Path) -> None:
    output = folder / "grid.jsonl"
    done = plan_grid(folder, "--workers", 1, "--output", output)
    assert done.exit_code == 0, done.output
    rows = json.loads(done.stdout)["rows"]
    assert len(rows) == 16 and all(row.get("certified", True) for row in rows)
    by = {(r["model"], r["drafter"], r["device"], r["batch"]): r for r in rows}
    assert by["Qwen3-32B", "none", "A100-40GB", 1]["status"] == "infeasible"
    assert by["Qwen3-8B", "none", "H100-SXM", 1]["policy"] == "off"
    assert by["Qwen3-8B", "Qwen3-1.7B", "H100-SXM", 1]["speed_up"] > 1
    before = output.read_bytes()
    assert json.loads(plan_grid(folder, "--workers", 1, "--output", output).stdout)["rows"] == rows
    assert output.read_bytes() == before
    output.write_bytes(b"".join(before.splitlines(keepends=True)[:5]))
    assert json.loads(plan_grid(folder, "--workers", 2, "--output", output).stdout)["rows"] == rows
    assert sorted(output.read_bytes().splitlines()) == sorted(before.splitlines())


def test_rows_of_other_limits_are_not_taken_up(folder: Path) -> None:
    output = folder / "limits.jsonl"
    plan_grid(folder, "--workers", 1, "--output", output)
    plan_grid(folder, "--workers", 1, "--output", output, "--max-nodes", 4)
    assert len(output.read_text().splitlines()) == 32


def test_levels_of_a_predicted_step_add_up_to_the_step() -> None:
    step = StepCost(known_shape("Qwen3-8B"), find_device("H100-SXM"), drafter=known_shape("Qwen3-1.7B"))
    levels = level_cost(step.model, step.model, "draft", batch=4, context=512, nodes=12, depth=4)
    for widths in ((), (3,), (4, 2), (2, 5, 1, 3)):
        whole = step.model.estimate(StepConditions.of_levels(batch=4, context=512, level_widths=widths)).value
        assert levels.step_s(widths) == pytest.approx(whole, rel=1e-9)


def test_a_workload_that_was_not_fitted_is_an_error_of_its_cell_alone(folder: Path) -> None:
    (folder / "odd.toml").write_text(
        'model = ["Qwen3-8B"]\ndevice = ["L4"]\nbatch = [1]\nworkload = ["simulated", "odd"]'
    )
    words = [
        "plan",
        folder / "fit.json",
        "--grid",
        folder / "odd.toml",
        "--workers",
        1,
        "--output",
        folder / "odd.jsonl",
    ]
    done = CliRunner().invoke(app, [str(word) for word in [*words, "--json"]])
    assert done.exit_code == 3
    rows = json.loads(done.stdout)["rows"]
    assert [row["status"] for row in rows] == ["optimal", "failed"] and "'odd'" in rows[1]["advice"]


@pytest.mark.parametrize(
    "text",
    [
        "model = 3",
        'model = ["Qwen3-8B"]',
        GRID + "batches = [1]",
        GRID.replace("[512]", "[0]"),
        "model = [",
        GRID + "drafters = []",
    ],
)
def test_a_damaged_grid_is_refused_with_an_example(folder: Path, text: str) -> None:
    (folder / "bad.toml").write_text(text)
    words = [
        "plan",
        str(folder / "fit.json"),
        "--grid",
        str(folder / "bad.toml"),
        "--output",
        str(folder / "bad.jsonl"),
    ]
    done = CliRunner().invoke(app, [*words, "--json"])
    told = json.loads(done.stdout)["error"]
    assert done.exit_code == 2 and 'model = ["Qwen3-32B"]' in told["fix"] and not (folder / "bad.jsonl").exists()


def test_a_table_over_one_is_scaled_and_a_tree_beyond_it_is_drafted_only_where_asked_for_and_said() -> None:
    shapes, card = {"m": known_shape("Qwen3-8B"), "d": known_shape("Qwen3-1.7B")}, {"c": find_device("H100-SXM")}
    table = RankTable.normalised([[0.8, 0.3]])
    cells = PredictedCells({"w": table.extended(3)}, shapes, card, max_nodes=4, max_depth=3)
    cell = {"workload": "w", "model": "m", "drafter": "d", "device": "c", "batch": 1, "context": 128}
    row = cells(cell)
    assert row["tokens_per_step"] <= 1 + np.sum([1.0, 1.0, 1.0]) and row["certified"]
    assert row["extrapolated_depth"] == 1 and row["policy"].endswith("x2")
    capped = PredictedCells({"w": table}, shapes, card, max_nodes=4, max_depth=3)(cell)
    assert capped["extrapolated_depth"] == 0 and capped["policy"].endswith("x1")


@pytest.mark.slow
def test_a_cluster_that_loses_a_worker_midway_still_plans_every_cell(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dask.distributed import Client, LocalCluster

    import runtime.cli.plan as command

    killed: list[int] = []
    with LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster:
        with Client(cluster) as client:
            workers = list(client.run(os.getpid).values())

        @contextmanager
        def losing_one() -> Iterator[Any]:
            def progress(_: str, done: int, whole: int) -> None:
                if done == 3 and not killed:
                    killed.append(workers[0])
                    os.kill(workers[0], signal.SIGKILL)
                assert done <= whole

            yield progress

        monkeypatch.setattr(command, "progress_bars", losing_one)
        output = folder / "cluster.jsonl"
        done = plan_grid(folder, "--scheduler", cluster.scheduler_address, "--output", output)
    assert killed and done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["failed"] == 0 and len(told["rows"]) == len(output.read_text().splitlines()) == 16
    local = json.loads(plan_grid(folder, "--workers", 1, "--output", folder / "local.jsonl").stdout)["rows"]
    assert told["rows"] == local
