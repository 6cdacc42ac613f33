"""The speed-up, first: predicted beside measured on prompts that the fit has not seen, over targets and temperatures.

For the house target, its inflation and SmolLM2, at temperature 0 and 1: record on the fit prompts, fit, calibrate,
plan, then run each cell's policy and plain decoding there and back (A B B A) beside a fixed step. Where the plan is
off, the best policy that drafts is run instead, so that every cell has a speed-up to be wrong about. The document is
written after every cell; cells of other targets stay in it where machine, versions and commit are the same.

    python -m proofs_tests.benchmarks.speed_up                      # about 30 minutes on two cores that do nothing else
    python -m proofs_tests.benchmarks.speed_up --targets house
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from optimizer.plan import Study, make_plan
from proofs_tests.benchmarks._report import kept, write_report
from reader_theory.acceptance.fit import fit_acceptance
from reader_theory.documents import Cost, Plan, Policy, Prediction, RunCell
from runtime.measure.calibrate import calibrate_cost
from runtime.measure.prompts import PromptTokens, house_prompts, public_prompts
from runtime.measure.record import record_trace
from runtime.measure.run import Task, measure_cells
from runtime.models.base import LanguageModel
from runtime.models.fetch import fetch
from runtime.models.house import house_folder
from runtime.models.house.inflate import inflate
from runtime.models.load import load_model, load_tokenizer

REPEATS = 2


@dataclass(frozen=True)
class Setting:
    """One target, and how much of it is measured."""

    name: str
    dtype: str
    batches: tuple[int, ...]
    workloads: tuple[str, ...]
    fit_prompts: int
    tests: int
    tokens: int
    seconds: float
    drafted: bool = True

    @property
    def smaller(self) -> Setting:
        """As little as shows that it runs."""
        return replace(
            self, batches=self.batches[:1], workloads=self.workloads[:1], fit_prompts=3, tests=2, tokens=8, seconds=0.1
        )


HOUSE = ("code", "copy", "prose")
SETTINGS = (
    Setting("house", "float32", (1, 2, 4, 8), HOUSE, 128, 64, 96, 16.0),
    Setting("inflated", "bfloat16", (1, 4), HOUSE, 128, 16, 96, 14.0),
    Setting("smollm2", "float32", (1, 4, 8), ("chat", "code", "rag"), 24, 8, 48, 16.0, drafted=False),
)


def loaded(setting: Setting, folder: Path, scratch: Path) -> tuple[LanguageModel, LanguageModel | None, Any]:
    """Target, draft and tokenizer."""
    if setting.name == "smollm2":
        return load_model(fetch("smollm2", folder, print), setting.dtype), None, load_tokenizer(folder)
    source = house_folder("target")
    if setting.name == "inflated":
        inflate(source, scratch / "inflated")
        source = scratch / "inflated"
    return load_model(source, setting.dtype), load_model(house_folder("draft"), "float32"), load_tokenizer(source)


def prompts(setting: Setting, split: str, tokenizer: Any, count: int) -> list[PromptTokens]:
    """So many a workload."""
    if setting.name == "smollm2":
        return public_prompts(split, tokenizer, setting.workloads, count)
    return house_prompts(setting.workloads, split, tokenizer, limit=count)


def study(setting: Setting, temperature: float, folder: Path, scratch: Path) -> Iterator[dict[str, Any]]:
    """Rows of one target at one temperature, as they are measured."""
    target, draft, tokenizer = loaded(setting, folder, scratch)
    fit_prompts = prompts(setting, "fit", tokenizer, setting.fit_prompts)
    tests = prompts(setting, "test", tokenizer, setting.tests)
    trace = record_trace(
        target, draft, fit_prompts, path=scratch / "trace.json", temperature=temperature, new_tokens=setting.tokens
    )
    fit = fit_acceptance(trace, resamples=200)
    cost = calibrate_cost(
        target, draft, fit_prompts, device_name="this machine", dtype=setting.dtype, batches=setting.batches,
        seconds=setting.seconds, temperature=temperature, on_disturbance="note",
    )  # fmt: skip
    plan = make_plan(
        fit, cost, trace, batches=setting.batches, new_tokens=setting.tokens, prompts_per_workload=setting.tests,
        resamples=400,
    )  # fmt: skip
    for workload in setting.workloads:
        known = Study(fit, cost, trace, workload, test_prompts=setting.tests, resamples=400)
        mine = [prompt for prompt in tests if prompt.workload == workload]
        for batch in setting.batches:
            policy, told = chosen(plan, known, workload, batch)
            record = measure_cells(
                target, draft, [Task(workload, batch, policy)], mine, path=scratch / "run.json",
                new_tokens=setting.tokens, temperature=temperature, dtype=setting.dtype,
                names=(plan.target, plan.drafters), repeats=REPEATS,
            )  # fmt: skip
            entry = plan.entry(workload, batch)
            yield {
                "target": setting.name, "dtype": setting.dtype, "temperature": temperature, "workload": workload,
                "batch": batch, "planned": entry.policy.name, "policy": policy.name,
                **row_of(told, record.cells[0], cost), "notes": list(cost.notes),
            }  # fmt: skip


def chosen(plan: Plan, known: Study, workload: str, batch: int) -> tuple[Policy, Prediction]:
    """The plan's policy with its prediction; where that is off, the best that drafts."""
    entry = plan.entry(workload, batch)
    if entry.policy.shape != "off":
        return entry.policy, entry.prediction
    drafting = {name: each for name, each in entry.alternatives.items() if each.policy.shape != "off"}
    best = max(drafting.values(), key=lambda each: each.tokens_per_s).policy
    return best, known.prediction(best, batch)


def row_of(told: Prediction, cell: RunCell, cost: Cost) -> dict[str, Any]:
    """Predicted beside measured, the speed-up first; seconds and rates at the pace of the calibration."""
    gain, reference = cell.times_plain, cost.reference
    assert gain is not None and cell.reference_s is not None and reference is not None
    pace = cell.reference_s / reference.seconds.value
    rate, plain = cell.tokens_per_s * pace, cell.tokens_per_s * pace / gain.value
    guess = told.speed_up
    return {
        "speed_up": {
            "predicted": guess.model_dump(mode="json"), "measured": gain.model_dump(mode="json"),
            "signed_error": guess.value / gain.value - 1, "inside": guess.covers(gain.value),
            "width": (guess.high - guess.low) / guess.value,
        },
        "tokens_per_s": {
            "predicted": told.tokens_per_s.model_dump(mode="json"), "measured": rate,
            "signed_error": told.tokens_per_s.value / rate - 1, "inside": told.tokens_per_s.covers(rate),
        },
        "plain_tokens_per_s": {
            "predicted": told.tokens_per_s.value / guess.value, "measured": plain,
            "signed_error": told.tokens_per_s.value / guess.value / plain - 1,
        },
        "tokens_per_step": {
            "predicted": told.tokens_per_step.model_dump(mode="json"), "measured": cell.tokens_per_step,
            "signed_error": told.tokens_per_step.value / cell.tokens_per_step - 1,
        },
        "pace": pace,
    }  # fmt: skip


def summary(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Over all cells: how far off, which way, how often inside, how wide."""
    errors = {
        name: np.array([row[name]["signed_error"] for row in rows])
        for name in ("speed_up", "tokens_per_s", "plain_tokens_per_s", "tokens_per_step")
    }
    gains = [row["speed_up"] for row in rows]
    return {
        "cells": len(rows),
        **{f"{name}_mean_signed": float(each.mean()) for name, each in errors.items()},
        **{f"{name}_median_absolute": float(np.median(np.abs(each))) for name, each in errors.items()},
        "speed_up_inside": float(np.mean([gain["inside"] for gain in gains])),
        "speed_up_width": float(np.median([gain["width"] for gain in gains])),
        "speed_up_measured_width": float(
            np.median([(g["measured"]["high"] - g["measured"]["low"]) / g["measured"]["value"] for g in gains])
        ),
    }


def table_of(rows: list[dict[str, Any]]) -> Table:
    """One line a cell, the speed-up first."""
    table = Table(title="speed-up over plain decoding, predicted beside measured")
    for column in ("target", "T", "workload", "batch", "policy", "speed-up", "measured", "error", "in",
                   "tokens/s error", "plain error", "tokens a step error", "pace"):  # fmt: skip
        table.add_column(column)
    for row in rows:
        gain = row["speed_up"]
        spans = [f"{e['value']:.2f} [{e['low']:.2f}, {e['high']:.2f}]" for e in (gain["predicted"], gain["measured"])]
        others = [
            f"{row[name]['signed_error']:+.1%}" for name in ("tokens_per_s", "plain_tokens_per_s", "tokens_per_step")
        ]
        table.add_row(
            row["target"], f"{row['temperature']:g}", row["workload"], str(row["batch"]), row["policy"], *spans,
            f"{gain['signed_error']:+.1%}", "yes" if gain["inside"] else "NO", *others, f"{row['pace']:.2f}",
        )  # fmt: skip
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--targets", nargs="*", default=[s.name for s in SETTINGS], choices=[s.name for s in SETTINGS])
    parser.add_argument("--temperatures", type=float, nargs="*", default=[0.0, 1.0])
    parser.add_argument("--model", type=Path, default=Path("out/models/smollm2"), help="fetched when it is not there")
    parser.add_argument("--tiny", action="store_true", help="as little as shows that it runs")
    parser.add_argument("--name", default="speed_up", help="of the JSON document")
    args = parser.parse_args()
    console = Console(width=190)
    rows = [row for row in kept(args.name).get("rows", ()) if row["target"] not in args.targets]
    shrink: Callable[[Setting], Setting] = lambda setting: setting.smaller if args.tiny else setting  # noqa: E731
    for setting in (shrink(each) for each in SETTINGS if each.name in args.targets):
        for temperature in args.temperatures:
            with tempfile.TemporaryDirectory() as scratch:
                for row in study(setting, temperature, args.model, Path(scratch)):
                    rows.append(row)
                    arguments = {name: str(value) for name, value in vars(args).items()}
                    write_report(args.name, {"summary": summary(rows), "rows": rows, "arguments": arguments})
    console.print(table_of(rows))
    for name, value in summary(rows).items():
        console.print(f"{name}: {value:.3f}")


if __name__ == "__main__":
    main()
