"""`reader latency`: the six coefficients of the latency model, from runs of a load generator."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from runtime.cli import _options as options
from runtime.cli._shared import show_rows

__all__ = ["command"]


def command(
    files: Annotated[list[Path], typer.Argument(help="JSON of vllm bench serve, guidellm or aiperf, several rates.")],
    drafted: Annotated[
        float | None, typer.Option(min=0.0, help="Tokens drafted a step, where files tell accepted ones alone.")
    ] = None,
    rate: Annotated[list[float] | None, typer.Option(help="Requests a second to predict for; repeatable.")] = None,
    seed: options.Seed = 0,
    as_json: options.AsJson = False,
) -> None:
    """Fit a request's mean latency over rate, output length and drafts; rates past saturation are refused.

    Example: reader latency rate-1.json rate-4.json rate-8.json rate-16.json rate-24.json --rate 12
    """
    from reader_theory.serving.latency import fit_latency
    from runtime.importers.latency import read_latency_runs

    runs = read_latency_runs(files, drafted=drafted)
    fitted = fit_latency(runs, seed=seed)
    last = runs[-1]
    asked = (last.tokens, last.tokens_per_step, last.drafted)
    saturation = fitted.parts(*asked)[1]
    predicted = [{"rate_per_s": each, "latency_s": fitted.latency_s(each, *asked)} for each in rate or ()]
    rows = [{"coefficient": name, "seconds": value} for name, value in fitted.coefficients.items()]
    facts = {
        "runs": len(runs), "worst_error_percent": 100 * max(map(abs, fitted.errors)),
        "saturation_per_s": 1 / saturation if saturation else None, "predicted": predicted,
    }  # fmt: skip
    show_rows(
        rows, as_json=as_json, title="seconds of a request alone (c1), and added by each other one (c2)", facts=facts
    )
    if not as_json:
        show_rows(predicted, as_json=False)
        print(f"{len(runs)} runs, worst error {facts['worst_error_percent']:.1f} %")
        if saturation:
            print(f"saturation at {1 / saturation:.4g} requests a second, for requests like the last file's")
