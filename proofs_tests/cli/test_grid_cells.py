"""A sweep returns every cell in order, whatever workers die, and takes up where it stopped."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest

from optimizer.grid import evaluate, grid
from reader_theory.errors import InvalidInputError

CELLS = grid(model=["small", "large"], device=["cpu"], batch=[1, 8, 64], context=[512, 4096])


def _area(cell):  # type: ignore[no-untyped-def]
    return cell["batch"] * cell["context"]


def test_grid_is_every_combination_in_order() -> None:
    assert len(CELLS) == 12 and CELLS[0] == {"model": "small", "device": "cpu", "batch": 1, "context": 512}
    assert [cell["context"] for cell in CELLS[:4]] == [512, 4096, 512, 4096]


@pytest.mark.parametrize("workers", [1, 2])
def test_sweep_returns_every_cell_in_order_with_progress(workers: int) -> None:
    seen: list[tuple[int, int]] = []
    rows = evaluate(CELLS, _area, workers=workers, progress=lambda done, all_: seen.append((done, all_)))
    assert [row.result for row in rows] == [_area(cell) for cell in CELLS]
    assert seen == [(i, 12) for i in range(1, 13)]


def test_a_cell_that_fails_keeps_its_error_and_the_others_go_on(tmp_path: Path) -> None:
    def fussy(cell):  # type: ignore[no-untyped-def]
        if cell["batch"] == 8:
            raise ValueError("eight")
        return 1

    output = tmp_path / "rows.jsonl"
    rows = evaluate(CELLS, fussy, workers=1, output=output)
    failed = [row for row in rows if row.error]
    assert len(failed) == 4 and all(row.error == "ValueError: eight" for row in failed)
    again = evaluate(CELLS, _area, workers=1, output=output)
    assert [row.result for row in again] == [
        32768 // 8 * (c["context"] // 512) if c["batch"] == 8 else 1 for c in CELLS
    ]


def test_an_interrupted_sweep_is_taken_up_where_it_stopped(tmp_path: Path) -> None:
    output, calls = tmp_path / "rows.jsonl", []

    def counted(cell):  # type: ignore[no-untyped-def]
        calls.append(cell)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return _area(cell)

    with pytest.raises(KeyboardInterrupt):
        evaluate(CELLS, counted, workers=1, output=output)
    with output.open("ab") as file:
        file.write(b'{"key": "cut sho')  # what a crash in the middle of a write leaves
    rows = evaluate(CELLS, counted, workers=1, output=output)
    assert len(calls) == 5 + 12 - 4 and [row.result for row in rows] == [_area(cell) for cell in CELLS]
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    assert len({line["key"] for line in lines}) == len(lines) == 12


def test_cells_that_repeat_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="1 repeated"):
        evaluate([*CELLS, CELLS[0]], _area)


@pytest.mark.slow
def test_dask_cluster_that_loses_a_worker_midway_still_returns_every_cell(tmp_path: Path) -> None:
    from dask.distributed import Client, LocalCluster

    def slow_area(cell):  # type: ignore[no-untyped-def]
        time.sleep(0.2)
        return cell["batch"] * cell["context"], os.getpid()

    killed: list[int] = []
    with LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster:
        with Client(cluster) as client:
            workers = list(client.run(os.getpid).values())

        def lose_one(done: int, _: int) -> None:
            if done == 3 and not killed:
                killed.append(workers[0])
                os.kill(workers[0], signal.SIGKILL)

        address, output = cluster.scheduler_address, tmp_path / "rows.jsonl"
        rows = evaluate(CELLS, slow_area, scheduler=address, output=output, progress=lose_one)
    assert killed and len({row.result[1] for row in rows}) >= 2
    assert [row.result[0] for row in rows] == [_area(cell) for cell in CELLS]
    assert len(output.read_text().splitlines()) == 12
