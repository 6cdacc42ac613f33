"""`reader plan`: an AcceptanceFit and a Cost to a Plan, to a schedule under load, or to a grid of plans."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from reader_theory.errors import require
from runtime.cli import _options as options
from runtime.cli._shared import ExitCode, check_read, output_path, progress_bars, show_document, show_rows

if TYPE_CHECKING:
    from reader_theory.documents import Cost, Plan, Trace
    from reader_theory.documents.fit import AcceptanceFit
    from reader_theory.documents.imported import ImportedAcceptance
    from reader_theory.documents.judge import JudgeCurve
    from reader_theory.documents.serving_schedule import ServingSchedule

__all__ = ["plan"]


# What each form of planning reads, beside --seed, --output and --json.
_GRID = frozenset({"grid", "max_nodes", "max_depth", "workers", "scheduler"})
_CURVE = frozenset({"quality_budget", "batch", "drafter"})
_COUNTED = frozenset({"batch", "workload", "context", "drafter", "max_depth", "new_tokens"})
_FITTED = frozenset({"trace", "batch", "workload", "new_tokens"})
_SIZES = frozenset({"max_nodes", "max_depth", "context"})
_UNDER_RATE = frozenset({"rate", "slo", "kv_tokens"})
_OF_COUNTS = frozenset({"risk", "resamples"})
_OF_CACHES = frozenset({"datastore", "kv_bytes", "kv", "risk"})
_OF_FIT = frozenset({"datastore", "risk", "resamples", "prompts_per_workload"})


def plan(
    ctx: typer.Context,
    fit: options.FitFile = Path("out/fit.json"),
    cost: options.CostFile = Path("out/cost.json"),
    trace: Annotated[Path | None, typer.Option(help="The Trace that was fitted; out/trace.json when left out.")] = None,
    drafter: Annotated[
        str | None, typer.Option(help="Of imported acceptance: which drafter of the cost was counted.")
    ] = None,
    quality_budget: Annotated[
        float | None,
        typer.Option(min=0.0, help="With a JudgeCurve: points of task score, of 100, that may be lost. LOSSY."),
    ] = None,
    datastore: options.DatastoreFile = None,
    batch: options.Batches = None,
    workload: options.Workloads = None,
    max_nodes: Annotated[
        int | None,
        typer.Option(min=1, max=1024, help="Largest tree; as was measured when left out, 32 with a load or grid."),
    ] = None,
    max_depth: Annotated[
        int | None,
        typer.Option(min=1, max=1024, help="Deepest tree; as was recorded when left out, 8 with a load or grid."),
    ] = None,
    risk: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Greatest chance of being no faster than plain decoding; 0.1 when left out."),
    ] = None,
    new_tokens: Annotated[
        int | None,
        typer.Option(min=1, max=10**7, help="Output tokens of the requests planned for; the trace's when left out."),
    ] = None,
    prompts_per_workload: Annotated[
        int,
        typer.Option(min=1, max=10**5, help="Prompts that the prediction's interval allows for in the measurement."),
    ] = 32,
    resamples: Annotated[int, typer.Option(min=100, max=10**5, help="Resampled sets of prompts.")] = 1000,
    rate: Annotated[
        float | None, typer.Option(help="Requests a second: write the schedule over batch and context instead.")
    ] = None,
    slo: Annotated[float | None, typer.Option(help="With --rate: most seconds a token of one request.")] = None,
    context: Annotated[
        list[int] | None,
        typer.Option("--context", min=1, max=10**8, help="Tokens a row up to which entries are made; repeatable."),
    ] = None,
    kv_tokens: Annotated[
        int | None, typer.Option(min=1, max=10**12, help="With --rate: capacity of the cache, as engines log it.")
    ] = None,
    kv_bytes: Annotated[
        int | None,
        typer.Option(
            "--kv-bytes", min=1, help="Bytes for keys and values: weigh caches against loads (--batch) instead."
        ),
    ] = None,
    kv: Annotated[
        str | None,
        typer.Option("--kv", help="With --kv-bytes: all=FILE or NAME=FILE, from `reader kv fit`; all when left out."),
    ] = None,
    grid: Annotated[
        Path | None,
        typer.Option(help="TOML of axes (model, drafter, device, batch, context, workload): plan each combination."),
    ] = None,
    workers: Annotated[int, typer.Option(help="With --grid: processes here; -1 for one a core.")] = -1,
    scheduler: Annotated[
        str | None, typer.Option(help="With --grid: a Dask scheduler, tcp://host:8786, instead of processes here.")
    ] = None,
    seed: options.Seed = 0,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="out/plan.json; out/schedule.json with --rate, out/grid.jsonl with --grid."
        ),
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Choose what to draft for each workload and batch; "off" and chains are among the candidates.

    From a curve of `reader judge curve`, under a quality budget, the plan may be LOSSY; it then says so.

    Example: reader plan out/fit.json out/cost.json --batch 1 --batch 8 --max-nodes 64
    """
    if grid is not None:
        check_read(ctx, "a grid", _GRID)
        _grid(grid, fit, output or Path("out/grid.jsonl"), max_nodes or 32, max_depth or 8, workers, scheduler, as_json)
        return
    usual = "out/kv_plan.json" if kv_bytes else "out/plan.json" if rate is None else "out/schedule.json"
    path = output_path(output or Path(usual), ".json")
    from optimizer.imported_plan import plan_imported
    from optimizer.imported_schedule import schedule_imported
    from reader_theory.documents import Cost, Trace
    from reader_theory.documents.imported import ImportedAcceptance
    from reader_theory.documents.judge import JudgeCurve
    from reader_theory.documents.plan import RISK

    taken = RISK if risk is None else risk
    fitted, costs = read_acceptance_document(fit), Cost.read(cost)
    if isinstance(fitted, JudgeCurve):
        check_read(ctx, "a curve of `reader judge curve`", _CURVE)
        _check_budget(quality_budget)
        _judged(fitted, costs, quality_budget, batch or [1, 2, 4, 8], drafter, path, as_json)
        return
    if isinstance(fitted, ImportedAcceptance):
        check_read(ctx, "imported acceptance", _COUNTED | (_UNDER_RATE if rate is not None else _OF_COUNTS))
        _check_workload(fitted, workload)
        if rate is not None:
            schedule = schedule_imported(
                fitted, costs, rate_per_s=rate, slo_s=slo, batches=batch, contexts=context, drafter=drafter,
                max_depth=max_depth or fitted.depth, output_tokens=new_tokens, kv_tokens=kv_tokens,
            )  # fmt: skip
            schedule.write(path)
            _show_schedule(schedule, path, as_json)
            return
        planned = plan_imported(
            fitted, costs, batches=batch or (1, 2, 4, 8), contexts=context, drafter=drafter, risk=taken,
            max_depth=max_depth or fitted.depth, new_tokens=new_tokens or 256, resamples=resamples, seed=seed,
        )  # fmt: skip
        _show_plan(planned, path, as_json)
        return
    if kv_bytes is not None:
        check_read(ctx, "a fit and caches", _FITTED | _OF_CACHES)
    elif rate is not None:
        check_read(ctx, "a fit under a rate", _FITTED | _UNDER_RATE | _SIZES)
    else:
        check_read(ctx, "a fit", _FITTED | _OF_FIT | _SIZES)
    recorded = Trace.read(trace or Path("out/trace.json"))
    served = _served(costs, recorded, datastore)
    if kv_bytes is not None:
        _plan_kv(fitted, costs, recorded, kv_bytes, kv, served, path, as_json, batch, workload, new_tokens, taken, seed)
        return
    if rate is not None:
        from optimizer.serving_schedule import serving_schedule

        schedule = serving_schedule(
            fitted, costs, recorded, rate_per_s=rate, slo_s=slo, batches=batch, contexts=context, workloads=workload,
            max_nodes=max_nodes or 32, max_depth=max_depth or 8, output_tokens=new_tokens, kv_tokens=kv_tokens,
        )  # fmt: skip
        schedule.write(path)
        _show_schedule(schedule, path, as_json)
        return
    from optimizer.plan import make_plan

    longest = max(prompt.output_tokens for prompt in recorded.prompts)
    with progress_bars() as progress:
        chosen = make_plan(
            fitted, costs, recorded, batches=batch or (1, 2, 4, 8), contexts=context, workloads=workload,
            max_nodes=max_nodes, max_depth=max_depth, new_tokens=new_tokens or longest, drafters=served,
            prompts_per_workload=prompts_per_workload, resamples=resamples, risk=taken, seed=seed, progress=progress,
        )  # fmt: skip
    _show_plan(chosen, path, as_json)


def read_acceptance_document(path: Path) -> AcceptanceFit | ImportedAcceptance | JudgeCurve:
    """Acceptance that was fitted to a trace, counted by an engine, or that of a judge by threshold."""
    from reader_theory.documents import read_document
    from reader_theory.documents.fit import AcceptanceFit
    from reader_theory.documents.imported import ImportedAcceptance
    from reader_theory.documents.judge import JudgeCurve

    kinds = {"acceptance_fit": AcceptanceFit, "imported_acceptance": ImportedAcceptance, "judge_curve": JudgeCurve}
    read = read_document(path, kinds)
    assert isinstance(read, AcceptanceFit | ImportedAcceptance | JudgeCurve), "no other kind is read"
    return read


def _check_budget(budget: float | None) -> None:
    require(
        budget is not None,
        "a curve of `reader judge curve` must be planned with a `--quality-budget`: a judge is lossy",
        got="none",
        fix="Say how many points of task score, of 100, may be lost: --quality-budget 2.",
    )


def _judged(
    curve: JudgeCurve, cost: Cost, budget: float | None, batches: list[int], drafter: str | None, path: Path,
    as_json: bool,
) -> None:  # fmt: skip
    """Plan under a quality budget, and show the frontier that was chosen from."""
    from optimizer.judged_plan import frontier_of, plan_judged

    assert budget is not None, "`_check_budget` has looked"
    planned = plan_judged(curve, cost, budget, batches=batches, drafter=drafter)
    if not as_json:
        points = frontier_of(curve, cost, budget, batches=batches, drafter=drafter)
        show_rows([dict(point) for point in points], as_json=False, title="frontier: LOSSY but for lossless and off")
    _show_plan(planned, path, as_json)


def _check_workload(told: ImportedAcceptance, workload: list[str] | None) -> None:
    require(
        not workload or workload == [told.workload],
        "imported acceptance must be planned for its own workload",
        got=f"{workload}; the workload is {told.workload!r}",
        fix="Leave --workload out, or record and fit a trace.",
    )


def _show_plan(plan: Plan, path: Path, as_json: bool) -> None:
    plan.write(path)
    show_document(plan, path, as_json=as_json)
    if not as_json:
        for note in plan.notes:
            print(f"note: {note}")
    if not plan.entries:
        raise typer.Exit(ExitCode.NOT_MET)


def _served(cost: Cost, trace: Trace, datastore: Path | None) -> list[str]:
    """Drafters that the plan may choose; that of a datastore where one will be served."""
    from reader_theory.documents.policy import DATASTORE
    from runtime.cli._models import opened

    if datastore is None:
        return [name for name in cost.drafters if name != DATASTORE]
    opened(datastore)
    require(
        DATASTORE in trace.drafters and DATASTORE in cost.drafters,
        "`--datastore` must have been recorded and calibrated with",
        got=f"drafters {sorted(trace.drafters)} in the trace, {sorted(cost.drafters)} in the cost",
        fix="Pass --datastore to `reader record` and `reader calibrate` too, or leave it out.",
    )
    return list(cost.drafters)


def _plan_kv(
    fit: AcceptanceFit, cost: Cost, trace: Trace, kv_bytes: int, kv: str | None, drafters: list[str], path: Path,
    as_json: bool, loads: list[int] | None, workloads: list[str] | None, new_tokens: int | None, risk: float, seed: int,
) -> None:  # fmt: skip
    """Weigh caches under loads, and show who wins where."""
    from optimizer.kv_plan import plan_caches
    from reader_theory.documents.kv_caches import KVCaches
    from runtime.drafters.neural import CATCH_UP

    name, _, file = (kv or "all=out/kv.json").partition("=")
    caches = KVCaches.read(file or "out/kv.json")
    longest = max(prompt.output_tokens for prompt in trace.prompts)
    with progress_bars() as progress:
        planned = plan_caches(
            fit, cost, trace, caches, kv_bytes=kv_bytes, loads=loads or (1, 4, 16, 64), workloads=workloads,
            names=None if name == "all" else list(dict.fromkeys(("plain", name))), drafters=drafters,
            new_tokens=new_tokens or longest, least_scratch=CATCH_UP, risk=risk, seed=seed, progress=progress,
        )  # fmt: skip
    planned.write(path)
    rows = [
        {
            "workload": point.workload,
            "load": point.load,
            "cache": point.cache,
            "bits": point.bits,
            "most_rows": point.most_rows,
            "rows": point.rows,
            "policy": "none fits" if point.policy is None else point.policy.name,
            "tokens_per_s": 0.0 if point.tokens_per_s is None else point.tokens_per_s.value,
            "perplexity": f"x {point.perplexity_ratio.value:.3f}",
            "best": point.best,
        }
        for point in planned.points
    ]
    facts = {"kind": planned.kind, "path": str(path), "fingerprint": planned.fingerprint()}
    show_rows(rows, as_json=as_json, facts=facts, title=f"caches within {kv_bytes:,} bytes, by load")
    if not as_json:
        print(f"{planned.kind} written to {path}")
    if not any(point.best for point in planned.points):
        raise typer.Exit(ExitCode.NOT_MET)


def _show_schedule(schedule: ServingSchedule, path: Path, as_json: bool) -> None:
    from runtime.cli._summaries import facts_of, rows_of

    points = [point.model_dump() for point in schedule.points]
    facts = {**facts_of(schedule), "path": str(path), "fingerprint": schedule.fingerprint(), "points": points}
    show_rows(rows_of(schedule), as_json=as_json, facts=facts, title="the best at every batch and context")
    if not as_json:
        show_rows(points, as_json=False, title=f"where {schedule.rate_per_s:g} requests a second settle")
        print(f"{schedule.kind} written to {path}")
    if not any(point.sustained for point in schedule.points):
        raise typer.Exit(ExitCode.NOT_MET)


def _grid(
    file: Path, fit: Path, output: Path, max_nodes: int, max_depth: int, workers: int, scheduler: str | None,
    as_json: bool,
) -> None:  # fmt: skip
    output_path(output, ".jsonl")
    from reader_theory.documents.judge import JudgeCurve
    from runtime.cli._grid import plan_grid, rows_of

    fitted = read_acceptance_document(fit)
    require(fitted.kind != "judge_curve", "`--grid` must be given fitted or counted acceptance", got="a judge's curve",
            fix="Plan the curve by itself, with a --quality-budget.")  # fmt: skip
    assert not isinstance(fitted, JudgeCurve), "refused above"
    with progress_bars() as progress:
        done = plan_grid(
            file, fitted, max_nodes=max_nodes, max_depth=max_depth, workers=workers, scheduler=scheduler,
            output=output, progress=lambda finished, whole: progress("grid", finished, whole),
        )  # fmt: skip
    failed = [row for row in done if row.error is not None]
    facts = {"kind": "grid", "path": str(output), "cells": len(done), "failed": len(failed)}
    show_rows(rows_of(done), as_json=as_json, facts=facts)
    if not as_json:
        print(f"{len(done) - len(failed)} of {len(done)} cells written to {output}")
    if failed or not any("policy" in (row.result or {}) for row in done):
        raise typer.Exit(ExitCode.NOT_MET)
