"""JoinedPolicy: a neural draft and retrieval in one tree, by one scale of probability and one price."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, PrivateAttr, model_validator

from reader_theory.documents.arrays import ArrayFile, Columns
from reader_theory.documents.base import Frozen
from reader_theory.documents.columns import Within, check_values
from reader_theory.errors import DocumentError, require

__all__ = ["JOINED_COLUMNS", "OFFERS", "JoinedPolicy", "JoinedRecord", "SourceMap"]

OFFERS = ("retrieval unasked", "retrieval", "draft", "both")
"""Who offered a token: retrieval where the draft was not asked, or was and did not; the draft; both."""


class SourceMap(Frozen):
    """Monotone map from the raw score of tokens offered so to acceptance; linear between its points."""

    offer: Literal["retrieval unasked", "retrieval", "draft", "both"]
    score: tuple[float, ...] = Field(min_length=1, description="ascending, in [0, 1]")
    acceptance: tuple[float, ...] = Field(min_length=1, description="at each score: ascending, in [0, 1]")

    @model_validator(mode="after")
    def _monotone(self) -> Self:
        rises = all(
            list(values) == sorted(values) and values[0] >= 0 and values[-1] <= 1
            for values in (self.score, self.acceptance)
        )
        require(
            rises and len(self.score) == len(self.acceptance),
            "a map must have as many scores as acceptances, both ascending in [0, 1]",
            got=f"{len(self.score)} scores, {len(self.acceptance)} acceptances",
            fix="Take the maps of `fit_offers`.",
        )
        return self


class JoinedPolicy(Frozen):
    """One tree from retrieval and a neural draft, taken in order of calibrated path probability.

    Retrieval is queried at the root, at the draft's nodes and at its own; the draft at the root and, level by level,
    at the likeliest nodes, whoever offered them. The policy's static tree, where it has one, says instead at which
    ranks the draft is asked.
    """

    nodes: int = Field(ge=1, le=512, description="most nodes a row")
    price: float = Field(default=0.0, ge=0, le=1, description="path probability that a node must pass")
    retrieval: bool = Field(default=True, description="whether retrieval is queried")
    draft: bool = Field(default=True, description="whether the neural draft is asked")
    levels: int = Field(default=0, ge=0, description="most draft forwards after the one that takes in emitted tokens")
    width: int = Field(default=8, ge=1, description="most nodes a row in a draft forward")
    draft_price: float = Field(default=0.0, ge=0, le=1, description="path probability below which no node is drafted")
    candidates: int = Field(default=8, ge=1, le=64, description="tokens of the draft's law that are offered")
    skip_draft_at: float | None = Field(
        default=None, description="the draft rests in a step where retrieval alone is this sure of every row's token"
    )
    trust: float = Field(default=0.5, gt=0, description="weight of retrieval's evidence where the draft was asked")
    maps: tuple[SourceMap, ...] = Field(default=(), description="a source without one is taken at its word")

    @model_validator(mode="after")
    def _some_source(self) -> Self:
        require(
            self.retrieval or self.draft,
            "a joined policy must have a source: `retrieval`, `draft`, or both",
            got="neither",
            fix="To draft nothing, take `DraftPolicy()`.",
        )
        return self

    @property
    def name(self) -> str:
        """Short name, such as ``"joined 32 (price 0.02, draft 4x8)"`` or ``"retrieved tree 16 (price 0)"``."""
        told = [f"price {self.price:g}"]
        if self.draft:
            told.append(f"draft {self.levels}x{self.width}" + (f" from {self.draft_price:g}" * (self.draft_price > 0)))
        if self.draft and self.retrieval and self.skip_draft_at is not None:
            told.append(f"rests at {self.skip_draft_at:g}")
        head = "joined" if self.draft and self.retrieval else "grown tree" if self.draft else "retrieved tree"
        return f"{head} {self.nodes} ({', '.join(told)})"


JOINED_COLUMNS: dict[str, str] = {
    "policy": "(S,) int32: index into `JoinedRecord.policies`",
    "prompt": "(S,) int32: index into `Trace.prompts`",
    "position": "(S,) int32: place of the first token that the step emits in its prompt's output",
    "emitted": "(S,) int32: tokens that the step emits: those accepted, and one more; clipped at the end",
    "nodes": "(S,) int32: draft nodes verified, the root not counted",
    "forwards": "(S, F) int32: tokens that the row has in each forward of the draft, those emitted since it last ran "
    "in the first; 0 where it has none",
}
"""Columns of a joined record, one row a step; a policy's steps on a prompt lie together, in order."""


class JoinedRecord(Frozen):
    """What joined policies did on the outputs of a trace, step by step.

    A tree that is grown anew at every step cannot be replayed from ranks on the true path, so each policy was run on
    it. Maps lie by workload; each step was taken with maps that were fitted on prompts of other sources.
    """

    policies: tuple[JoinedPolicy, ...] = Field(description="without maps")
    maps: dict[str, tuple[SourceMap, ...]] = Field(description="by workload, fitted on all of its prompts")
    arrays: ArrayFile

    _columns: Columns | None = PrivateAttr(default=None)

    @classmethod
    def create(
        cls,
        columns: Columns,
        policies: tuple[JoinedPolicy, ...],
        maps: dict[str, tuple[SourceMap, ...]],
        path: Path | None = None,
    ) -> JoinedRecord:
        """Check `columns`, and write them to `path`; keep them in memory without one."""
        _check(columns, len(policies))
        kept = ArrayFile(name="", sha256="", rows=len(columns["policy"]))
        record = cls(policies=policies, maps=maps, arrays=ArrayFile.write(path, columns) if path else kept)
        record._columns = columns
        return record

    def load(self, folder: Path) -> None:
        """Read the columns that lie in `folder`."""
        self._columns = self.arrays.read(folder)
        _check(self._columns, len(self.policies))

    @property
    def columns(self) -> Columns:
        """The arrays, by the names and shapes of `JOINED_COLUMNS`."""
        assert self._columns is not None, "a joined record is made by create, or read with its trace"
        return self._columns


def _check(columns: Columns, policies: int) -> None:
    lengths = {name: len(column) for name, column in columns.items()}
    require(
        columns.keys() == JOINED_COLUMNS.keys() and len(set(lengths.values())) == 1,
        "a joined record must have exactly the columns of `JOINED_COLUMNS`, of one length",
        got=str(lengths),
        fix="Record the trace again with this version.",
        error=DocumentError,
    )
    bounds = {name: Within(dims=2 if name == "forwards" else 1) for name in JOINED_COLUMNS}
    check_values(columns, bounds | {"policy": Within(high=policies - 1)}, "a joined record")
