"""`reader show`: any document, read back and checked."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from runtime.cli import _options as options
from runtime.cli._shared import show_document

__all__ = ["show"]


def show(
    document: Annotated[Path, typer.Argument(help="Any document that `reader` wrote.")],
    as_json: options.AsJson = False,
    seed: Annotated[int, typer.Option(hidden=True, help="Taken for uniformity; nothing here is random.")] = 0,
) -> None:
    """Read any document, check it, and print what it says.

    Example: reader show out/plan.json
    """
    from reader_theory.documents import read_document
    from reader_theory.documents.schemas import document_kinds

    show_document(read_document(document, document_kinds()), document, as_json=as_json, written=False)
