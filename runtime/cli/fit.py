"""`reader fit`: a Trace to an AcceptanceFit."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from runtime.cli import _options as options
from runtime.cli._shared import output_path, progress_bars, show_document

__all__ = ["fit"]


def fit(
    trace: options.TraceFile = Path("out/trace.json"),
    depth: Annotated[int, typer.Option(min=1, max=1024, help="Depths that the rank x depth table tells apart.")] = 8,
    level: Annotated[float, typer.Option(min=0.5, max=0.999, help="Coverage that the intervals claim.")] = 0.95,
    resamples: Annotated[int, typer.Option(min=100, max=10**5, help="Resampled sets of prompts.")] = 1000,
    seed: options.Seed = 0,
    output: options.Output = Path("out/fit.json"),
    as_json: options.AsJson = False,
) -> None:
    """Fit acceptance by rank, depth and match length, workload by workload, with intervals from resampling prompts.

    Example: reader fit out/trace.json --depth 12
    """
    output_path(output, ".json")
    from reader_theory.acceptance.fit import fit_acceptance
    from reader_theory.documents import Trace

    recorded = Trace.read(trace)
    with progress_bars() as progress:
        progress("fit acceptance", 0, 1)
        fitted = fit_acceptance(recorded, depth=depth, level=level, resamples=resamples, seed=seed)
        progress("fit acceptance", 1, 1)
    fitted.write(output)
    show_document(fitted, output, as_json=as_json)
    for warning in filter(None, (found.warning for found in fitted.workloads)):
        typer.echo(warning, err=True)
