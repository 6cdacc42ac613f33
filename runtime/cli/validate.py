"""`reader validate`: a Plan, and a RunRecord or another engine's benchmarks, to a Validation."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from reader_theory.errors import require
from runtime.cli import _options as options
from runtime.cli._shared import ExitCode, output_path, show_document

if TYPE_CHECKING:
    from reader_theory.documents import Plan, Validation

__all__ = ["validate"]


def validate(
    plan: options.PlanFile = Path("out/plan.json"),
    record: Annotated[
        list[Path] | None,
        typer.Argument(
            help="RunRecord, out/run.json when left out; or JSON of vllm bench serve, llama-bench or llama-server, "
            "several for several batches, and one without drafts for the speed-up."
        ),
    ] = None,
    workload: Annotated[
        str | None, typer.Option(help="Of a benchmark: which workload of the plan; its only one when left out.")
    ] = None,
    batch: Annotated[
        int | None, typer.Option(min=1, max=65536, help="Of llama-server's responses: requests at once; 1 if left out.")
    ] = None,
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

    told, files = Plan.read(plan), record or [Path("out/run.json")]
    if any(_is_run(file) for file in files):
        require(
            len(files) == 1 and workload is None and batch is None,
            "a RunRecord must be validated alone, without `--workload` and `--batch`, which it tells itself",
            got=f"{len(files)} files, workload {workload}, batch {batch}",
            fix="Validate runs one by one.",
        )
        found = compare(told, RunRecord.read(files[0]))
    else:
        found = _served(told, files, workload, batch)
    found.write(output)
    show_document(found, output, as_json=as_json)
    if strict and not all(row.inside for row in found.comparisons):
        raise typer.Exit(ExitCode.NOT_MET)


def _is_run(path: Path) -> bool:
    """Whether a file is a document of ours, or is not there, which reading it as one says best."""
    from runtime.importers.rows import json_values, read_text

    if not path.exists():
        return True
    rows = json_values(path.name, read_text(path)) or ()
    return any(isinstance(row.value, dict) and "kind" in row.value and "schema_version" in row.value for row in rows)


def _served(plan: Plan, files: list[Path], workload: str | None, batch: int | None) -> Validation:
    from reader_theory.served import validate_served
    from runtime.importers.benchmarks import benchmark_fingerprint, read_benchmarks

    require(
        workload is not None or len(plan.workloads) == 1,
        "`--workload` must say which, where the plan has several and the file is a benchmark",
        got=f"none; the plan has {list(plan.workloads)}",
        fix="Pass one of these, and a RunRecord without it.",
    )
    runs = read_benchmarks(files, batch=batch or 1)
    return validate_served(plan, runs, workload=workload or plan.workloads[0], record=benchmark_fingerprint(files))
