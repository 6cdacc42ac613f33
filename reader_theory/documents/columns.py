"""What the numbers of a column may be: checked when a document is made and read, before a kernel trusts them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reader_theory.errors import DocumentError, require

__all__ = ["Within", "check_prompts", "check_values"]

_INT32 = 2**31 - 1
_ROUNDING = 1e-3
"""By how much a probability of float32, or a sum of many, may pass one."""


@dataclass(frozen=True, slots=True)
class Within:
    """Least and greatest value of a column.

    Attributes
    ----------
    low, high : float
    whole : bool
        Whether the column holds integers.
    dims : int
        1, or 2 for a row of numbers a position.
    nan : bool
        Whether a number may be missing.
    """

    low: float = 0
    high: float = _INT32
    whole: bool = True
    dims: int = 1
    nan: bool = False

    @classmethod
    def probability(cls, dims: int = 1, *, nan: bool = False) -> Within:
        """Floats in [0, 1], up to rounding."""
        return cls(-_ROUNDING, 1 + _ROUNDING, whole=False, dims=dims, nan=nan)

    @classmethod
    def seconds(cls) -> Within:
        """Finite floats >= 0."""
        return cls(0, float(np.finfo(np.float64).max), whole=False)

    def broken(self, column: NDArray[Any]) -> str | None:
        """The first thing about `column` that breaks this; None where nothing does."""
        if column.ndim != self.dims or column.dtype.kind not in ("iu" if self.whole else "f"):
            return f"shape {column.shape} of {column.dtype}"
        inside = (column >= self.low) & (column <= self.high)
        if self.nan:
            inside |= np.isnan(column)
        if inside.all():
            return None
        row = int(np.flatnonzero(~inside.reshape(len(column), -1).all(axis=1))[0])
        return f"{np.asarray(column[row]).tolist()} in row {row}"


def check_values(columns: Mapping[str, NDArray[Any]], bounds: Mapping[str, Within], what: str) -> None:
    """Raise `DocumentError` where a column of `what` holds a value that it may not."""
    for name, bound in bounds.items():
        bad = bound.broken(columns[name])
        require(
            bad is None,
            f"column `{name}` of {what} must hold {'whole numbers' if bound.whole else 'numbers'} "
            f"in [{bound.low:g}, {bound.high:g}], {bound.dims}-dimensional",
            got=bad,
            fix="The file was damaged or edited: make the document again.",
            error=DocumentError,
        )


def check_prompts(prompt: NDArray[Any], position: NDArray[Any], prompts: int, what: str) -> None:
    """Raise `DocumentError` unless rows lie by prompt, of `prompts`, each from position 0 on without a gap."""
    starts = np.diff(prompt, prepend=-1) != 0
    sound = bool((np.diff(prompt) >= 0).all()) and int(prompt[-1]) < prompts
    first = np.maximum.accumulate(np.where(starts, np.arange(len(prompt)), 0))
    wrong = np.flatnonzero(position != np.arange(len(prompt)) - first)
    require(
        sound and not len(wrong),
        f"rows of {what} must lie by prompt, of which there are {prompts}, each from position 0 on without a gap",
        got=f"row {int(wrong[0])} at position {int(position[wrong[0]])}"
        if len(wrong)
        else f"prompts up to {int(prompt.max())}, {'in order' if (np.diff(prompt) >= 0).all() else 'out of order'}",
        fix="The file was damaged or edited: record it again.",
        error=DocumentError,
    )
