"""The whole loop held against itself: predicted beside measured on prompts that the fit has not seen, and the regret.

For the house target in float32 and its inflation in bfloat16: record on the fit prompts, fit, calibrate, plan, run the
plan on the test prompts, compare; then sweep a grid of trees, chains and off, and say how far the plan's choice is from
the best measured one.

    python -m proofs_tests.benchmarks.loop
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from optimizer.plan import make_plan
from proofs_tests.benchmarks._report import write_report
from reader_theory.acceptance.fit import fit_acceptance
from reader_theory.documents import Plan, RunRecord, Trace, Validation
from reader_theory.validate import validate
from runtime.calibrate import calibrate_cost
from runtime.measure import run_plan
from runtime.models.house import house_folder
from runtime.models.house.inflate import inflate
from runtime.models.load import load_model, load_tokenizer
from runtime.models.target import LanguageModel
from runtime.prompts import PromptTokens, house_prompts
from runtime.record import record_trace
from runtime.sweep import sweep_policies

WORKLOADS = ("code", "copy", "prose")


def study(
    target: LanguageModel,
    draft: LanguageModel,
    trace: Trace,
    fit_prompts: list[PromptTokens],
    tests: list[PromptTokens],
    scratch: Path,
    dtype: str,
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
    sweep = sweep_policies(
        target, draft, plan, swept, batches=batches, path=scratch / "sweep.json", repeats=args.repeats
    )
    return {
        "target": target.name,
        "dtype": dtype,
        "temperature": trace.temperature,
        "closure": cost.closure.model_dump(),
        "comparisons": [c.model_dump() | {"inside": c.inside, "error": c.relative_error} for c in checked.comparisons],
        "coverage": {q: checked.coverage(q) for q in ("tokens_per_step", "tokens_per_s")},
        "lossless": sorted({cell.lossless for cell in record.cells}),
        "regret": regret(plan, sweep),
        "speed_up": speed_ups(plan, checked),
    }


def regret(plan: Plan, sweep: RunRecord) -> list[dict[str, Any]]:
    """Per workload and batch: the plan's measured rate below the best measured one."""
    rows: list[dict[str, Any]] = []
    for workload, batch in dict.fromkeys((cell.workload, cell.batch) for cell in sweep.cells):
        cells = {c.policy: c.tokens_per_s for c in sweep.cells if (c.workload, c.batch) == (workload, batch)}
        chosen, best = plan.entry(workload, batch).policy.name, max(cells, key=cells.__getitem__)
        loss = 1 - cells[chosen] / cells[best]
        rows.append(
            {"workload": workload, "batch": batch, "plan": chosen, "best": best, "regret": loss, "rates": cells}
        )
    return rows


def speed_ups(plan: Plan, checked: Validation) -> list[dict[str, Any]]:
    """Measured speed-up over this engine's own plain decoding at the same batch."""
    return [{"workload": c.workload, "batch": c.batch, "measured": c.measured} for c in checked.of("speed_up")]


def table_of(result: dict[str, Any]) -> Table:
    """Predicted beside measured, one line a cell."""
    table = Table(title=f"{result['target']} {result['dtype']}, temperature {result['temperature']:g}")
    for column in (
        "workload",
        "batch",
        "policy",
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
        for name in ("tokens_per_step", "tokens_per_s"):
            p = q[name]["predicted"]
            cells += [
                f"{p['value']:.4g} [{p['low']:.4g}, {p['high']:.4g}]",
                f"{q[name]['measured']:.4g}",
                "yes" if q[name]["inside"] else "NO",
            ]
        table.add_row(*cells, f"{losses[(workload, batch)]:.1%}")
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fit-prompts", type=int, default=64, help="prompts a workload")
    parser.add_argument("--tests", type=int, default=64, help="test prompts a workload, house target")
    parser.add_argument("--tests-inflated", type=int, default=12, help="test prompts a workload, inflation")
    parser.add_argument("--swept", type=int, default=12, help="test prompts a workload in the sweep, house target")
    parser.add_argument("--swept-inflated", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--seconds", type=float, default=20.0, help="of calibration a target")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--temperatures", type=float, nargs="*", default=[0.0, 1.0])
    parser.add_argument("--targets", nargs="*", default=["house", "inflated"], choices=["house", "inflated"])
    parser.add_argument("--name", default="loop", help="of the JSON document")
    args = parser.parse_args()
    tokenizer, console, results = load_tokenizer(house_folder("target")), Console(width=170), []
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
                if not house:
                    inflate(house_folder("target"), scratch / "inflated")
                target = small if house else load_model(scratch / "inflated", "bfloat16")
                tests = house_prompts(WORKLOADS, "test", tokenizer, limit=args.tests if house else args.tests_inflated)
                swept = house_prompts(WORKLOADS, "test", tokenizer, limit=args.swept if house else args.swept_inflated)
                results.append(
                    study(
                        target,
                        draft,
                        trace,
                        fit_prompts,
                        tests,
                        scratch,
                        "float32" if house else "bfloat16",
                        args,
                        (1, 2, 4, 8) if house else (1, 4),
                        swept,
                    )
                )
                console.print(table_of(results[-1]))
                write_report(args.name, {"results": results, "arguments": vars(args)})


if __name__ == "__main__":
    main()
