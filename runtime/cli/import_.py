"""`reader import`: what production records, to an ImportedAcceptance or to prompts."""

from __future__ import annotations

from collections import Counter
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reader_theory.errors import InvalidInputError, require
from runtime.cli import _options as options
from runtime.cli._shared import output_path, show_document, show_rows

if TYPE_CHECKING:
    from runtime.importers import ImportedPrompt

__all__ = ["command"]


class Source(StrEnum):
    """What can be imported."""

    vllm = "vllm"
    sglang = "sglang"
    sharegpt = "sharegpt"
    openai = "openai"


def command(
    source: Annotated[Source, typer.Argument(help="vllm, sglang: acceptance; sharegpt, openai: prompts.")],
    files: Annotated[list[Path], typer.Argument(help="vllm: metrics or logs in order of time; else one file.")],
    num_steps: Annotated[int | None, typer.Option(min=1, help="sglang: its --speculative-num-steps.")] = None,
    workload: Annotated[str, typer.Option(help="Prompts: the workload they are filed under.")] = "chat",
    turns: Annotated[int, typer.Option(min=1, help="sharegpt: prompts taken of each conversation.")] = 1,
    limit: Annotated[int | None, typer.Option(min=1, help="Prompts: taken in all.")] = None,
    tokenizer: Annotated[
        str | None, typer.Option(help="Prompts: folder whose chat template renders them; joined plainly when left out.")
    ] = None,
    seed: Annotated[int, typer.Option(hidden=True, help="Taken for uniformity; nothing here is random.")] = 0,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="out/acceptance.json or out/prompts.jsonl when left out.")
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Acceptance from a server's metrics or log, or prompts from recorded conversations.

    Example: reader import vllm metrics-1.txt metrics-2.txt -o out/acceptance.json
    """
    require(
        len(files) == 1 or source is Source.vllm,
        f"{source.value} must be given one file",
        got=f"{len(files)} files",
        fix="Import them one by one.",
        error=InvalidInputError,
    )
    if source in (Source.vllm, Source.sglang):
        path = output_path(output or Path("out/acceptance.json"), ".json")
        document = _acceptance(source, files, num_steps)
        document.write(path)
        show_document(document, path, as_json=as_json)
        return
    path = output_path(output or Path("out/prompts.jsonl"), ".jsonl")
    _show_prompts(_prompts(source, files[0], workload, turns, limit, tokenizer), path, as_json)


def _acceptance(source: Source, files: list[Path], num_steps: int | None) -> Any:
    from runtime.importers import read_sglang_log, read_vllm_metrics

    if source is Source.sglang:
        return read_sglang_log(files[0], num_steps=num_steps)
    return read_vllm_metrics(files)


def _prompts(
    source: Source, file: Path, workload: str, turns: int, limit: int | None, tokenizer: str | None
) -> list[ImportedPrompt]:
    from runtime.importers import read_openai_jsonl, read_sharegpt
    from runtime.importers.prompts import chat_template, plain

    render = chat_template(tokenizer) if tokenizer else plain
    if source is Source.sharegpt:
        return read_sharegpt(file, workload=workload, turns=turns, limit=limit, render=render)
    return read_openai_jsonl(file, workload=workload, limit=limit, render=render)


def _show_prompts(prompts: list[ImportedPrompt], path: Path, as_json: bool) -> None:
    from runtime.importers import write_prompts

    write_prompts(path, prompts)
    counts = Counter(prompt.workload for prompt in prompts)
    rows = [
        {
            "workload": name,
            "prompts": count,
            "characters": sum(len(prompt.text) for prompt in prompts if prompt.workload == name),
            "with_answer": sum(prompt.reference is not None for prompt in prompts if prompt.workload == name),
        }
        for name, count in counts.items()
    ]
    show_rows(rows, as_json=as_json, facts={"path": str(path)})
    if not as_json:
        print(f"prompts written to {path}: reader record --prompts {path}")
