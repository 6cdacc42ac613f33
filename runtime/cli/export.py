"""`reader export`: a Plan to what a serving engine takes."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reader_theory.errors import InvalidInputError, require
from runtime.cli import _options as options
from runtime.cli._shared import output_path, show_rows

if TYPE_CHECKING:
    from reader_theory.documents import Plan

__all__ = ["command"]


class Engine(StrEnum):
    """Engines that plans are exported to."""

    vllm = "vllm"
    sglang = "sglang"
    tensorrt_llm = "tensorrt-llm"
    transformers = "transformers"
    medusa = "medusa"
    growmap = "growmap"


def command(
    engine: Annotated[Engine, typer.Argument(help="What runs the plan.")],
    plan: options.PlanFile = Path("out/plan.json"),
    workload: Annotated[str | None, typer.Option(help="Workload of the plan; its only one when left out.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Which entry, for the engines that take one tree.")] = 1,
    context: Annotated[
        int | None, typer.Option(min=0, help="Of a schedule of `plan --rate`: which context, in cached tokens.")
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(help="How the engine runs the draft: draft_model, eagle3, STANDALONE, EAGLE3, Draft_Target, ..."),
    ] = None,
    max_batch: Annotated[int | None, typer.Option(min=1, help="The server's largest batch.")] = None,
    nearest: Annotated[
        bool, typer.Option(help="Export the nearest that the engine runs, and say what it loses.")
    ] = False,
    dynamic_tree: Annotated[
        bool, typer.Option(help="A tree that the engine grows itself, as deep, wide and large as the plan's.")
    ] = False,
    seed: Annotated[int, typer.Option(hidden=True, help="Taken for uniformity; nothing here is random.")] = 0,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="out/ENGINE.json when left out.")] = None,
    as_json: options.AsJson = False,
) -> None:
    """Write a plan as exactly what a serving engine accepts; what the engine cannot do is refused with the nearest.

    Example: reader export vllm out/plan.json --workload code --method eagle3 --max-batch 256
    """
    path = output_path(output or Path(f"out/{engine.value}.json"), ".json")
    from optimizer.export import engine_format

    planned = _planned(plan, context)
    chosen = _workload(planned, workload)
    made = _export(planned, engine, chosen, batch, method, max_batch, nearest, dynamic_tree)
    files = _write(path, engine, made)
    facts = {
        "engine": engine.value, "version": engine_format(engine.value).version, "workload": chosen,
        "export": made, "command_line": _command_line(engine, made, files), "files": [str(file) for file in files],
    }  # fmt: skip
    rows = [] if dynamic_tree else _rows(planned, engine, chosen, batch, method)
    show_rows(rows, as_json=as_json, title=f"{chosen}: what {engine.value} runs of the plan", facts=facts)
    if not as_json:
        print(facts["command_line"])
        if dynamic_tree:
            print("The engine grows its own tree: the plan's tokens a step are not a prediction for it.")


def _planned(path: Path, context: int | None) -> Plan:
    """The plan in a file, or a schedule's plan at one context: the one asked for, or its only one."""
    from reader_theory.documents import Plan, read_document
    from reader_theory.documents.schedule import ServingSchedule

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


def _export(
    plan: Plan, engine: Engine, workload: str, batch: int, method: str | None, max_batch: int | None,
    nearest: bool, dynamic_tree: bool,
) -> Any:  # fmt: skip
    from optimizer import export

    _check(engine, method, max_batch, dynamic_tree)
    if dynamic_tree and engine is Engine.sglang:
        return export.export_sglang_dynamic_tree(plan, workload, batch, algorithm=method or "EAGLE3")
    if dynamic_tree:
        return export.export_tensorrt_llm_dynamic_tree(plan, workload, batch, decoding_type=method or "Eagle3")
    if engine is Engine.vllm:
        named = {"method": method} if method else {}
        return export.export_vllm(plan, workload, max_batch=max_batch, nearest=nearest, **named)
    if engine is Engine.sglang:
        named = {"algorithm": method} if method else {}
        return export.export_sglang(plan, workload, nearest=nearest, **named)
    if engine is Engine.tensorrt_llm:
        named = {"decoding_type": method} if method else {}
        return export.export_tensorrt_llm(plan, workload, max_batch=max_batch, nearest=nearest, **named)
    if engine is Engine.transformers:
        return export.export_transformers(plan, workload, nearest=nearest)
    one_tree = export.export_medusa if engine is Engine.medusa else export.export_growmap
    return one_tree(plan, workload, batch, nearest=nearest)


def _check(engine: Engine, method: str | None, max_batch: int | None, dynamic_tree: bool) -> None:
    """Refuse an option that the engine has no use for, rather than ignore it."""
    takers = {
        "--method": (method is not None, (Engine.vllm, Engine.sglang, Engine.tensorrt_llm)),
        "--max-batch": (max_batch is not None, (Engine.vllm, Engine.tensorrt_llm)),
        "--dynamic-tree": (dynamic_tree, (Engine.sglang, Engine.tensorrt_llm)),
    }
    for name, (given, engines) in takers.items():
        if given and engine not in engines:
            raise InvalidInputError(
                f"`{name}` must be left out for {engine.value}",
                got=f"`{name}`, which is for {', '.join(each.value for each in engines)}",
                fix="Leave it out.",
            )


def _write(path: Path, engine: Engine, made: Any) -> list[Path]:
    """The export; for SGLang the flags, and beside them the adaptive configuration that they name."""
    from reader_theory.documents.base import write_atomically

    parts = {path: made}
    if engine is Engine.sglang:
        parts = {path: made["flags"], path.with_suffix(".adaptive.json"): made["adaptive_config"]}
    told = {file: part for file, part in parts.items() if part is not None}
    return [write_atomically(file, (json.dumps(part, indent=1) + "\n").encode()) for file, part in told.items()]


def _command_line(engine: Engine, made: Any, files: list[Path]) -> str:
    from optimizer.export import sglang_flags, vllm_flag

    if not made or (engine is Engine.sglang and not made["flags"]):
        return "the plan drafts nothing: run the engine without speculation"
    if engine is Engine.vllm:
        return f"vllm serve ... {vllm_flag(made)}"
    if engine is Engine.sglang:
        return f"python -m sglang.launch_server ... {sglang_flags(made, str(files[-1]))}"
    if engine is Engine.tensorrt_llm:
        return f"speculative_config: in the file of trtllm-serve --extra_llm_api_options, the content of {files[0]}"
    if engine is Engine.transformers:
        return f"GenerationConfig(**json.load(open({str(files[0])!r}))), for the model and for its assistant"
    return f"written to {files[0]}"


def _rows(plan: Plan, engine: Engine, workload: str, batch: int, method: str | None) -> list[dict[str, Any]]:
    from optimizer.export import nearest

    return [
        {
            "batch": choice.entry.batch,
            "planned": choice.entry.policy.name,
            "exported": choice.policy.name,
            "tokens_per_step": choice.tokens_per_step,
            "tokens_per_s": choice.tokens_per_s,
            "lost_percent": None if choice.tokens_per_s is None else 100 * (1 - choice.share),
        }
        for choice in nearest(plan, engine.value, workload, batch=batch, method=method)
    ]
