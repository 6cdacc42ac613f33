"""The validation of the GPU path is rehearsed on the CPU, from twins to table."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from proofs_tests.benchmarks import gpu_validation, kernels
from proofs_tests.benchmarks.gpu.settings import Clock
from proofs_tests.benchmarks.gpu.sweep import POLICIES


def rehearsed(mode: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    gpu_validation.main([f"--{mode}", "--out", str(folder)])
    shown = capsys.readouterr().out
    found = json.loads((folder / f"gpu_{mode}.json").read_text())
    assert found["twins"]["compared"] > 0 and found["twins"]["differ"] == []
    assert f"{mode} on a CPU" in shown and "goal >= 0.85" in shown
    assert {name: goal["goal"] for name, goal in found["goals"].items()} == {
        name: f"{sign} {limit}" for name, (sign, limit) in gpu_validation.GOALS.items()
    }
    assert found["environment"]["commit"] and found["card"] is None and found["failed"] == {}
    return found


def test_a_tiny_rehearsal_ends_in_a_document(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = rehearsed("tiny", tmp_path, capsys)
    for pair in found["pairs"].values():
        steps = [row for row in pair["rows"] if row["policy"] != "forward alone"]
        assert {row["policy"] for row in steps} == set(POLICIES)
        assert all(1 <= row["tokens_per_step"] <= row["width"] for row in steps)
        assert pair["divergence"]["tree_against_plain"] == 0


@pytest.mark.slow
def test_the_rehearsal_ends_within_two_minutes_of_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    start = time.process_time()
    found = rehearsed("rehearsal", tmp_path, capsys)
    print(f"{time.process_time() - start:.0f} s of CPU")
    assert set(found["pairs"]) == {"house", "inflated"} and found["left_out"] == []
    assert all(pair["fitted"] < pair["points"] and pair["plans"] for pair in found["pairs"].values())


def test_the_kernels_are_measured_against_a_floor() -> None:
    found = kernels.measure(scale=2, repeats=1)
    assert len(found["rows"]) == 5 and min(found["bytes_per_s"].values()) > 0
    assert all(row["over_floor"] > 0 and row["floor_s"] > 0 for row in found["rows"])


def test_a_part_that_fails_is_told_and_the_rest_goes_on() -> None:
    kept: list[dict[str, str]] = []
    clock = Clock(60.0, lambda: kept.append(dict(clock.failed)))
    assert clock.part("bad", lambda: [][0]) is None
    assert clock.part("good", lambda: 3) == 3 and clock.part("late", lambda: 4, needs_s=61) is None
    assert list(clock.failed) == ["bad"] and "IndexError" in clock.failed["bad"]
    assert [list(so_far) for so_far in kept] == [["bad"], ["bad"]] and clock.left_out == ["late"]
