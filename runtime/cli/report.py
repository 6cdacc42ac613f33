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
    record: Annotated[
        Path,
        typer.Argument(help="RunRecord, from `reader run`; or the Validation itself, of another engine's benchmark."),
    ] = Path("out/run.json"),
    validation: options.ValidationFile = Path("out/validation.json"),
    fit: Annotated[
        Path | None, typer.Option(help="AcceptanceFit: adds acceptance and reliability. Or imported acceptance.")
    ] = None,
    cost: Annotated[Path | None, typer.Option(help="Cost: adds the step-cost curve.")] = None,
    trace: Annotated[Path | None, typer.Option(help="Trace: adds what the fit was made from.")] = None,
    engine: Annotated[
        list[str] | None, typer.Option(help="Whose flags to show; repeatable. vLLM, SGLang, llama.cpp when left out.")
    ] = None,
    title: Annotated[str, typer.Option(help="Heading of the report.")] = "Predicted against measured",
    output: options.Output = Path("out/report.html"),
    as_json: options.AsJson = False,
    seed: Annotated[int, typer.Option(hidden=True, help="Taken for uniformity; nothing here is random.")] = 0,
) -> None:
    """Write one self-contained HTML file: the gain, predicted beside measured; what to paste; what would change it.

    Example: reader report --fit out/fit.json --cost out/cost.json --trace out/trace.json
    """
    output_path(output, ".html")
    from reader_theory.documents import Cost, Plan, RunRecord, Trace, Validation, read_document
    from reader_theory.documents.fit import AcceptanceFit
    from reader_theory.documents.imported import ImportedAcceptance
    from runtime.cli._report_advice import PASTED, advice_of
    from runtime.report.html import Part, write_report

    told = Plan.read(plan)
    run = read_document(record, {"run_record": RunRecord, "validation": Validation})
    found = run if isinstance(run, Validation) else Validation.read(validation)
    kinds = {"acceptance_fit": AcceptanceFit, "imported_acceptance": ImportedAcceptance}
    fitted = read_document(fit, kinds) if fit else None
    assert isinstance(fitted, AcceptanceFit | ImportedAcceptance | None), "no other kind is read"
    priced, traced = Cost.read(cost) if cost else None, Trace.read(trace) if trace else None
    part = Part(
        plan=told,
        record=run if isinstance(run, RunRecord) else None,
        validation=found,
        fit=fitted if isinstance(fitted, AcceptanceFit) else None,
        cost=priced,
        trace=traced,
        advice=advice_of(told, fitted, priced, traced, engine or PASTED),
    )
    write_report(output, [part], title=title)
    if as_json:
        show_rows([], as_json=True, facts={"kind": "report", "path": str(output), "bytes": output.stat().st_size})
    else:
        print(f"report written to {output}")
