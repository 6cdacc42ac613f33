"""What every command shares: exit codes, errors as messages, results as a table or as JSON, progress."""

from __future__ import annotations

import json
import math
import os
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import IntEnum
from functools import wraps
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import typer

from reader_theory.errors import InvalidInputError, require

if TYPE_CHECKING:
    from rich.console import Console

    from reader_theory.documents import Document

__all__ = [
    "ExitCode",
    "Progress",
    "check_read",
    "console",
    "guarded",
    "output_path",
    "progress_bars",
    "show_document",
    "show_rows",
]

Progress = Callable[[str, int, int], None]
"""(what is being done, how much of it is done, how much there is)."""

LONGEST_NAME = 200
"""Bytes of a name that leave room for those of the temporary file beside it."""

P = ParamSpec("P")
R = TypeVar("R")

LINE_S = 10.0
"""Seconds between two lines of progress where the output is no terminal."""
_EXTRAS = {
    "torch": "run",
    "transformers": "run",
    "matplotlib": "notebooks",
    "jinja2": "notebooks",
    "cvxpy": "plan",
    "llguidance": "grammar",
    "sklearn": "judge",
}


class ExitCode(IntEnum):
    """What the process tells the shell."""

    SUCCESS = 0
    BUG = 1
    BAD_INPUT = 2
    NOT_MET = 3


def guarded(function: Callable[P, R]) -> Callable[P, R]:
    """Turn a user's mistake into rule, evidence and way out with exit code 2; anything else stays a traceback."""

    @wraps(function)
    def command(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except InvalidInputError as error:
            _explain(error, bool(kwargs.get("as_json")))
        except OSError as error:  # a full disk, a file that went away, one that may not be read
            _explain(_unusable(error), bool(kwargs.get("as_json")))
        except ModuleNotFoundError as error:
            if error.name not in _EXTRAS:
                raise
            _explain(_missing(error.name), bool(kwargs.get("as_json")))
        raise typer.Exit(ExitCode.BAD_INPUT)

    return command


def console(*, stderr: bool = False) -> Console:
    """A console that keeps tables whole where the output is not a terminal."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    return Console(file=stream, width=None if stream.isatty() else 200, soft_wrap=not stream.isatty())


def output_path(path: Path, suffix: str) -> Path:
    """The path, checked before the work begins: right suffix, and a folder that can be written.

    Raises
    ------
    InvalidInputError
    """
    named = all(len(os.fsencode(part)) <= LONGEST_NAME for part in path.parts) and "\0" not in str(path)
    require(
        named and path.suffix == suffix and not path.is_dir(),
        f"`--output` must be a file that ends in {suffix}, with names of at most {LONGEST_NAME} bytes",
        got=f"`{str(path)[:120]}`".replace("\0", "\\0"),
        fix=f"Pass, for example, out/result{suffix}.",
    )
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    require(
        folder.is_dir() and _takes_files(folder) and (not path.exists() or path.is_file()),
        "the folder of `--output` must be one that can be written, and the output no device",
        got=f"`{path}`, under `{folder}`, which is {'read-only' if folder.is_dir() else 'not a folder'}",
        fix="Pass another path.",
    )
    return path


def check_read(ctx: typer.Context, form: str, read: Collection[str]) -> None:
    """Refuse an option that the asked form of a command has no use for, rather than ignore it.

    Parameters
    ----------
    ctx : typer.Context
        Of the command that runs.
    form : str
        What is asked of it, in words.
    read : collection of str
        Parameters that this form reads, beside seed, output and json.
    """
    every = {each.name: each.opts[0] for each in ctx.command.params if each.name and each.opts[0].startswith("-")}
    given = [name for name in every if getattr(ctx.get_parameter_source(name), "name", "") == "COMMANDLINE"]
    stray = [every[name] for name in given if name not in {*read, "seed", "output", "as_json"}]
    require(
        not stray,
        f"`{ctx.info_name}` of {form} must be given no option that it would ignore",
        got=", ".join(stray),
        fix=f"Leave it out, or ask for what reads it: `{ctx.command_path} --help`.",
    )


def _takes_files(folder: Path) -> bool:
    """Whether a file can be made there, which permissions alone do not tell."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def show_document(document: Document, path: Path, *, as_json: bool, written: bool = True) -> None:
    """Print what a document says: its rows with path and fingerprint for machines, its table for people."""
    from runtime.cli._summaries import facts_of, rows_of

    facts = {**facts_of(document), "path": str(path), "fingerprint": document.fingerprint()}
    show_rows(rows_of(document), as_json=as_json, facts=facts)
    if not as_json:
        print(f"{document.kind} written to {path}" if written else f"{document.kind} {document.fingerprint()}")


def show_rows(
    rows: Sequence[Mapping[str, Any]], *, as_json: bool, title: str = "", facts: Mapping[str, Any] | None = None
) -> None:
    """Print rows of one table: as JSON ``{**facts, "rows": rows}``, or for people."""
    if as_json:
        told = {**(facts or {}), "rows": [dict(row) for row in rows]}
        print(json.dumps(_finite(told), default=_plain, indent=1, allow_nan=False))
    elif rows:
        console().print(_table(rows, title))


def _table(rows: Sequence[Mapping[str, Any]], title: str) -> Any:
    from rich.table import Table

    names = list(dict.fromkeys(name for row in rows for name in row))
    table = Table(title=title or None, title_justify="left")
    for name in names:
        values = [row.get(name) for row in rows]
        number = all(isinstance(value, int | float | None) and not isinstance(value, bool) for value in values)
        table.add_column(name.replace("_", " "), justify="right" if number else "left", overflow="fold")
    for row in rows:
        table.add_row(*(_cell(row.get(name)) for name in names))
    return table


@contextmanager
def progress_bars(after_s: float = 1.0) -> Iterator[Progress]:
    """A callback that draws bars on the standard error once `after_s` have gone; lines where that is no terminal."""
    bars = _Bars(after_s)
    try:
        yield bars
    finally:
        bars.stop()


class _Bars:
    def __init__(self, after_s: float) -> None:
        self.begun, self.after_s = perf_counter(), after_s
        self.terminal = sys.stderr.isatty()
        self.live: Any = None
        self.tasks: dict[str, Any] = {}

    def __call__(self, label: str, done: int, total: int) -> None:
        if perf_counter() - self.begun < self.after_s:
            return
        if not self.terminal:
            self._line(label, done, total)
            return
        if self.live is None:
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
            self.live = Progress(*columns, console=console(stderr=True), transient=True)
            self.live.start()
        if label not in self.tasks:
            self.tasks[label] = self.live.add_task(label, total=total)
        self.live.update(self.tasks[label], completed=done, total=total)

    def _line(self, label: str, done: int, total: int) -> None:
        """One line when something begins, and one every `LINE_S` seconds, with the time that is left at this pace."""
        now = perf_counter()
        begun, before, told = self.tasks.setdefault(label, (now, done, -math.inf))
        if now - told < LINE_S and done < total:
            return
        self.tasks[label] = (begun, before, now)
        left = ""
        if done > before and done < total:
            left = f", {(total - done) * (now - begun) / (done - before):.0f} s left"
        print(f"... {label} {done} of {total}{left}", file=sys.stderr, flush=True)

    def stop(self) -> None:
        if self.live is not None:
            self.live.stop()


def _explain(error: InvalidInputError, as_json: bool) -> None:
    if as_json:
        told = {"rule": error.rule, "got": str(error.got), "fix": error.fix, "kind": type(error).__name__}
        print(json.dumps({"error": told}, indent=1))
        return
    print(f"Error: {error.rule}.\n  Got: {error.got}\n  Way out: {error.fix}", file=sys.stderr)


def _unusable(error: OSError) -> InvalidInputError:
    where = "" if error.filename is None else f"`{str(error.filename)[:120]}`: "
    return InvalidInputError(
        "files must be such that they can be read and written",
        got=f"{where}{error.strerror or error}",
        fix="Check the path, who may use it, and the room on its disk.",
    )


def _missing(library: str) -> InvalidInputError:
    return InvalidInputError(
        f"{library} must be installed for this command",
        got="no such module",
        fix=f"pip install 'reader-theory[{_EXTRAS[library]}]'",
    )


def _plain(value: Any) -> Any:
    dumped = getattr(value, "model_dump", None)
    return dumped(mode="json") if dumped else str(value)


def _finite(value: Any) -> Any:
    """The same with None for what is not a number, which JSON has no word for."""
    if isinstance(value, Mapping):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _cell(value: Any) -> str:
    from reader_theory.estimate import Estimate
    from runtime.report.numbers import interval, number

    if isinstance(value, Estimate):
        return interval(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return number(value)
    return "-" if value is None else str(value)
