"""A function over a grid of cells: on all cores, or on a Dask cluster, with progress, and resumed where it stopped."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from reader_theory.errors import InvalidInputError, require

__all__ = ["Row", "evaluate", "grid", "rows_in"]

Cell = Mapping[str, Any]
CellFunction = Callable[[Cell], Any]
Progress = Callable[[int, int], None]
MOST_WORKERS = 4096
CONNECT_S = 10
"""Seconds in which a scheduler must answer."""


@dataclass(frozen=True)
class Row:
    """One cell and what came of it: a result, or the error that its function raised."""

    cell: Cell
    result: Any
    error: str | None = None


def grid(**axes: Sequence[Any]) -> list[dict[str, Any]]:
    """Every combination of the axes, such as ``grid(model=[...], device=[...], batch=[1, 8])``."""
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


def evaluate(
    cells: Iterable[Cell],
    function: CellFunction,
    *,
    workers: int = -1,
    scheduler: str | None = None,
    output: str | Path | None = None,
    progress: Progress | None = None,
) -> list[Row]:
    """Evaluate `function` at every cell.

    Parameters
    ----------
    cells : iterable of mappings that JSON can hold
    function : callable (cell) -> anything that JSON can hold
        An exception is kept in the cell's row; the other cells go on.
    workers : int
        Processes on this machine; -1 for one a core.
    scheduler : str, optional
        Address of a Dask scheduler, ``"tcp://host:8786"``. A worker that is lost has its cells given to the others.
    output : path, optional
        JSON lines, one a finished cell, each on disk before the next is reported. A second run skips what is there
        and takes up the rest; a line cut short by a crash is dropped. Failed cells are not written, so that they are
        tried again.
    progress : callable (done, all), optional

    Returns
    -------
    list of Row
        In the order of `cells`.
    """
    todo = list(cells)
    keys = [_key(cell) for cell in todo]
    require(
        len(set(keys)) == len(keys),
        "`cells` must differ from one another",
        got=f"{len(keys) - len(set(keys))} repeated cells of {len(keys)}",
        fix="Drop the repeats, or add a field such as a seed.",
    )
    require(
        workers == -1 or 1 <= workers <= MOST_WORKERS,
        f"`workers` must be -1, for one a core, or from 1 to {MOST_WORKERS}",
        got=workers,
        fix="Leave it out.",
    )
    known = {} if output is None else _read(Path(output))
    rows = {i: Row(todo[i], known[key]) for i, key in enumerate(keys) if key in known}
    left = [(i, cell) for i, cell in enumerate(todo) if i not in rows]
    finished = _on_dask(left, function, scheduler) if scheduler else _on_cores(left, function, workers)
    for i, result, error in finished:
        rows[i] = Row(todo[i], result, error)
        if output is not None and error is None:
            _append(Path(output), {"key": keys[i], "cell": dict(todo[i]), "result": result})
        if progress is not None:
            progress(len(rows), len(todo))
    return [rows[i] for i in range(len(todo))]


def rows_in(path: str | Path) -> list[Row]:
    """The finished rows of a file that `evaluate` wrote; a line that a crash cut short is left out, and stays.

    Raises
    ------
    InvalidInputError
        If the file cannot be read, or is not a grid's.
    """
    path = Path(path)
    try:
        text = path.read_bytes()
    except OSError as error:
        raise InvalidInputError(
            "a grid's rows must be a readable file", got=str(error), fix="Pass what `reader plan --grid` wrote."
        ) from None
    whole = text[: text.rfind(b"\n") + 1].splitlines()
    require(bool(whole), *_not_ours(path), got="no whole line", fix="Pass what `reader plan --grid` wrote.")
    return [Row(line["cell"], line["result"]) for line in (_line(path, i, each) for i, each in enumerate(whole, 1))]


def _key(cell: Cell) -> str:
    text = json.dumps(dict(cell), sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def _read(path: Path) -> dict[str, Any]:
    """Results on disk by key; the file is cut back to its last whole line, once it is known to be of a grid.

    Raises
    ------
    InvalidInputError
        If a line is not one that `evaluate` writes: the file is somebody else's, and is left as it is.
    """
    if not path.exists():
        return {}
    text = path.read_bytes()
    whole = text[: text.rfind(b"\n") + 1]
    lines = [_line(path, number, line) for number, line in enumerate(whole.splitlines(), 1)]
    cut = text[len(whole) :]
    require(
        not cut or cut.startswith(_BEGINS[: len(cut)]), *_not_ours(path), got=f"{cut[:60]!r} after the last line",
        fix=_ANOTHER,
    )  # fmt: skip
    if cut:
        os.truncate(path, len(whole))
    return {line["key"]: line["result"] for line in lines}


_BEGINS = b'{"key": "'
_ANOTHER = "Name another file with --output, or move this one away."


def _not_ours(path: Path) -> tuple[str]:
    return (f"`{path}` must be new, or of a grid; it was not written by one",)


def _line(path: Path, number: int, line: bytes) -> dict[str, Any]:
    held: dict[str, Any] = {}
    with suppress(ValueError, RecursionError):
        told: Any = json.loads(line)
        held = cast("dict[str, Any]", told) if isinstance(told, dict) else held
    is_table = isinstance(held.get("cell"), dict)
    ours = is_table and set(held) == {"key", "cell", "result"}
    require(
        ours and held["key"] == _key(held["cell"]), *_not_ours(path), got=f"{line[:60]!r} in line {number}",
        fix=_ANOTHER,
    )  # fmt: skip
    return held


def _append(path: Path, line: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        file.write(json.dumps(line).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def _one(index: int, function: CellFunction, cell: Cell) -> tuple[int, Any, str | None]:
    try:
        return index, function(cell), None
    except Exception as error:  # a cell's failure is an outcome of its own
        return index, None, f"{type(error).__name__}: {error}"


Finished = Iterator[tuple[int, Any, str | None]]


def _on_cores(left: list[tuple[int, Cell]], function: CellFunction, workers: int) -> Finished:
    if workers == 1 or len(left) <= 1:
        yield from (_one(i, function, cell) for i, cell in left)
        return
    import joblib  # pyright: ignore[reportMissingTypeStubs]

    parallel: Any = joblib.Parallel(n_jobs=workers, return_as="generator_unordered")
    yield from parallel(joblib.delayed(_one)(i, function, cell) for i, cell in left)  # pyright: ignore


def _connected(client: Any, scheduler: str) -> Any:
    """A client of the scheduler.

    Raises
    ------
    InvalidInputError
        If nobody answers there.
    """
    try:
        return client(scheduler, timeout=CONNECT_S)
    except (OSError, ValueError, TypeError, RuntimeError) as error:  # what Dask says of an address that is none
        require(
            False,
            "`scheduler` must be the address of a Dask scheduler that answers",
            got=f"{scheduler!r}: {str(error).splitlines()[0][:200] if str(error) else type(error).__name__}",
            fix="Start one with `dask scheduler`, and pass the tcp:// address that it prints.",
        )
        raise


def _on_dask(left: list[tuple[int, Cell]], function: CellFunction, scheduler: str) -> Finished:
    from dask.distributed import Client, as_completed  # pyright: ignore

    def one(task: tuple[int, Cell]) -> tuple[int, Any, str | None]:
        return _one(task[0], function, task[1])

    with _connected(Client, scheduler) as client:
        pool: Any = client
        sent = pool.map(one, left, pure=False, retries=3)
        for future, outcome in as_completed(sent, with_results=True, raise_errors=False):  # pyright: ignore
            if future.status == "finished":  # pyright: ignore
                yield outcome
            else:
                place = sent.index(future)
                yield left[place][0], None, f"the cluster gave the cell up: {future.exception()}"  # pyright: ignore
