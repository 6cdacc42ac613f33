"""Validation: each predicted term beside the measured one."""

from __future__ import annotations

from typing import ClassVar, Literal

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

    @property
    def relative_error(self) -> float:
        """(measured - predicted) / measured."""
        return (self.measured - self.predicted.value) / self.measured if self.measured else float("nan")

    @property
    def inside(self) -> bool:
        """Whether the measured value lies in the stated interval."""
        return self.predicted.covers(self.measured)


class Validation(Document):
    """The document that `validate` writes; `report` draws it."""

    newest: ClassVar[int] = 2
    oldest: ClassVar[int] = 2
    made_by: ClassVar[str] = "reader validate"
    kind: Literal["validation"] = "validation"
    schema_version: int = 2
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
