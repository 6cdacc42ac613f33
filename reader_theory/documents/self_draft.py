"""SelfDraft: which layers of a target draft for it, and what each choice of layers is predicted to give."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from reader_theory.documents.base import Document, Frozen
from reader_theory.errors import DocumentError, require
from reader_theory.estimate import Estimate

__all__ = ["LayerChoice", "SelfDraft"]


class LayerChoice(Frozen):
    """A set of layers, and what a chain that they draft gives on prompts that no search has seen."""

    name: str = Field(description="how the layers were chosen, and how many are left out")
    kept: tuple[int, ...]
    drafts: int = Field(description="tokens of the best chain")
    tokens_per_step: Estimate
    speed_up: Estimate = Field(description="tokens a second over plain decoding, predicted from forwards' seconds")


class SelfDraft(Document):
    """A draft made of some of the target's own layers, with the target's weights.

    The first of `choices` is the draft; the others stand beside it.
    """

    made_by: ClassVar[str] = "reader evolve"
    kind: Literal["self_draft"] = "self_draft"
    schema_version: int = 1
    target: str
    layers: int = Field(gt=0, description="of the target")
    vocabulary: int = Field(gt=0)
    kept: tuple[int, ...] = Field(min_length=1, description="layers that draft, rising")
    tokens_scored: int = Field(ge=0, description="by the searches, in all")
    choices: tuple[LayerChoice, ...] = ()

    @model_validator(mode="after")
    def _rising(self) -> Self:
        require(
            all(a < b for a, b in zip((-1, *self.kept), (*self.kept, self.layers), strict=True)),
            "`kept` must name layers of the target, each once and rising",
            got=f"{self.kept} of {self.layers}",
            fix="Make the document again with `reader evolve self-draft`.",
            error=DocumentError,
        )
        return self
