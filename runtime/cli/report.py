"""`reader report`: the documents of a run to one HTML file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from runtime.cli import _options as options
from runtime.cli._shared import output_path, show_rows

__all__ = ["report"]


def report(
    plan: options.PlanFile = Path("out/plan.json"),
    record: options.RecordFile = Path("out/run.json"),
    validation: options.ValidationFile = Path("out/validation.json"),
    fit: Annotated[Path | None, typer.Option(help="AcceptanceFit: adds acceptance and reliability.")] = None,
    cost: Annotated[Path | None, typer.Option(help="Cost: adds the step-cost curve.")] = None,
    trace: Annotated[Path | None, typer.Option(help="Trace: adds what the fit was made from.")] = None,
    head: Annotated[Path | None, typer.Option(help="HeadInspection: adds a head's drafting by step.")] = None,
    title: Annotated[str, typer.Option(help="Heading of the report.")] = "Predicted against measured",
    output: options.Output = Path("out/report.html"),
    as_json: options.AsJson = False,
    seed: Annotated[int, typer.Option(hidden=True, help="Taken for uniformity; nothing here is random.")] = 0,
) -> None:
    """Write one self-contained HTML file: predicted against measured, trees, acceptance, reliability, step cost.

    Example: reader report --fit out/fit.json --cost out/cost.json --trace out/trace.json
    """
    output_path(output, ".html")
    from reader_theory.documents import Cost, Plan, RunRecord, Trace, Validation
    from reader_theory.documents.fit import AcceptanceFit
    from reader_theory.documents.head_inspection import HeadInspection
    from runtime.report.html import Part, write_report

    part = Part(
        plan=Plan.read(plan),
        record=RunRecord.read(record),
        validation=Validation.read(validation),
        fit=AcceptanceFit.read(fit) if fit else None,
        cost=Cost.read(cost) if cost else None,
        trace=Trace.read(trace) if trace else None,
        head=HeadInspection.read(head) if head else None,
    )
    write_report(output, [part], title=title)
    if as_json:
        show_rows([], as_json=True, facts={"kind": "report", "path": str(output), "bytes": output.stat().st_size})
    else:
        print(f"report written to {output}")
