"""Validate: each predicted term beside the measured one, from nothing but a Plan and a RunRecord."""

from __future__ import annotations

import numpy as np

from reader_theory.documents import Comparison, Plan, PlanEntry, RunCell, RunRecord, Stamp, Validation
from reader_theory.errors import require
from reader_theory.estimate import Estimate

__all__ = ["validate"]


def validate(plan: Plan, record: RunRecord) -> Validation:
    """Compare what `plan` predicted with what `record` measured, cell by cell.

    Raises
    ------
    InvalidInputError
        If the record is not a run of this plan.
    """
    require(
        record.plan == plan.fingerprint(),
        "`record` must be a run of `plan`",
        got=f"a run of plan {record.plan}, and plan {plan.fingerprint()}",
        fix="Pass the plan that was run, or run this one.",
    )
    require(
        record.kv == plan.kv,
        "`record` must be a run with the cache that was planned for",
        got=f"--kv {record.kv}, and a plan for --kv {plan.kv}",
        fix="Run the plan without --kv, or calibrate and plan with it.",
    )
    rows: list[Comparison] = []
    notes: list[str] = []
    for number, cell in enumerate(record.cells):
        entry = plan.entry(cell.workload, cell.batch, cell.context_tokens)
        rows += _compare(entry, cell, _step_s(record, number), _pace(plan, cell))
        if cell.prompts != plan.prompts_per_workload:
            notes.append(
                f"{cell.workload}, batch {cell.batch}: measured on {cell.prompts} prompts, "
                f"the interval allows for {plan.prompts_per_workload}"
            )
    return Validation(
        stamp=Stamp.now(),
        plan=plan.fingerprint(),
        record=record.fingerprint(),
        comparisons=tuple(rows),
        notes=tuple(notes),
    )


def _step_s(record: RunRecord, cell: int) -> float:
    chosen = record.columns["cell"] == cell
    return float(np.mean(record.columns["step_s"][chosen])) if chosen.any() else float("nan")


def _pace(plan: Plan, cell: RunCell) -> float:
    """Times that the fixed step took longer while the cell ran than the plan's seconds are stated at."""
    if plan.reference is None or cell.reference_s is None:
        return 1.0
    return cell.reference_s / plan.reference.seconds.value


def _compare(entry: PlanEntry, cell: RunCell, step_s: float, pace: float) -> list[Comparison]:
    """The speed-up first: it is what people read first."""
    predicted, gain = entry.prediction, cell.times_plain
    pairs: list[tuple[str, Estimate, float]] = [
        ("tokens_per_step", predicted.tokens_per_step, cell.tokens_per_step),
        ("step_s", predicted.step_s, step_s),
        ("tokens_per_s", predicted.tokens_per_s, cell.tokens_per_s),
    ]
    spread: dict[str, Estimate] = {}
    if gain is not None and entry.policy.shape != "off":
        pairs.insert(0, ("speed_up", predicted.speed_up, gain.value))
        spread = {"speed_up": gain} if gain.high > gain.low else {}
    return [
        Comparison(
            workload=cell.workload,
            batch=cell.batch,
            policy=cell.policy,
            quantity=name,
            predicted=value,
            measured=float(measured),
            measured_low=spread[name].low if name in spread else None,
            measured_high=spread[name].high if name in spread else None,
            pace=pace,
        )
        for name, value, measured in pairs
        if np.isfinite(measured)
    ]
