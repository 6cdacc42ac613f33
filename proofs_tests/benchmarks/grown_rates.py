"""Grown trees inside the engine: measured tokens a second beside each source alone, both side by side, and off.

    python -m proofs_tests.benchmarks.grown_rates [--target house] [--temperatures 0 1] [--batches 1 4] [--scratch DIR]

House target in float32, or its inflation in bfloat16: the same function, so the same trace. Policies of every kind are
ranked by what a plan predicts from the fit prompts; the first `FINALISTS` of each kind run on test prompts, in turn, in
one run, and the faster one stands for its kind. Documents in the scratch folder are used again, so that parts can be
measured one by one; a result is kept by target, temperature and batch.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from optimizer.plan import Study
from proofs_tests.benchmarks._report import RESULTS, write_report
from reader_theory.acceptance.fit import fit_acceptance
from reader_theory.documents import Cost, Policy, Trace
from runtime.measure.calibrate import calibrate_cost
from runtime.measure.prompts import PromptTokens, house_prompts
from runtime.measure.record import record_trace
from runtime.measure.replay import grown_family
from runtime.measure.run import Task, measure_cells
from runtime.models.base import LanguageModel
from runtime.models.house import house_folder
from runtime.models.house.inflate import inflate
from runtime.models.load import load_model, load_tokenizer

KINDS = ("off", "draft", "retrieval", "both", "retrieved tree", "grown tree")
FINALISTS = 2


def kind_of(policy: Policy) -> str:
    """What a policy drafts from; trees that are grown anew are kinds of their own."""
    if policy.kind == "grown":
        return "retrieved tree" if policy.drafter is None else "grown tree"
    return "both" if policy.kind == "union" else policy.drafted_by


def finalists(trace: Trace, cost: Cost, workload: str, batch: int) -> dict[Policy, float]:
    """The first of each kind by predicted tokens a second."""
    study = Study(fit_acceptance(trace, resamples=100), cost, trace, workload, max_nodes=32, max_depth=8)
    study.entry(batch)
    ranked = study.ranked(batch, study.mean_context)
    chosen: dict[Policy, float] = {}
    for kind in KINDS:
        chosen |= dict([(w.policy, value) for w, value in ranked if kind_of(w.policy) == kind][:FINALISTS])
    for policy in chosen:
        weighed = study.weighed(policy)
        step_s, tokens = study.step(weighed, batch, study.mean_context).step_s, weighed.result.tokens_per_step
        print(f"    {policy.name:45s} predicted {tokens:5.2f} tokens, {1e3 * step_s:.2f} ms")
    return chosen


def one_batch(
    models: tuple[LanguageModel, LanguageModel],
    trace: Trace,
    cost: Cost,
    tests: Sequence[PromptTokens],
    batch: int,
    args: argparse.Namespace,
) -> list[dict[str, Any]]:
    """Every workload at one batch: each kind's best, measured."""
    rows: list[dict[str, Any]] = []
    for workload in trace.workloads:
        print(f"  {workload}, batch {batch}", flush=True)
        chosen = finalists(trace, cost, workload, batch)
        record = measure_cells(
            *models, [Task(workload, batch, policy) for policy in chosen], tests, path=args.scratch / "run.json",
            new_tokens=args.tokens, temperature=trace.temperature, dtype=cost.dtype, 
            names=(args.target, {"draft": "house-draft"}), repeats=args.repeats, compare_plain=False,
        )  # fmt: skip
        measured = [
            {
                "kind": kind_of(policy),
                "policy": policy.name,
                "predicted_tokens_per_s": predicted,
                "tokens_per_s": cell.tokens_per_s,
                "spread": [(cell.output_tokens - cell.prompts) / s for s in cell.decode_s_spread[::-1]],
                "tokens_per_step": cell.tokens_per_step,
                "accepted": cell.accepted,
                "offered": cell.offered,
            }
            for (policy, predicted), cell in zip(chosen.items(), record.cells, strict=True)
        ]
        best: dict[str, dict[str, Any]] = {}
        for each in measured:
            if each["tokens_per_s"] > best.get(each["kind"], {"tokens_per_s": 0.0})["tokens_per_s"]:
                best[each["kind"]] = each
        print("    " + ", ".join(f"{kind} {each['tokens_per_s']:.0f}" for kind, each in best.items()), flush=True)
        rows.append(
            {"workload": workload, "best": {k: v["tokens_per_s"] for k, v in best.items()}, "policies": measured}
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", choices=["house", "inflated"], default="house")
    parser.add_argument("--fit-prompts", type=int, default=24, help="by workload")
    parser.add_argument("--tests", type=int, default=12, help="by workload")
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=12.0, help="of calibration")
    parser.add_argument("--temperatures", type=float, nargs="*", default=[0.0, 1.0])
    parser.add_argument("--batches", type=int, nargs="*", default=[1, 4], help="none: record and calibrate only")
    parser.add_argument("--scratch", type=Path, default=Path("out/grown_rates"))
    parser.add_argument("--name", default="grown_rates")
    args = parser.parse_args()
    torch.set_num_threads(1)
    models, dtype = (load_model(house_folder("target")), load_model(house_folder("draft"))), "float32"
    tokenizer = load_tokenizer(house_folder("target"))
    fit_prompts = house_prompts(None, "fit", tokenizer, args.fit_prompts)
    tests = house_prompts(None, "test", tokenizer, args.tests)
    path = RESULTS / f"{args.name}.json"
    kept: dict[str, Any] = json.loads(path.read_text())["results"] if path.exists() else {}
    if args.target == "inflated":
        if not (args.scratch / "inflated").exists():
            inflate(house_folder("target"), args.scratch / "inflated")
        models, dtype = (load_model(args.scratch / "inflated", "bfloat16"), models[1]), "bfloat16"
    for temperature in args.temperatures:
        file = args.scratch / f"trace_{temperature:g}.json"
        trace = Trace.read(file) if file.exists() else record_trace(
            *models, fit_prompts, path=file, temperature=temperature, new_tokens=args.tokens,
            grown=grown_family(drafted=True),
        )  # fmt: skip
        priced = args.scratch / f"cost_{args.target}.json"
        if not priced.exists():
            calibrate_cost(
                *models, fit_prompts, device_name="this machine", dtype=dtype, batches=(1, 4), seconds=args.seconds
            ).write(priced)
        for batch in args.batches:
            print(f"temperature {temperature:g}", flush=True)
            told = {"fit": args.fit_prompts, "test": args.tests, "tokens": args.tokens, "repeats": args.repeats}
            rows = one_batch(models, trace, Cost.read(priced), tests, batch, args)
            kept[f"{args.target}, temperature {temperature:g}, batch {batch}"] = {"prompts": told, "rows": rows}
            write_report(args.name, {"results": dict(sorted(kept.items()))})


if __name__ == "__main__":
    main()
