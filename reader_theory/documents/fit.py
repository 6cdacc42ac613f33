"""AcceptanceFit: what a trace says about acceptance, workload by workload, with intervals from resampling prompts."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import Field, model_validator

from reader_theory.documents.base import Document, Frozen
from reader_theory.documents.policy import DRAFT
from reader_theory.documents.trace import TraceDrafter
from reader_theory.errors import require
from reader_theory.estimate import Estimate

if TYPE_CHECKING:
    from reader_theory.acceptance.matched import Matched
    from reader_theory.acceptance.rank_table import RankTable

__all__ = ["AcceptanceFit", "CalibrationFit", "DrafterFit", "MatchedFit", "RankTableFit", "WorkloadFit"]

ROUNDING = 1e-6
ENOUGH = 4
"""Documents from which intervals tell what they claim: with fewer, nearly everything is possible."""
Table = tuple[tuple[float, ...], ...]


class RankTableFit(Frozen):
    """Conditional acceptance by depth (rows) and rank (columns)."""

    value: Table
    low: Table
    high: Table
    positions: tuple[int, ...] = Field(description="steps that each depth was counted on")

    @model_validator(mode="after")
    def _rectangular(self) -> Self:
        """Tables of one shape, of probabilities whose rows sum to 1 at most where they are estimates."""
        shapes = {tuple(map(len, table)) for table in (self.value, self.low, self.high)}
        widths = {len(row) for row in self.value}
        if len(shapes) != 1 or len(widths) != 1 or min(widths) < 1 or len(self.positions) != len(self.value):
            raise ValueError(f"value, low, high and positions must be of one (depths, ranks) shape, got {shapes}")
        if not all(0 <= p <= 1 for table in (self.value, self.low, self.high) for row in table for p in row):
            raise ValueError("acceptance must lie in [0, 1]")
        if not all(sum(row) <= 1 + ROUNDING for row in self.value):
            raise ValueError("acceptance of the ranks of a depth must sum to 1 at most")
        return self

    def table(self, end: Literal["value", "low", "high"] = "value") -> RankTable:
        """The estimate, or an end of its intervals, as a table whose rows sum to at most 1."""
        from reader_theory.acceptance.rank_table import RankTable

        return RankTable.normalised(getattr(self, end))


class MatchedFit(Frozen):
    """Retrieval's chance by match length and count, with what the matches of the trace were."""

    lengths: tuple[int, ...] = Field(description="smallest match length of each bin, from 1")
    counts: tuple[int, ...] = Field(description="smallest match count of each bin, from 1")
    hit: tuple[tuple[Estimate, ...], ...] = Field(description="first retrieved token is right, by length and count")
    decay: tuple[Estimate, ...] = Field(description="next retrieved token is right, given the one before, by length")
    weight: Table = Field(description="share of positions by length and count; the rest has no match")

    @model_validator(mode="after")
    def _binned(self) -> Self:
        """One row a length, one column a count, of probabilities."""
        shape = (len(self.lengths), len(self.counts))
        rows = {len(self.hit), len(self.weight), len(self.decay)}
        columns = {len(row) for table in (self.hit, self.weight) for row in table}
        if not min(shape) or rows != {shape[0]} or columns != {shape[1]}:
            raise ValueError(f"hit and weight must have the shape {shape} of lengths and counts, decay its rows")
        if any(list(axis) != sorted(set(axis)) or axis[0] < 1 for axis in (self.lengths, self.counts)):
            raise ValueError("lengths and counts must rise from 1")
        chances = [*(e.value for row in self.hit for e in row), *(e.value for e in self.decay)]
        if not all(0 <= p <= 1 + ROUNDING for p in (*chances, *(w for row in self.weight for w in row))):
            raise ValueError("hit, decay and weight must lie in [0, 1]")
        return self

    @property
    def model(self) -> Matched:
        """The point estimate as a model."""
        from reader_theory.acceptance.matched import Matched

        hit = [[cell.value for cell in row] for row in self.hit]
        return Matched(self.lengths, self.counts, hit, [cell.value for cell in self.decay], self.weight)  # pyright: ignore[reportArgumentType]


class CalibrationFit(Frozen):
    """Monotone map from one source's raw score to acceptance, and its reliability diagram by bin of score."""

    score: tuple[float, ...] = Field(description="mean raw score of each bin, ascending")
    observed: tuple[float, ...] = Field(description="share of right tokens in each bin")
    acceptance: tuple[float, ...] = Field(description="the same, made monotone: the map's value at `score`")
    weight: tuple[float, ...] = Field(description="share of offered tokens in each bin")
    raw_error: float | None = Field(
        description="expected calibration error of the raw score, where it is a probability"
    )
    error: float = Field(description="expected calibration error of the map on prompts that it was not fitted on")

    @model_validator(mode="after")
    def _binned(self) -> Self:
        """One value a bin."""
        if len({len(self.score), len(self.observed), len(self.acceptance), len(self.weight)}) != 1:
            raise ValueError("score, observed, acceptance and weight must have one value a bin")
        return self


class DrafterFit(Frozen):
    """Everything fitted on one drafter and workload; what its kind does not have is None."""

    geometric: Estimate | None = Field(default=None, description="rank 0 is right")
    overlap: Estimate | None = Field(
        default=None, description="sum of min(target law, its law): acceptance of chain rejection"
    )
    rank_depth: RankTableFit | None = Field(default=None, description="of a model's ranks")
    matched: MatchedFit | None = Field(default=None, description="of matches, for look-ups")
    tokens_per_step: dict[str, Estimate] = Field(description="by replay: 'chain k' of its first candidates")
    calibration: CalibrationFit = Field(description="of its raw score: a probability, or a match length")


class WorkloadFit(Frozen):
    """Everything fitted on one workload."""

    workload: str
    prompts: int
    positions: int
    sources: int = Field(
        default=0, ge=0, description="documents or users that the prompts name; 0 where each is taken as its own"
    )
    drafters: dict[str, DrafterFit] = Field(description="by name; one that offered nothing has none")
    entropy_nats: Estimate | None = Field(
        description="mean surprise of the target at its own tokens; None when it decoded greedily"
    )

    @property
    def warning(self) -> str:
        """What its intervals rest on, where that is too little to tell; empty where it is enough."""
        units, called = (self.sources, "documents") if self.sources else (self.prompts, "prompts")
        told = ""
        if units < ENOUGH:
            told = f"{self.workload}: {units} {called} are too few to tell, {ENOUGH - units} more are needed"
        if not self.sources:
            own = f"{self.workload}: no source is given, so that each prompt is taken as a document of its own"
            told = "; ".join(filter(None, [told, f"{own}; name `source` in the prompts if several come from one"]))
        return told

    def ranks(self, drafter: str = DRAFT) -> RankTableFit | None:
        """The table of a drafter that is a model; None where there is none."""
        return self.drafters[drafter].rank_depth if drafter in self.drafters else None


class AcceptanceFit(Document):
    """The document that `fit` writes and `plan` reads."""

    newest: ClassVar[int] = 2
    oldest: ClassVar[int] = 2
    made_by: ClassVar[str] = "reader fit"
    kind: Literal["acceptance_fit"] = "acceptance_fit"
    schema_version: int = 2
    target: str
    drafters: dict[str, TraceDrafter] = Field(description="those of the trace")
    trace: str = Field(description="fingerprint of the Trace")
    trace_file: str = Field(description="name of the trace's array file")
    temperature: float = Field(ge=0)
    level: float = Field(gt=0, lt=1)
    resamples: int = Field(ge=1)
    workloads: tuple[WorkloadFit, ...]

    def workload(self, name: str) -> WorkloadFit:
        """The fit of one workload.

        Raises
        ------
        InvalidInputError
            If the trace recorded no such workload.
        """
        found = {fit.workload: fit for fit in self.workloads}
        require(
            name in found,
            "`workload` must be one that was fitted",
            got=f"{name!r}; the fit has {sorted(found)}",
            fix="Choose one of these, or record a trace of this workload.",
        )
        return found[name]
