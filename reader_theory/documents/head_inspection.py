"""HeadInspection: how a draft head behaves step by step as it feeds on its own states, its prompts disturbed or not."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from reader_theory.documents.base import Document, Frozen

__all__ = ["HeadInspection", "HeadVariant"]


class HeadVariant(Frozen):
    """One way of giving the prompts; lists are by draft step."""

    name: str
    positions: int = Field(ge=0, description="places that a chain was drafted from")
    acceptance: tuple[float, ...] = Field(description="chance that a draft is right, given that those before it were")
    rms: tuple[float, ...] = Field(description="root mean square of the state handed on")
    sink: tuple[float, ...] = Field(description="mean attention on the first entry of the text")
    recent: tuple[float, ...] = Field(description="mean attention on the last eight entries, its own among them")
    tokens_per_step: float = Field(description="of a chain of four, steps beginning where the one before ended")


class HeadInspection(Document):
    """What `reader inspect-head` writes and a report draws."""

    made_by: ClassVar[str] = "reader inspect-head"
    kind: Literal["head_inspection"] = "head_inspection"
    schema_version: int = 1
    target: str
    head: str
    variants: tuple[HeadVariant, ...] = Field(min_length=1, description="the first gives the prompts as they are")

    @property
    def drift(self) -> float:
        """The last step's root mean square over the first's, prompts as they are."""
        rms = self.variants[0].rms
        return rms[-1] / rms[0]

    @property
    def worst_over_best(self) -> float:
        """Tokens a step of the worst way of giving the prompts over the best."""
        told = [each.tokens_per_step for each in self.variants]
        return min(told) / max(told)
