"""The measured speed-up: repeats there and back, at one pace of the machine, with its spread."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from proofs_tests.documents import documents_examples as examples
from reader_theory.cost.pace import Pace, smoothed_pace
from reader_theory.documents import Off
from reader_theory.documents.cost import Reference
from reader_theory.estimate import Estimate
from reader_theory.validate import validate
from runtime.measure.cell import CellRun
from runtime.measure.run import Task, speed_ups

POLICY = examples.CHAIN_3
TASKS = [Task("chat", batch, POLICY) for batch in (1, 2, 4, 8)]


def _run(pace: list[float], at: int, seconds: float) -> CellRun:
    return CellRun([(at, seconds * pace[at])], 0.0, [], [], Counter(), Counter())


def _pairs(
    gain: float, noise: float, repeats: int, seed: int
) -> tuple[dict[Task, tuple[list[CellRun], list[CellRun]]], Pace]:
    """Plain runs of 10 s beside drafted ones, on a machine that grows slower by half meanwhile."""
    rng = np.random.default_rng(seed)
    slower = np.linspace(1.0, 1.5, 2 * repeats * len(TASKS) + 1).tolist()
    pairs: dict[Task, tuple[list[CellRun], list[CellRun]]] = {task: ([], []) for task in TASKS}
    at = 0
    for _ in range(repeats):
        for task in TASKS:
            for which, seconds in ((1, 10.0), (0, 10.0 / gain)):
                pairs[task][which].append(_run(slower, at, seconds * float(np.exp(rng.normal(0, noise)))))
                at += 1
    return pairs, smoothed_pace(np.array(slower) * np.exp(rng.normal(0, 0.002, len(slower))))


def test_speed_up_is_that_at_one_pace() -> None:
    pairs, pace = _pairs(2.0, 0.0, 2, seed=0)
    for found in speed_ups(pairs, pace).values():
        assert found.value == pytest.approx(2.0, rel=0.01) and found.covers(2.0)
    raw = [plain[0].decode_s / ours[0].decode_s for ours, plain in pairs.values()]
    assert min(raw) < 0.98 * 2.0  # the drafted run came later, on a slower machine


def test_spread_covers_the_truth_and_narrows_with_repeats() -> None:
    def intervals(repeats: int) -> list[Estimate]:
        return [each for seed in range(40) for each in speed_ups(*_pairs(1.5, 0.04, repeats, seed)).values()]

    few, many = intervals(2), intervals(6)
    assert np.mean([each.covers(1.5) for each in few + many]) >= 0.88
    assert np.mean([each.high - each.low for each in many]) < 0.7 * np.mean([each.high - each.low for each in few])


def test_validation_divides_out_the_pace_and_puts_the_speed_up_first(tmp_path: Path) -> None:
    reference = Reference(batch=1, tokens=1, context=64, seconds=Estimate.exact(0.010, "measured"))
    entry = examples.entry(1, POLICY, tokens_per_step=2.0, tokens_per_s=100.0)
    plan = examples.plan(entry, reference=reference)
    record = examples.run_record(tmp_path / "run.json")
    gain = Estimate(value=1.7, low=1.65, high=1.75, origin="measured")
    cell = record.cells[0].model_copy(
        update={"policy": POLICY, "decode_s": 7 / 80, "plain_decode_s": 0.2, "speed_up": gain, "reference_s": 0.0125}
    )
    columns = record.columns
    record = record.model_copy(update={"plan": plan.fingerprint(), "cells": (cell,)})
    record._columns = columns
    found = validate(plan, record)
    first, rate = found.comparisons[0], found.of("tokens_per_s")[0]
    assert first.quantity == "speed_up" and (first.measured, first.measured_low) == (1.7, 1.65)
    assert first.at_pace == first.measured
    assert rate.measured == pytest.approx(80) and rate.pace == pytest.approx(1.25)
    assert rate.at_pace == pytest.approx(100) and rate.inside and abs(rate.relative_error) < 1e-9


def test_a_record_without_a_fixed_step_is_compared_as_it_was_measured(tmp_path: Path) -> None:
    record = examples.run_record(tmp_path / "run.json")
    cell = record.cells[0].model_copy(update={"plain_decode_s": 0.2})
    assert cell.times_plain == Estimate.exact(2.0, "measured")
    assert record.cells[0].times_plain is None and Off() != cell.policy
