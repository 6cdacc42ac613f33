"""`reader plan`: an AcceptanceFit and a Cost to a Plan."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from runtime.cli import _options as options
from runtime.cli._shared import ExitCode, output_path, progress_bars, show_document

__all__ = ["plan"]


def plan(
    fit: options.FitFile = Path("out/fit.json"),
    cost: options.CostFile = Path("out/cost.json"),
    trace: Annotated[Path, typer.Option(help="The Trace that was fitted.")] = Path("out/trace.json"),
    batch: options.Batches = None,
    workload: options.Workloads = None,
    max_nodes: Annotated[int, typer.Option(min=1, help="Largest tree.")] = 32,
    max_depth: Annotated[int, typer.Option(min=1, help="Deepest tree.")] = 8,
    new_tokens: Annotated[
        int | None, typer.Option(min=1, help="Output tokens of the requests planned for; the trace's when left out.")
    ] = None,
    prompts_per_workload: Annotated[
        int, typer.Option(min=1, help="Prompts that the prediction's interval allows for in the measurement.")
    ] = 32,
    resamples: Annotated[int, typer.Option(min=100, help="Resampled sets of prompts.")] = 1000,
    seed: options.Seed = 0,
    output: options.Output = Path("out/plan.json"),
    as_json: options.AsJson = False,
) -> None:
    """Choose what to draft for each workload and batch; "off" and chains are among the candidates.

    Example: reader plan out/fit.json out/cost.json --batch 1 --batch 8 --max-nodes 64
    """
    output_path(output, ".json")
    from optimizer.plan import make_plan
    from reader_theory.documents import Cost, Trace
    from reader_theory.documents.fit import AcceptanceFit

    fitted, costs, recorded = AcceptanceFit.read(fit), Cost.read(cost), Trace.read(trace)
    longest = max(prompt.output_tokens for prompt in recorded.prompts)
    with progress_bars() as progress:
        chosen = make_plan(
            fitted, costs, recorded, batches=batch or (1, 2, 4, 8), workloads=workload, max_nodes=max_nodes,
            max_depth=max_depth, new_tokens=new_tokens or longest, prompts_per_workload=prompts_per_workload,
            resamples=resamples, seed=seed, progress=progress,
        )  # fmt: skip
    chosen.write(output)
    show_document(chosen, output, as_json=as_json)
    if not chosen.entries:
        raise typer.Exit(ExitCode.NOT_MET)
