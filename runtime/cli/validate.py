"""`reader validate`: a Plan and a RunRecord to a Validation."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from runtime.cli import _options as options
from runtime.cli._shared import ExitCode, output_path, show_document

__all__ = ["validate"]


def validate(
    plan: options.PlanFile = Path("out/plan.json"),
    record: options.RecordFile = Path("out/run.json"),
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 3 where a value misses its interval.")] = False,
    output: options.Output = Path("out/validation.json"),
    as_json: options.AsJson = False,
    seed: Annotated[int, typer.Option(hidden=True, help="Taken for uniformity; nothing here is random.")] = 0,
) -> None:
    """Hold each predicted term against the measured one.

    Example: reader validate out/plan.json out/run.json --strict
    """
    output_path(output, ".json")
    from reader_theory.documents import Plan, RunRecord
    from reader_theory.validate import validate as compare

    found = compare(Plan.read(plan), RunRecord.read(record))
    found.write(output)
    show_document(found, output, as_json=as_json)
    if strict and not all(row.inside for row in found.comparisons):
        raise typer.Exit(ExitCode.NOT_MET)
