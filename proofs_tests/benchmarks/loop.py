"""The whole loop held against itself: predicted beside measured on prompts that the fit has not seen, and the regret.

For the house target in float32 and its inflation in bfloat16: record on the fit prompts, fit, calibrate, plan, run the
plan on the test prompts, compare; then sweep a grid of trees, chains and off, and say how far the plan's choice is from
the best measured one.

    python -m proofs_tests.benchmarks.loop
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from optimizer.plan import make_plan
from proofs_tests.benchmarks._report import RESULTS, write_report
from reader_theory.acceptance.fit import fit_acceptance
from reader_theory.documents import Comparison, Plan, Trace, Validation
from reader_theory.validate import validate
from runtime.measure.calibrate import calibrate_cost
from runtime.measure.prompts import PromptTokens, house_prompts
from runtime.measure.record import record_trace
from runtime.measure.run import Task, measure_cells, run_plan
from runtime.measure.sweep import sweep_grid, sweep_policies
from runtime.models.base import LanguageModel
from runtime.models.house import house_folder
from runtime.models.house.inflate import inflate
from runtime.models.load import load_model, load_tokenizer

WORKLOADS = ("code", "copy", "prose")
FINALISTS, FINALS = 4, 2


def study(
    target: LanguageModel,
    draft: LanguageModel,
    trace: Trace,
    fit_prompts: list[PromptTokens],
    tests: list[PromptTokens],
    scratch: Path,
    dtype: str,
    label: str,
    args: argparse.Namespace,
    batches: tuple[int, ...],
    swept: list[PromptTokens],
) -> dict[str, Any]:
    """One target at one temperature: validation rows and regret rows."""
    cost = calibrate_cost(
        target,
        draft,
        fit_prompts,
        device_name="this machine",
        dtype=dtype,
        batches=batches,
        seconds=args.seconds,
        temperature=trace.temperature,
        on_disturbance="note",
    )
    plan = make_plan(
        fit_acceptance(trace),
        cost,
        trace,
        batches=batches,
        new_tokens=args.tokens,
        prompts_per_workload=len(tests) // 3,
    )
    record = run_plan(target, draft, plan, tests, path=scratch / "run.json", repeats=args.repeats)
    checked = validate(plan, record)
    return {
        "target": label,
        "dtype": dtype,
        "temperature": trace.temperature,
        "prompts": {"fit": len(fit_prompts), "test": len(tests), "sweep": len(swept)},
        "closure": cost.closure.model_dump(),
        "comparisons": [_flat(c) for c in checked.comparisons],
        "coverage": {q: checked.coverage(q) for q in ("speed_up", "tokens_per_step", "tokens_per_s")},
        "lossless": sorted({cell.lossless for cell in record.cells}),
        "regret": regret(target, draft, plan, swept, batches, scratch),
        "speed_up": speed_ups(plan, checked),
    }


def regret(
    target: LanguageModel,
    draft: LanguageModel,
    plan: Plan,
    prompts: list[PromptTokens],
    batches: tuple[int, ...],
    scratch: Path,
) -> list[dict[str, Any]]:
    """Per workload and batch: the plan's measured rate below the best measured one.

    A quarter of the prompts picks `FINALISTS` of the grid; all of them, `FINALS` times in turn, give the rates.
    """
    few = [p for i, p in enumerate(prompts) if i % 4 == 0]
    first = sweep_policies(target, draft, plan, few, batches=batches, path=scratch / "first.json")
    policies = set(sweep_grid())
    finals: list[Task] = []
    for workload, batch in dict.fromkeys((cell.workload, cell.batch) for cell in first.cells):
        chosen = plan.entry(workload, batch).policy
        rates = {c.policy: c.tokens_per_s for c in first.cells if (c.workload, c.batch) == (workload, batch)}
        leaders = sorted(policies & rates.keys(), key=lambda policy: -rates[policy])[:FINALISTS]
        finals += [Task(workload, batch, policy) for policy in dict.fromkeys([chosen, *leaders])]
    second = measure_cells(
        target, draft, finals, prompts, path=scratch / "second.json", new_tokens=plan.new_tokens,
        temperature=plan.temperature, dtype=plan.dtype, names=(plan.target, plan.drafters), repeats=FINALS,
        compare_plain=False,
    )  # fmt: skip
    rows: list[dict[str, Any]] = []
    for workload, batch in dict.fromkeys((cell.workload, cell.batch) for cell in second.cells):
        cells = {c.policy.name: c.tokens_per_s for c in second.cells if (c.workload, c.batch) == (workload, batch)}
        chosen, best = plan.entry(workload, batch).policy.name, max(cells, key=cells.__getitem__)
        loss = 1 - cells[chosen] / cells[best]
        rows.append(
            {"workload": workload, "batch": batch, "plan": chosen, "best": best, "regret": loss, "rates": cells}
        )
    return rows


def _flat(c: Comparison) -> dict[str, Any]:
    return c.model_dump() | {
        "policy": c.policy.name, "inside": c.inside, "error": c.relative_error, "at_pace": c.at_pace,
    }  # fmt: skip


def speed_ups(plan: Plan, checked: Validation) -> list[dict[str, Any]]:
    """Speed-up over this engine's own plain decoding at the same batch, predicted beside measured."""
    return [
        {
            "workload": c.workload, "batch": c.batch, "predicted": c.predicted.value, "measured": c.measured,
            "signed_error": c.predicted.value / c.measured - 1, "inside": c.inside,
            "width": (c.predicted.high - c.predicted.low) / c.predicted.value,
        }
        for c in checked.of("speed_up")
    ]  # fmt: skip


def table_of(result: dict[str, Any]) -> Table:
    """Predicted beside measured, one line a cell."""
    table = Table(title=f"{result['target']} {result['dtype']}, temperature {result['temperature']:g}")
    for column in (
        "workload",
        "batch",
        "policy",
        "speed-up",
        "measured",
        "in",
        "tokens/step",
        "measured",
        "in",
        "tokens/s",
        "measured",
        "in",
        "regret",
    ):
        table.add_column(column)
    by_cell: dict[tuple[str, int], dict[str, Any]] = {}
    for row in result["comparisons"]:
        by_cell.setdefault((row["workload"], row["batch"]), {})[row["quantity"]] = row
    losses = {(r["workload"], r["batch"]): r["regret"] for r in result["regret"]}
    for (workload, batch), q in by_cell.items():
        cells = [workload, str(batch), q["step_s"]["policy"]]
        for name in ("speed_up", "tokens_per_step", "tokens_per_s"):
            if name not in q:
                cells += ["off", "", ""]
                continue
            p = q[name]["predicted"]
            cells += [
                f"{p['value']:.4g} [{p['low']:.4g}, {p['high']:.4g}]",
                f"{q[name]['at_pace']:.4g}",
                "yes" if q[name]["inside"] else "NO",
            ]
        table.add_row(*cells, f"{losses[(workload, batch)]:.1%}")
    return table


def kept(name: str) -> dict[tuple[str, float], dict[str, Any]]:
    """Parts that earlier runs wrote."""
    path = RESULTS / f"{name}.json"
    parts = json.loads(path.read_text())["results"] if path.exists() else []
    return {(part["target"], part["temperature"]): part for part in parts}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fit-prompts", type=int, default=256, help="prompts a workload")
    parser.add_argument("--tests", type=int, default=64, help="test prompts a workload, house target")
    parser.add_argument("--tests-inflated", type=int, default=24, help="test prompts a workload, inflation")
    parser.add_argument("--swept", type=int, default=12, help="test prompts a workload in the sweep, house target")
    parser.add_argument("--swept-inflated", type=int, default=6)
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--seconds", type=float, default=16.0, help="of calibration a target")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--temperatures", type=float, nargs="*", default=[0.0, 1.0])
    parser.add_argument("--targets", nargs="*", default=["house", "inflated"], choices=["house", "inflated"])
    parser.add_argument("--name", default="loop", help="of the JSON document")
    args = parser.parse_args()
    tokenizer, console, results = load_tokenizer(house_folder("target")), Console(width=170), kept(args.name)
    fit_prompts = house_prompts(WORKLOADS, "fit", tokenizer, limit=args.fit_prompts)
    small, draft = load_model(house_folder("target"), "float32"), load_model(house_folder("draft"), "float32")
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        for temperature in args.temperatures:
            trace = record_trace(
                small, draft, fit_prompts, path=scratch / "trace.json", temperature=temperature, new_tokens=args.tokens
            )
            for which in args.targets:
                house = which == "house"
                if not house and not (scratch / "inflated").exists():
                    inflate(house_folder("target"), scratch / "inflated")
                target = small if house else load_model(scratch / "inflated", "bfloat16")
                tests = house_prompts(WORKLOADS, "test", tokenizer, limit=args.tests if house else args.tests_inflated)
                swept = house_prompts(WORKLOADS, "test", tokenizer, limit=args.swept if house else args.swept_inflated)
                dtype, batches = ("float32", (1, 2, 4, 8)) if house else ("bfloat16", (1, 4))
                label = "house" if house else "house inflated"
                found = study(target, draft, trace, fit_prompts, tests, scratch, dtype, label, args, batches, swept)
                console.print(table_of(found))
                results[(found["target"], found["temperature"])] = found
                ordered = [results[key] for key in sorted(results, key=lambda key: (key[1], key[0]))]
                write_report(args.name, {"results": ordered, "arguments": vars(args)})


if __name__ == "__main__":
    main()
