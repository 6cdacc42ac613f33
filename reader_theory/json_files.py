"""Reading JSON that anyone may have written: too deep, too long a number, not UTF-8, no file, as one kind of error."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from reader_theory.errors import DocumentError, InvalidInputError, require

__all__ = ["load_object"]


def load_object(path: Path, what: str, *, error: type[InvalidInputError] = DocumentError) -> dict[str, Any]:
    """The JSON object in a file.

    Parameters
    ----------
    path : Path
    what : str
        What the file should be, for the error's rule.
    error : type
        Kind of error.

    Raises
    ------
    InvalidInputError
        If nothing can be read there, or what can is not one JSON object that Python can hold.
    """
    require(
        _is_file(path),
        f"{what} must exist",
        got=f"`{_short(path)}`, which is not a file",
        fix="Check the path, or make the document with the stage before this one.",
        error=error,
    )
    try:
        text = path.read_text(encoding="utf-8")
        raw: Any = json.loads(text, parse_int=_whole, parse_float=_finite, parse_constant=_finite)
    except OSError as failed:
        got, fix = str(failed), "Check who may read it."
    except RecursionError:
        got, fix = "values nested too deeply", "Pass a file that `reader`, or the tool it is of, wrote."
    except ValueError as failed:  # no JSON, no UTF-8, or a number that is none
        got, fix = str(failed).split(";")[0][:200], "It is truncated or damaged: make it again."
    else:
        require(
            isinstance(raw, dict),
            f"`{path}` must hold one JSON object",
            got=type(raw).__name__,
            fix="Pass a file that `reader`, or the tool it is of, wrote.",
            error=error,
        )
        return raw
    raise error(f"`{path}` must be a whole JSON document", got=got, fix=fix)


def _whole(text: str) -> int:
    """A whole number of 64 bits."""
    if len(text) > 19 or abs(int(text)) > 2**62:
        raise ValueError(f"whole numbers must be below 2^62 in size, not {text[:24]}")
    return int(text)


def _finite(text: str) -> float:
    """A number that is neither infinite nor NaN."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"numbers must be finite, not {text[:24]}")
    return value


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name too long, or with a null
        return False


def _short(path: Path) -> str:
    text = str(path)
    return text if len(text) <= 120 else f"{text[:100]}... ({len(text)} characters)"
