"""DiffusionRun: texts that a masked-diffusion model filled in, the window's prediction, rounds and forwards apart."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from reader_theory.documents.base import Document, Frozen
from reader_theory.errors import DocumentError, require
from reader_theory.estimate import Estimate

__all__ = ["DiffusedText", "DiffusionRun", "WindowCandidate"]

Count = Annotated[int, Field(ge=0)]
Counts = tuple[Count, ...]
Chance = Annotated[float, Field(ge=0, allow_inf_nan=False)]
SLACK = 1e-6


class WindowCandidate(Frozen):
    """What a window is predicted to take for one text."""

    window: int = Field(ge=1)
    rounds: Estimate = Field(description="batches of forwards, one after the other")
    forwards: Estimate = Field(description="rows of those batches")
    cost: Estimate = Field(description="in the unit of the run's `cost_unit`")
    speed_up: Estimate = Field(description="in that unit, over one token at a time")


class DiffusedText(Frozen):
    """One text and what it took, by denoising step."""

    prompt: str
    workload: str
    source: str = ""
    tokens: Counts
    text: str | None = Field(default=None, description="of the tokens, where a tokenizer was at hand")
    drawn: Counts = Field(description="tokens drawn: rounds, and forwards, of one token at a time")
    rounds: Counts
    forwards: Counts
    examined: tuple[Counts, ...] = Field(description="looks at each place of a window, by step")
    overlap: tuple[tuple[Chance, ...], ...] = Field(description="sums of 1 - TV(p, q) there")

    @model_validator(mode="after")
    def _alike(self) -> Self:
        steps = {len(self.drawn), len(self.rounds), len(self.forwards), len(self.examined), len(self.overlap)}
        places = {len(row) for row in (*self.examined, *self.overlap)}
        more = any(
            kept > looks * (1 + SLACK)
            for both in zip(self.examined, self.overlap, strict=False)
            for looks, kept in zip(*both, strict=False)
        )
        require(
            len(steps) == 1 and len(places) == 1 and not more,
            "a text's counts must have an entry a denoising step and one a place, and no place more overlap than looks",
            got=f"{sorted(steps)} steps, {sorted(places)} places",
            fix="Make the document again with `reader diffuse`.",
            error=DocumentError,
        )
        return self


class DiffusionRun(Document):
    """Texts filled in by denoising steps."""

    made_by: ClassVar[str] = "reader diffuse"
    kind: Literal["diffusion_run"] = "diffusion_run"
    schema_version: int = 1
    target: str
    dtype: str
    new_tokens: int = Field(ge=1)
    steps: int = Field(ge=1, description="denoising steps")
    window: int = Field(ge=1)
    drafts: Literal["round", "step", "head"]
    sampling: Literal["chain", "parallel_lossy"]
    lossless: bool = Field(description="whether each denoising step has exactly the law of its chain")
    temperature: float = Field(ge=0)
    top_k: int = Field(ge=0)
    top_p: float = Field(gt=0, le=1)
    cost_unit: Literal["rounds", "seconds"] = "rounds"
    candidates: tuple[WindowCandidate, ...] = Field(
        default=(), description="windows that were weighed; the first is the run's own"
    )
    rounds: Estimate = Field(description="measured, a text; not to be compared with seconds")
    forwards: Estimate
    drawn: Estimate = Field(description="rounds, and forwards, of one token at a time")
    texts: tuple[DiffusedText, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _counted_alike(self) -> Self:
        shapes = {(len(text.examined), *map(len, text.examined)) for text in self.texts}
        require(
            shapes == {(self.steps, *(self.window,) * self.steps)} and self.lossless == (self.sampling == "chain"),
            "each text must be counted by the run's denoising steps and places, and its sampling say what is lossless",
            got=f"{self.steps} steps, {self.window} places, {self.sampling}, lossless {self.lossless}",
            fix="Make the document again with `reader diffuse`.",
            error=DocumentError,
        )
        return self

    def asked(self) -> dict[str, object]:
        """What acceptance depends on: a plan from these counts holds for runs that ask the same."""
        names = ("target", "dtype", "new_tokens", "steps", "drafts", "temperature", "top_k", "top_p")
        return {name: getattr(self, name) for name in names}
