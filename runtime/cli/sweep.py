"""`reader sweep`: a grid of trees, chains and "off", measured, beside the plan's own choice."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from runtime.cli import _options as options
from runtime.cli._shared import output_path, progress_bars, show_rows

if TYPE_CHECKING:
    from reader_theory.documents import Plan, RunRecord
    from reader_theory.documents.run_record import RunCell

__all__ = ["regrets", "sweep"]


def sweep(
    plan: options.PlanFile = Path("out/plan.json"),
    target: options.Target = None,
    draft: options.Draft = None,
    kv: options.Kv = None,
    datastore: options.DatastoreFile = None,
    prompts: options.Prompts = None,
    workload: options.Workloads = None,
    split: options.Split = "test",
    limit: options.Limit = None,
    batch: options.Batches = None,
    repeats: Annotated[int, typer.Option(min=1, help="Runs of each policy, in turn; its time is their median.")] = 3,
    dtype: options.Dtype = None,
    seed: options.Seed = 0,
    output: options.Output = Path("out/sweep.json"),
    as_json: options.AsJson = False,
) -> None:
    """Measure a grid of policies on the real model, and tell how far the plan's choice is from the best of them.

    Example: reader sweep out/plan.json --batch 1 --batch 8 --limit 8
    """
    output_path(output, ".json")
    from reader_theory.documents import Plan
    from runtime.cli._models import drafts_planned, load_models, load_prompt_tokens, opened_for
    from runtime.measure.sweep import sweep_policies

    planned = _narrowed(Plan.read(plan), workload)
    with progress_bars() as progress:
        names = target or planned.target, draft or drafts_planned(planned)
        models = load_models(*names, dtype or planned.dtype, progress, kv or planned.kv)
        chosen = load_prompt_tokens(prompts, models.tokenizer, workloads=planned.workloads, split=split, limit=limit)
        record = sweep_policies(
            models.target, models.drafts, planned, chosen, batches=batch or (1, 2, 4, 8), path=output, repeats=repeats,
            seed=seed, datastore=opened_for(models, datastore), progress=progress,
        )  # fmt: skip
    facts = {"kind": record.kind, "path": str(output), "fingerprint": record.fingerprint(), "cells": len(record.cells)}
    show_rows(regrets(planned, record), as_json=as_json, facts=facts)
    if not as_json:
        print(f"{len(record.cells)} cells measured, written to {output}")


def regrets(plan: Plan, record: RunRecord) -> list[dict[str, Any]]:
    """By workload and batch: the plan's policy, the best measured one, and the share of its speed that is missed.

    The share at least and at most is that of the repeats that speak most for the plan, and most against it.
    """
    rows: list[dict[str, Any]] = []
    for workload, batch in dict.fromkeys((cell.workload, cell.batch) for cell in record.cells):
        here = [cell for cell in record.cells if (cell.workload, cell.batch) == (workload, batch)]
        best = max(here, key=lambda cell: cell.tokens_per_s)
        policy = plan.entry(workload, batch, best.context_tokens).policy
        planned = next(cell for cell in here if cell.policy == policy)
        least, most = (_regret(planned, best, *ends) for ends in ((0, 1), (1, 0)))
        rows.append(
            {
                "workload": workload,
                "batch": batch,
                "planned": policy.name,
                "planned_tokens_per_s": planned.tokens_per_s,
                "best": best.policy.name,
                "best_tokens_per_s": best.tokens_per_s,
                "regret": 1 - planned.tokens_per_s / best.tokens_per_s,
                "regret_at_least": max(least, 0.0),
                "regret_at_most": max(most, 0.0),
            }
        )
    return rows


def _regret(planned: RunCell, best: RunCell, plan_end: int, best_end: int) -> float:
    """With one policy at an end of the spread of its repeats, and the other at one of its own."""
    rates = [
        cell.tokens_per_s * cell.decode_s / cell.decode_s_spread[end]
        for cell, end in ((planned, plan_end), (best, best_end))
    ]
    return 0.0 if planned is best else 1 - rates[0] / rates[1]


def _narrowed(plan: Plan, workloads: list[str] | None) -> Plan:
    """The plan of these workloads only."""
    if not workloads:
        return plan
    known = [plan.entry(name, 1).workload for name in workloads]
    return plan.model_copy(update={"entries": tuple(entry for entry in plan.entries if entry.workload in known)})
