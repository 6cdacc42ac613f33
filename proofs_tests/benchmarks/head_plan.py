"""One plan over many drafters: which output head, a block, look-ups, both together or nothing pays at which batch.

    python -m proofs_tests.benchmarks.head_plan [--dtype bfloat16] [--batch 1 2 4 8] [--block-minutes 10]
    python -m proofs_tests.benchmarks.head_plan --workload mixed --repeats 1 --name head_plan_mixed

SmolLM2 with the head that ships (rank 72), the same multiplied out (`full`, which drafts the same tokens), the same cut
to half the rank, and a block that is trained here, from the head that ships, unless `--block` names one. Recorded,
fitted, calibrated and planned on every other of the public `test` prompts (the heads were trained on the `fit` ones,
and draft those too well), as many tokens of each as are measured; then, on the rest of them, every cell's plan is run
in turn with the best policy of every other drafter and with plain decoding, there and back, beside a fixed step. Regret
is how far the plan's tokens a second are below the best of these. `mixed` is all seven kinds of prompts taken for one
workload: 56 prompts to fit on and 56 to measure with, where each kind has 8. Rows are written as they are measured, and
kept for a run that is asked the same on the same commit. Measures seconds: on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from optimizer.plan import Study, make_plan
from proofs_tests.benchmarks._report import RESULTS, kept, write_report
from proofs_tests.benchmarks.tables_heads import plan as table_of
from reader_theory.acceptance.fit import fit_acceptance
from reader_theory.documents import Cost, Plan, PlanEntry, Policy, RunCell
from reader_theory.json_files import load_object
from runtime.drafters.head.checkpoint import load_head_network
from runtime.drafters.head.export import densified
from runtime.drafters.head.model import HeadModel, load_head
from runtime.drafters.head.network import HeadNetwork
from runtime.measure.calibrate import calibrate_cost
from runtime.measure.prompts import PromptTokens, public_prompts
from runtime.measure.record import record_trace
from runtime.measure.run import Task, measure_cells
from runtime.models.base import LanguageModel
from runtime.models.fetch import fetch
from runtime.models.house import house_folder
from runtime.models.load import load_model, load_tokenizer
from runtime.training.heads.initial import factors
from runtime.training.heads.making import Wanted, make_head

LEVELS, RESAMPLES = 6, 400
"""Of the block; of what intervals come from."""
MIXED = "mixed"
"""All kinds of public prompts as one workload: what a server is asked that does not tell them apart."""


def of_rank(network: HeadNetwork, rank: int) -> HeadNetwork:
    """The same head, its output head cut to a lower rank: the nearest in its weights."""
    held = densified(network).state_dict()
    cut = HeadNetwork(replace(network.shape, rank=rank), network.ids)
    down, up = factors(held.pop("lm_head.weight"), rank)
    cut.load_state_dict({**held, "lm_head.down.weight": down, "lm_head.up.weight": up})
    return cut.eval().requires_grad_(False)


def trained_block(folder: Path, target: Path, minutes: float) -> Path:
    """A block's folder, trained unless it is there; a run that was cut off goes on."""
    if not (folder / "done").is_file():
        wanted = Wanted(
            block=LEVELS, steps=LEVELS, start=house_folder("smollm2_head"), rate=0.5, minutes=minutes, clock="process",
            tokens=80_000, length=256,
        )  # fmt: skip
        told = make_head(str(target), "smollm2", load_tokenizer(target), [], wanted, folder, lambda *_: None)
        (folder / "done").touch()
        print("block:", told, flush=True)
    return folder


def heads_of(target: LanguageModel, block: Path) -> dict[str, HeadModel]:
    """The drafters that are models, by name."""
    shipped = load_head(house_folder("smollm2_head"), target)
    network = load_head_network(house_folder("smollm2_head"))
    rank = network.shape.rank
    assert rank is not None, "the head that ships is of low rank"
    others = {"full": densified(network), f"r{rank // 2}": of_rank(network, rank // 2)}
    made = {name: HeadModel(each, shipped.embedding, name=name, dtype=shipped.dtype) for name, each in others.items()}
    return {f"r{rank}": shipped, **made, "block": load_head(block, target)}


def unseen_prompts(tokenizer: Any, workloads: Sequence[str]) -> list[PromptTokens]:
    """Public prompts that no head was trained on."""
    if list(workloads) == [MIXED]:
        return [replace(prompt, workload=MIXED) for prompt in public_prompts("test", tokenizer)]
    return public_prompts("test", tokenizer, workloads)


def rivals(entry: PlanEntry) -> dict[str, Policy]:
    """The plan's own policy and the best of every drafter, by name; plain decoding is run beside all of them."""
    named = {name: each.policy for name, each in entry.alternatives.items()}
    every = {"plan": entry.policy, **named}
    return {name: policy for name, policy in every.items() if policy.shape != "off"}


def cells(
    target: LanguageModel, heads: dict[str, HeadModel], plan: Plan, tests: Sequence[PromptTokens], scratch: Path,
    options: argparse.Namespace, study: dict[str, Study], done: set[tuple[str, int]],
) -> Iterator[dict[str, Any]]:  # fmt: skip
    """Rows of the cells that are left, as they are measured."""
    for entry in plan.entries:
        if (entry.workload, entry.batch) in done:
            continue
        among = rivals(entry)
        tasks = [Task(entry.workload, entry.batch, policy) for policy in dict.fromkeys(among.values())]
        record = measure_cells(
            target, heads, tasks, [p for p in tests if p.workload == entry.workload], path=scratch / "run.json",
            new_tokens=options.tokens, temperature=0.0, dtype=options.dtype, names=(plan.target, plan.drafters),
            repeats=options.repeats,
        )  # fmt: skip
        yield row_of(entry, study[entry.workload], {cell.policy: cell for cell in record.cells}, among)


def row_of(entry: PlanEntry, study: Study, run: dict[Policy, RunCell], among: dict[str, Policy]) -> dict[str, Any]:
    """What the plan said and what it gave, beside the best of every drafter; speed-ups over plain decoding."""
    gained = {"off": 1.0} | {name: _gain(run[policy]) for name, policy in among.items()}
    told = {name: study.prediction(policy, entry.batch) for name, policy in among.items()}
    own = "off" if entry.policy.shape == "off" else "plan"
    best = max(gained, key=gained.__getitem__)
    return {
        "workload": entry.workload, "batch": entry.batch, "policy": entry.policy.name,
        "drafters": sorted(entry.policy.drafters),
        "predicted": entry.prediction.speed_up.model_dump(mode="json"), "measured": gained[own],
        "inside": entry.prediction.speed_up.covers(gained[own]), "best": best, "regret": 1 - gained[own] / gained[best],
        "rivals": {
            name: {
                "policy": policy.name, "predicted": told[name].speed_up.value, "measured": gained[name],
                "inside": told[name].speed_up.covers(gained[name]), "lossless": run[policy].lossless,
                "tokens_a_step": {
                    "predicted": told[name].tokens_per_step.value, "measured": run[policy].tokens_per_step
                },
            }
            for name, policy in among.items() if name != "plan"
        },
    }  # fmt: skip


def _gain(cell: RunCell) -> float:
    assert cell.times_plain is not None, "plain decoding was run beside it"
    return cell.times_plain.value


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Over all cells: regret, and how far predicted speed-ups are off, of plans that draft and of every policy.

    What a speed-up is off by is what its tokens a step are (the acceptance), times what plain steps over its own are.
    """
    drafting = [row for row in rows if row["drafters"]]
    errors = [row["predicted"]["value"] / row["measured"] - 1 for row in drafting]
    each = [one for row in rows for one in row["rivals"].values()]
    every = [one["predicted"] / one["measured"] - 1 for one in each]
    tokens = [one["tokens_a_step"]["predicted"] / one["tokens_a_step"]["measured"] - 1 for one in each]
    seconds = [(1 + wrong) / (1 + own) - 1 for wrong, own in zip(every, tokens, strict=True)]
    return {
        "cells": len(rows),
        "drafting": len(drafting),
        "mean_regret": float(np.mean([row["regret"] for row in rows])),
        "worst_regret": max(row["regret"] for row in rows),
        "median_error": float(np.median(np.abs(errors))) if errors else 0.0,
        "worst_error": float(np.max(np.abs(errors))) if errors else 0.0,
        "inside": sum(row["inside"] for row in drafting),
        "rivals": len(each),
        "rivals_mean_signed_error": float(np.mean(every)),
        "rivals_median_error": float(np.median(np.abs(every))),
        "rivals_mean_tokens_error": float(np.mean(tokens)),
        "rivals_mean_pace_error": float(np.mean(seconds)),
        "rivals_inside": sum(one["inside"] for one in each),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("out/models/smollm2"), help="fetched when it is not there")
    parser.add_argument("--block", type=Path, default=Path("out/heads/block"), help="trained there, if it is not there")
    parser.add_argument("--block-minutes", type=float, default=10.0, help="of the process's own time")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--workload", nargs="+", default=["chat", "code", "math"], help="or mixed")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--cost", type=Path, default=Path("out/heads/cost.json"), help="measured, if it is not there")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=20.0, help="of calibration")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--train-only", action="store_true", help="train the block, which needs no quiet machine")
    parser.add_argument("--name", default="head_plan", help="of the result")
    options = parser.parse_args()
    folder = fetch("smollm2", options.model, print)
    block = trained_block(options.block, folder, options.block_minutes)
    if options.train_only:
        return
    target, tokenizer = load_model(folder, options.dtype), load_tokenizer(folder)
    heads = heads_of(target, block)
    unseen = unseen_prompts(tokenizer, options.workload)
    fit_prompts, tests = unseen[::2], unseen[1::2]
    each = len(tests) // len(options.workload)
    facts: dict[str, Any] = {key: getattr(options, key) for key in ("dtype", "tokens", "repeats")} | {"tests": each}
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        trace = record_trace(target, heads, fit_prompts, path=scratch / "trace.json", new_tokens=options.tokens)
        fit = fit_acceptance(trace, resamples=200)
        if options.cost.is_file():
            cost = Cost.read(options.cost)
            print(f"cost: {options.cost}, measured before; remove it to measure anew", flush=True)
        else:
            cost = calibrate_cost(
                target, heads, fit_prompts, device_name="this machine", dtype=options.dtype, batches=options.batch,
                seconds=options.seconds, on_disturbance="note",
            )  # fmt: skip
            cost.write(options.cost)
        plan = make_plan(
            fit, cost, trace, batches=options.batch, new_tokens=options.tokens, prompts_per_workload=each,
            resamples=RESAMPLES,
        )  # fmt: skip
        study = {
            workload: Study(fit, cost, trace, workload, test_prompts=each, resamples=RESAMPLES)
            for workload in options.workload
        }
        rows: list[dict[str, Any]] = list(kept(options.name, **facts).get("rows", ()))
        done = {(row["workload"], row["batch"]) for row in rows}
        for row in cells(target, heads, plan, tests, scratch, options, study, done):
            rows.append(row)
            print(row, flush=True)
            write_report(
                options.name, {**facts, "notes": [*plan.notes, *cost.notes], "summary": summary(rows), "rows": rows}
            )
    print(table_of(load_object(RESULTS / f"{options.name}.json", "the result")))


if __name__ == "__main__":
    main()
