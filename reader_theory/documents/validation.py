"""Validation: each predicted term beside the measured one."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from reader_theory.documents.base import Document, Frozen
from reader_theory.documents.policy import Policy
from reader_theory.estimate import Estimate

__all__ = ["Comparison", "Validation"]


class Comparison(Frozen):
    """One quantity in one workload x batch cell."""

    workload: str
    batch: int
    policy: Policy
    quantity: str
    predicted: Estimate
    measured: float
    measured_low: float | None = Field(default=None, description="of its 95 % interval, where its spread is known")
    measured_high: float | None = None
    pace: float = Field(
        default=1.0, gt=0, description="times that the fixed step took longer in this cell than at calibration"
    )

    @property
    def at_pace(self) -> float:
        """What would have been measured at the pace that the prediction is stated at."""
        return self.measured * self.pace ** _POWERS.get(self.quantity, 0)

    @property
    def relative_error(self) -> float:
        """(measured - predicted) / measured, the pace divided out."""
        return (self.at_pace - self.predicted.value) / self.at_pace if self.measured else float("nan")

    @property
    def inside(self) -> bool:
        """Whether the measured value, the pace divided out, lies in the stated interval."""
        return self.predicted.covers(self.at_pace)


_POWERS = {"tokens_per_s": 1, "step_s": -1}
"""How a quantity goes with the pace; others do not."""


class Validation(Document):
    """The document that `validate` writes; `report` draws it."""

    newest: ClassVar[int] = 3
    oldest: ClassVar[int] = 2
    made_by: ClassVar[str] = "reader validate"
    kind: Literal["validation"] = "validation"
    schema_version: int = 3
    plan: str
    record: str
    comparisons: tuple[Comparison, ...]
    notes: tuple[str, ...] = ()

    def of(self, quantity: str) -> tuple[Comparison, ...]:
        """Comparisons of one quantity, in order."""
        return tuple(c for c in self.comparisons if c.quantity == quantity)

    def coverage(self, quantity: str) -> float:
        """Share of cells whose measured value lies in its interval."""
        rows = self.of(quantity)
        return sum(row.inside for row in rows) / len(rows) if rows else float("nan")
