"""`reader export`: a Plan to what a serving engine takes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reader_theory.errors import require
from runtime.cli import _options as options
from runtime.cli._shared import output_path, show_rows

if TYPE_CHECKING:
    from optimizer.export import Choice, Weigher
    from reader_theory.documents import Plan

__all__ = ["command"]


def command(
    engine: Annotated[
        str, typer.Argument(help="What runs the plan: vllm, sglang, tensorrt-llm, transformers, medusa, growmap, ...")
    ],
    plan: options.PlanFile = Path("out/plan.json"),
    workload: Annotated[str | None, typer.Option(help="Workload of the plan; its only one when left out.")] = None,
    batch: Annotated[int, typer.Option(min=1, max=10**6, help="Which entry, for the engines that take one tree.")] = 1,
    context: Annotated[
        int | None,
        typer.Option(min=0, max=10**8, help="Of a schedule of `plan --rate`: which context, in cached tokens."),
    ] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(
            metavar="AXIS=VALUE", help="Of the rows of `plan --grid` (.jsonl): one model, drafter, device, ...; repeat."
        ),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(help="How the engine runs the draft: draft_model, eagle3, STANDALONE, EAGLE3, Draft_Target, ..."),
    ] = None,
    max_batch: Annotated[int | None, typer.Option(min=1, max=10**6, help="The server's largest batch.")] = None,
    nearest: Annotated[
        bool, typer.Option(help="Export the nearest that the engine runs, and say what it loses.")
    ] = False,
    dynamic_tree: Annotated[
        bool, typer.Option(help="A tree that the engine grows itself, as deep, wide and large as the plan's.")
    ] = False,
    synthetic: Annotated[
        bool,
        typer.Option(help="Accept by chance, as often at each depth as planned: to time it before a drafter is there."),
    ] = False,
    fit: Annotated[
        Path | None,
        typer.Option(
            help="With --cost and --trace of the plan: weigh all that the engine runs, not what the plan kept."
        ),
    ] = None,
    cost: Annotated[Path | None, typer.Option(help="The Cost that the plan was made from.")] = None,
    trace: Annotated[Path | None, typer.Option(help="The Trace that was fitted.")] = None,
    seed: Annotated[int, typer.Option(hidden=True, help="Taken for uniformity; nothing here is random.")] = 0,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="out/ENGINE.json when left out.")] = None,
    as_json: options.AsJson = False,
) -> None:
    """Write a plan as exactly what a serving engine accepts; what the engine cannot do is refused with the nearest.

    Example: reader export vllm out/plan.json --workload code --method eagle3 --max-batch 256
    """
    from optimizer.export import EXPORTERS, ExportOptions, export

    exporter = EXPORTERS[engine]()
    path = output_path(output or Path(f"out/{engine}.json"), ".json")
    planned = _of_grid(plan, context, where or []) if plan.suffix == ".jsonl" else _planned(plan, context, where)
    chosen = _workload(planned, workload)
    weigh = _weigher(planned, fit, cost, trace)
    asked = ExportOptions(method, batch, max_batch, nearest, dynamic_tree, synthetic, weigh)
    made = export(planned, engine, chosen, asked)
    files = _write(path, exporter.files(made.config))
    facts = {
        "engine": engine, "version": exporter.format.version, "workload": chosen, "export": made.config,
        "command_line": exporter.command_line(made.config, files), "files": list(files.values()),
        "notes": list(made.notes), "weighed": "all that the engine runs" if weigh else "what the plan kept",
    }  # fmt: skip
    rows = _rows(made.choices)
    show_rows(rows, as_json=as_json, title=f"{chosen}: what {engine} runs of the plan", facts=facts)
    if not as_json:
        print(facts["command_line"])
        for note in made.notes:
            print(f"note: {note}")
        if weigh is None and any(row["planned"] != row["exported"] for row in rows):
            print(
                "The nearest is that of what the plan kept: --fit, --cost and --trace weigh all that the engine runs."
            )


def _weigher(plan: Plan, fit: Path | None, cost: Path | None, trace: Path | None) -> Weigher | None:
    given = {"--fit": fit, "--cost": cost, "--trace": trace}
    require(
        len({path is None for path in given.values()}) == 1,
        "`--fit`, `--cost` and `--trace` must be given together",
        got=", ".join(name for name, path in given.items() if path is not None),
        fix="Pass all three, those that the plan was made from, or none.",
    )
    if fit is None or cost is None or trace is None:
        return None
    from optimizer.export import weigher
    from reader_theory.documents import Cost, Trace
    from reader_theory.documents.fit import AcceptanceFit

    return weigher(plan, AcceptanceFit.read(fit), Cost.read(cost), Trace.read(trace))


def _of_grid(path: Path, context: int | None, where: Sequence[str]) -> Plan:
    """The plan that rows of `plan --grid` are, of the cells that are named."""
    from optimizer.grid import rows_in
    from optimizer.grid_plan import plan_of_rows

    named = [each.partition("=") for each in where] + ([] if context is None else [("context", "=", str(context))])
    axes = {axis: value for axis, _, value in named}
    require(
        all(axis and equals and value for axis, equals, value in named) and len(axes) == len(named),
        "`--where` must be AXIS=VALUE, each axis once",
        got=", ".join("".join(each) for each in named),
        fix="Write --where drafter=Qwen3-1.7B --where device=H100-SXM",
    )
    return plan_of_rows(rows_in(path), axes)


def _planned(path: Path, context: int | None, where: list[str] | None) -> Plan:
    """The plan in a file, or a schedule's plan at one context: the one asked for, or its only one."""
    require(
        not where,
        "`--where` must be left out for a plan or a schedule",
        got=", ".join(where or []),
        fix="It tells the rows of a grid apart; pass out/grid.jsonl with it.",
    )
    from reader_theory.documents import Plan, read_document
    from reader_theory.documents.serving_schedule import ServingSchedule

    kinds = {"plan": Plan, "serving_schedule": ServingSchedule}
    read = read_document(path, kinds)
    if isinstance(read, ServingSchedule):
        known = sorted({cell.context for cell in read.cells})
        require(
            context is not None or len(known) == 1,
            "`--context` must say which, where the schedule has several",
            got=f"none; the schedule has {known}",
            fix="Pass one of these.",
        )
        return read.plan(known[0] if context is None else context)
    require(context is None, "`--context` must be left out for a plan", got=context, fix="A plan has one context.")
    assert isinstance(read, Plan), "no other kind is read"
    return read


def _workload(plan: Plan, workload: str | None) -> str:
    require(
        workload is not None or len(plan.workloads) == 1,
        "`--workload` must say which, where the plan has several",
        got=f"none; the plan has {list(plan.workloads)}",
        fix="Pass one of these.",
    )
    return workload or plan.workloads[0]


def _write(path: Path, parts: dict[str, Any]) -> dict[str, str]:
    """Paths of what was written, by suffix: the export, and what stands beside it."""
    from reader_theory.documents.base import write_atomically

    told = {suffix: path if suffix == path.suffix else path.with_suffix(suffix) for suffix in parts}
    for suffix, part in parts.items():
        write_atomically(told[suffix], (json.dumps(part, indent=1) + "\n").encode())
    return {suffix: str(file) for suffix, file in told.items()}


def _rows(choices: Sequence[Choice]) -> list[dict[str, Any]]:
    return [
        {
            "batch": choice.entry.batch,
            "planned": choice.entry.policy.name,
            "exported": choice.policy.name,
            "tokens_per_step": choice.tokens_per_step,
            "tokens_per_s": choice.tokens_per_s,
            "lost_percent": None if choice.tokens_per_s is None else 100 * (1 - choice.share),
        }
        for choice in choices
    ]
