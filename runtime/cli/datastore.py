"""`reader datastore`: past outputs as a source of drafts, built, added to and shown."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from runtime.cli import _options as options
from runtime.cli._shared import guarded, output_path, progress_bars, show_rows

if TYPE_CHECKING:
    from runtime.retrieval.datastore import Datastore

__all__ = ["app"]

SUFFIX = ".datastore"
app = typer.Typer(
    no_args_is_help=True,
    help="Past outputs, sorted by context: drafts that cost no forward of any model.\n\n"
    "Example: reader datastore build outputs.jsonl --output out/past.datastore",
)

Files = Annotated[
    list[Path],
    typer.Argument(help="Traces, lines of JSON with `output` (and `prompt`), or text; files, or folders of rows."),
]
File = Annotated[Path, typer.Argument(help=f"Datastore, a file that ends in {SUFFIX}.")]


def build(
    files: Files,
    target: options.Target = None,
    output: options.Output = Path(f"out/past{SUFFIX}"),
    as_json: options.AsJson = False,
) -> None:
    """Sort outputs into a datastore, by the tokenizer of the target that will draft from it.

    Example: reader datastore build outputs.jsonl out/trace.json --target house-target
    """
    path = output_path(output, SUFFIX)
    _save([], files, target, path, as_json)


def add(
    files: Files,
    datastore: Annotated[Path, typer.Option(help="What to add to; it is replaced once all is sorted in.")],
    target: options.Target = None,
    as_json: options.AsJson = False,
) -> None:
    """Sort more outputs into a datastore.

    Example: reader datastore add more.jsonl --datastore out/past.datastore
    """
    from runtime.cli._models import opened

    store = opened(datastore)
    _save(store.texts(), files, target, output_path(datastore, SUFFIX), as_json, store.tokenizer)


def show(file: File, as_json: options.AsJson = False) -> None:
    """Check a datastore to its last byte, and say what it holds.

    Example: reader datastore show out/past.datastore
    """
    from runtime.cli._models import opened

    _tell(opened(file), file, as_json)


_COMMANDS: dict[str, Callable[..., None]] = {"build": build, "add": add, "show": show}
for _name, _command in _COMMANDS.items():
    app.command(_name)(guarded(_command))


def _save(
    documents: list[Any], files: list[Path], target: str | None, path: Path, as_json: bool, expected: str = ""
) -> None:
    from reader_theory.errors import require
    from runtime.cli._models import named, quiet, tokenizer_of
    from runtime.importers.outputs import read_outputs
    from runtime.models.vocabulary import Vocabulary, check_pair, fingerprint_of
    from runtime.retrieval.datastore import Datastore

    quiet()
    tokenizer = tokenizer_of(named(target, None)[0])
    known = Vocabulary(len(tokenizer), fingerprint_of(tokenizer))
    check_pair(known, Vocabulary(0, expected), "datastore")
    with progress_bars() as progress:
        for number, file in enumerate(files):
            progress("read", number, len(files))
            documents = [*documents, *read_outputs(file, tokenizer)]
        require(
            any(len(document) for document in documents),
            "`files` must hold some output",
            got=f"none in {', '.join(f'`{file}`' for file in files)}",
            fix="Pass traces, lines of JSON with `output`, or text.",
        )
        progress("sort", 0, 1)
        store = Datastore.build(documents, tokenizer=known.tokenizer)
        store.admit(known)
        store.save(path)
        progress("sort", 1, 1)
    _tell(store, path, as_json)


def _tell(store: Datastore, path: Path, as_json: bool) -> None:
    size = path.stat().st_size
    row = {
        "documents": store.documents,
        "tokens": store.tokens,
        "vocabulary": store.vocabulary.size,
        "tokenizer": store.tokenizer or "unknown",
        "bytes": size,
        "bytes_per_token": round(size / max(store.tokens, 1), 2),
    }
    show_rows([row], as_json=as_json, title=str(path), facts={"kind": "datastore", "path": str(path)})
