"""speculators' ``acceptance.csv``: a row a subset, with acceptance by position."""

from __future__ import annotations

from collections.abc import Sequence

from reader_theory.errors import InvalidInputError
from runtime.importers.acceptance.base import ACCEPTANCE_FORMATS, AcceptanceFormat, MeanWindow, Window
from runtime.importers.rows import csv_rows

__all__ = ["SpeculatorsCsv"]

_POSITION = "acceptance_at_pos_"


@ACCEPTANCE_FORMATS.register
class SpeculatorsCsv(AcceptanceFormat):
    """``subset, num_drafts, num_draft_tokens, ..., acceptance_at_pos_0, ...``; a subset is a workload of its own."""

    name = "speculators"
    engine = "speculators"
    looks = "a table with `num_drafts` and `acceptance_at_pos_0`"

    def matches(self, text: str) -> bool:
        """Whether its head names these columns."""
        head = text.split("\n", 1)[0]
        return "num_drafts" in head and f"{_POSITION}0" in head and not head.lstrip().startswith(("{", "["))

    def read(self, texts: Sequence[tuple[str, str]]) -> tuple[list[Window | MeanWindow], tuple[str, ...]]:
        """A window a row."""
        found: list[Window | MeanWindow] = []
        for name, text in texts:
            found += [_window(row.where, row.value) for row in csv_rows(name, text)]
        return found, ()


def _window(where: str, row: dict[str, str]) -> Window:
    try:
        drafts = float(row["num_drafts"])
        rates: list[float] = []
        while (rate := row.get(f"{_POSITION}{len(rates)}")) is not None:
            rates.append(float(rate))
        drafted = float(row.get("num_draft_tokens", "nan"))
    except (ValueError, KeyError) as error:
        raise InvalidInputError(
            "each subset must have numbers of drafts and acceptance", got=f"{where}: {error}", fix="Pass it whole."
        ) from None
    labels = {"subset": row["subset"]} if "subset" in row else {}
    told = drafted if drafted > 0 else None
    return Window.of_survivors(labels, drafts, [rate * drafts for rate in rates], told)
