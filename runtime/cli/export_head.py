"""`reader export-head`: a head as another engine reads it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from runtime.cli._shared import show_rows

__all__ = ["export_head"]


def export_head(
    head: Annotated[str, typer.Argument(help="Folder of the head, or smollm2-head.")],
    engine: Annotated[str, typer.Option(help="speculators, vllm, sglang or llama.cpp.")] = "vllm",
    densify: Annotated[bool, typer.Option("--densify", help="Multiply a low-rank output head out.")] = False,
    dtype: Annotated[str, typer.Option(help="Of the written weights: float16, bfloat16, float32.")] = "float16",
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write; it must be new.")] = Path(
        "out/exported-head"
    ),
    as_json: Annotated[bool, typer.Option("--json", help="Print the result for machines.")] = False,
) -> None:
    """Write a head for another engine; refused, with the reason, where that engine would not load it.

    Example: reader export-head smollm2-head --densify --engine vllm -o out/vllm-head
    """
    from runtime.cli._models import source_of
    from runtime.drafters.head.export import export_head as exported

    exported(Path(source_of(head)), output, engine, dense=densify, dtype=dtype)
    if as_json:
        show_rows([], as_json=True, facts={"kind": "head", "path": str(output), "engine": engine})
    else:
        print(f"{output}: for {engine}")
