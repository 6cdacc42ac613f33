"""`reader inflate`: a larger copy of a target that computes the same function."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from runtime.cli import _options as options
from runtime.cli._shared import progress_bars, show_rows

__all__ = ["inflate"]


def inflate(
    target: options.Target = None,
    hidden_size: Annotated[int, typer.Option(min=1, help="New width.")] = 1024,
    layers: Annotated[int, typer.Option(min=1, help="New number of layers.")] = 8,
    intermediate_size: Annotated[int, typer.Option(min=1, help="New width of the MLP.")] = 2048,
    dtype: Annotated[str, typer.Option(help="Of the written weights: bfloat16, float16, float32.")] = "bfloat16",
    seed: options.Seed = 0,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write; it must not exist.")] = Path(
        "out/inflated"
    ),
    as_json: options.AsJson = False,
) -> None:
    """Write a function-preserving larger copy of a Llama-family model: the same tokens at the cost of a bigger one.

    Example: reader inflate --output out/inflated --layers 12
    """
    from runtime.cli._models import named, quiet, source_of
    from runtime.models.house.inflate import inflate as enlarge

    quiet()
    source = named(target, None)[0]
    with progress_bars() as progress:
        progress("inflate", 0, 1)
        model = enlarge(
            source_of(source), output, hidden_size=hidden_size, layers=layers, intermediate_size=intermediate_size,
            dtype=dtype, seed=seed,
        )  # fmt: skip
        progress("inflate", 1, 1)
    parameters = int(model.num_parameters())
    if as_json:
        show_rows([], as_json=True, facts={"kind": "model", "path": str(output), "parameters": parameters})
    else:
        print(f"{parameters / 1e6:.1f} million parameters in {dtype} written to {output}")
