"""Columns of a table, whatever the table is: a data frame, a dict of arrays, or a structured array."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from reader_theory.errors import InvalidInputError, require

__all__ = ["Table", "by_names", "column", "has_columns", "numbers", "positive"]


class Table(Protocol):
    """Anything that gives a column by its name: a pandas data frame, a dict of sequences, a structured array."""

    def __getitem__(self, name: str, /) -> Any: ...


def has_columns(table: Table, *names: str) -> bool:
    """Whether the table has all of these columns."""
    try:
        return all(len(column(table, name)) > 0 for name in names)
    except InvalidInputError:
        return False


def column(table: Table, name: str) -> NDArray[Any]:
    """The column `name` as a one-dimensional array; InvalidInputError if the table lacks it."""
    try:
        return np.atleast_1d(np.asarray(table[name]))
    except (KeyError, ValueError, IndexError):
        raise InvalidInputError(
            f"the table must have a column `{name}`",
            got=f"a table without it ({type(table).__name__})",
            fix="Name the columns as the function's docstring lists them.",
        ) from None


def numbers(table: Table, name: str) -> NDArray[np.float64]:
    """The column `name` as finite float64; InvalidInputError names the first row that is not."""
    raw = column(table, name)
    try:
        values = raw.astype(np.float64)
    except (TypeError, ValueError):
        raise InvalidInputError(
            f"column `{name}` must hold numbers", got=raw[:3], fix="Parse the column first."
        ) from None
    bad = np.flatnonzero(~np.isfinite(values))
    require(
        bad.size == 0,
        f"column `{name}` must be finite",
        got=f"{values[bad[:1]]} at row {bad[:1]}",
        fix="Drop the rows without a measurement.",
    )
    return values


def positive(table: Table, name: str) -> NDArray[np.float64]:
    """The column `name` as finite, positive float64."""
    values = numbers(table, name)
    bad = np.flatnonzero(values <= 0)
    require(
        bad.size == 0,
        f"column `{name}` must be positive",
        got=f"{values[bad[:1]]} at row {bad[:1]}",
        fix="Drop the row: a size or a time of zero carries no information.",
    )
    return values


def by_names(table: Table, *names: str, least: int = 1) -> list[tuple[tuple[str, ...], NDArray[np.bool_]]]:
    """Each combination of the named columns' texts in order, with the mask of its rows, `least` of them or more."""
    rows = list(zip(*(column(table, name).astype(str).tolist() for name in names), strict=True))
    found = [(each, np.array([row == each for row in rows])) for each in sorted(set(rows))]
    few = next(((each, int(at.sum())) for each, at in found if at.sum() < least), None)
    rule = f"each {' and '.join(names)} must have at least {least} rows"
    require(few is None, rule, got=few, fix="Measure more shapes.")
    return found
