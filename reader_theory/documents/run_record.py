"""RunRecord: what a run on the real model did, step by step."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, PrivateAttr

from reader_theory.documents.arrays import ArrayFile, Columns
from reader_theory.documents.base import Document, Frozen
from reader_theory.documents.columns import Within, check_values
from reader_theory.documents.policy import Policy
from reader_theory.errors import DocumentError, require
from reader_theory.estimate import Estimate

__all__ = ["RUN_COLUMNS", "RequestRecord", "RunCell", "RunRecord"]

RUN_COLUMNS: dict[str, str] = {
    "cell": "(S,) int32: index into `RunRecord.cells`",
    "rows": "(S,) int32: requests in the step",
    "emitted": "(S,) int32: tokens that the step emitted, over its rows",
    "nodes": "(S,) int32: draft nodes verified, over its rows, padding left out",
    "width": "(S,) float64: tokens a row that the target's forward computed, its root among them: the widest row's, "
    "or in the mean where padding is not computed",
    "drafted": "(S,) int32: 1 where the neural draft ran",
    "step_s": "(S,) float64: wall-clock seconds of the step",
    "draft_s": "(S,) float64: of them, in the neural draft",
    "retrieval_s": "(S,) float64: of them, in retrieval",
    "target_s": "(S,) float64: of them, in the target's forward",
    "verify_s": "(S,) float64: of them, in verification",
    "commit_s": "(S,) float64: of them, in moving cache entries",
}
"""Columns of a run, one row a decoding step. Prefill is not a step: `RunCell.prefill_s` has it."""


class RequestRecord(Frozen):
    """One request of a run."""

    id: str
    cell: int
    prompt_tokens: int
    output_tokens: int
    steps: int
    accepted: int = Field(description="draft tokens emitted")
    finish: str = Field(description='"length", "stop" or "error: ..."')


class RunCell(Frozen):
    """One (workload, batch, policy) that was run, with its totals."""

    workload: str
    batch: int
    context_tokens: float = Field(default=0.0, ge=0, description="mean tokens a row half-way through the outputs")
    policy: Policy
    repeats: int = 1
    prompts: int
    output_tokens: int
    steps: int
    row_steps: int = Field(description="sum over steps of the rows in it")
    decode_s: float = Field(description="wall-clock seconds of the decoding steps; the median over repeats")
    decode_s_spread: tuple[float, float] = Field(description="least and greatest over repeats")
    prefill_s: float
    plain_decode_s: float | None = Field(
        default=None, description="decoding seconds of the same requests without drafts, in the same run"
    )
    speed_up: Estimate | None = Field(
        default=None, description="plain seconds over these, the pace of the machine divided out, with its spread"
    )
    reference_s: float | None = Field(
        default=None, gt=0, description="seconds of the fixed step (`Plan.reference`) while this cell ran"
    )
    lossless: Literal["greedy_identical", "greedy_near_tie", "greedy_different", "sampled", "not_checked"] = (
        "not_checked"
    )
    offered: dict[str, int] = Field(
        default_factory=dict, description="draft nodes by source (draft, retrieval, and both in grown trees)"
    )
    accepted: dict[str, int] = Field(default_factory=dict, description="of them, emitted")

    @property
    def tokens_per_step(self) -> float:
        """Tokens emitted a row and step, the first token (from prefill) left out."""
        return (self.output_tokens - self.prompts) / max(self.row_steps, 1)

    @property
    def tokens_per_s(self) -> float:
        """Tokens emitted a second of decoding, over all rows."""
        return (self.output_tokens - self.prompts) / self.decode_s

    @property
    def times_plain(self) -> Estimate | None:
        """The measured speed-up; without a spread where no fixed step was measured, None where plain did not run."""
        if self.speed_up is not None or self.plain_decode_s is None:
            return self.speed_up
        return Estimate.exact(self.plain_decode_s / self.decode_s, "measured")


class RunRecord(Document):
    """The document that `run` writes and `validate` reads beside the Plan."""

    newest: ClassVar[int] = 5
    oldest: ClassVar[int] = 4
    made_by: ClassVar[str] = "reader run"
    kind: Literal["run_record"] = "run_record"
    schema_version: int = 5
    target: str
    kv: str = Field(default="plain", description="cache of the target, as `--kv` names it")
    drafters: dict[str, str | None] = Field(description="what each drafter ran, by name; None for look-ups")
    device: str
    dtype: str
    temperature: float
    verification: str
    rule_parameters: dict[str, float | str] = Field(
        default_factory=dict, exclude_if=lambda each: not each, description="the rule's own, where any were set"
    )
    lossless: bool
    law: str = Field(default="target", description="what was drawn from: the target, or under a language")
    plan: str | None = Field(description="fingerprint of the Plan that was run")
    new_tokens: int
    cells: tuple[RunCell, ...]
    requests: tuple[RequestRecord, ...]
    arrays: ArrayFile

    _columns: Columns | None = PrivateAttr(default=None)

    @classmethod
    def create(cls, path: str | Path, columns: Columns, **fields: Any) -> RunRecord:
        """Write `columns` beside `path`, then the document itself."""
        path = Path(path)
        _check(columns, len(fields["cells"]))
        record = cls(arrays=ArrayFile.write(path.with_suffix(".parquet"), columns), **fields)
        record._columns = columns
        record.write(path)
        return record

    @classmethod
    def read(cls, path: str | Path) -> Self:
        record = super().read(path)
        record._columns = record.arrays.read(Path(path).parent)
        _check(record._columns, len(record.cells))
        return record

    @cached_property
    def columns(self) -> Columns:
        """The arrays, by the names of `RUN_COLUMNS`."""
        assert self._columns is not None, "a run record is made by create or read"
        return self._columns


def _check(columns: Columns, cells: int) -> None:
    require(
        columns.keys() == RUN_COLUMNS.keys(),
        "a run record must have exactly the columns of `RUN_COLUMNS`",
        got=sorted(columns),
        fix="Run it again with this version.",
        error=DocumentError,
    )
    bounds = {name: Within.seconds() if name.endswith("_s") else Within() for name in RUN_COLUMNS}
    mean = columns["width"].dtype.kind == "f"  # records of before have integers
    check_values(columns, bounds | {"cell": Within(high=cells - 1), "width": Within(whole=not mean)}, "a run record")
