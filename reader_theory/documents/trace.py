"""Trace: what the drafters would have offered at every position of the target's own output."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PrivateAttr

from reader_theory.documents.arrays import ArrayFile, Columns
from reader_theory.documents.base import Document, Frozen
from reader_theory.documents.columns import Within, check_prompts, check_values
from reader_theory.documents.grown import GrownRecord
from reader_theory.errors import DocumentError, require

__all__ = ["TRACE_COLUMNS", "Trace", "TracePrompt"]

TRACE_COLUMNS: dict[str, str] = {
    "prompt": "(T,) int32, non-decreasing: index into `Trace.prompts`",
    "position": "(T,) int32: place of the token in its prompt's output, from 0, without gaps",
    "token": "(T,) int32: the token that the target emitted",
    "context_tokens": "(T,) int32: prompt and output tokens before this one",
    "draft_rank": "(T,) int32: rank among the draft's candidates given the true prefix; -1 when not in the top K",
    "draft_probability": "(T, K) float32: the draft's probabilities of its top K candidates, descending",
    "overlap": "(T,) float32: sum over tokens of min(target law, draft law); NaN when there is no neural draft",
    "target_probability": "(T,) float32: the target's own probability of the token it emitted",
    "match_length": "(T,) int32: longest suffix of the true prefix that is found earlier in prompt or output",
    "match_count": "(T,) int32: how often that suffix occurred earlier",
    "retrieval_offered": "(T,) int32: tokens that the retrieval chain holds here",
    "retrieval_run": "(T,) int32: leading tokens of that chain that equal what the target emitted from here on",
}
"""Columns of a trace, one row a position. A token at rank r extends a draft path by its rank-r child."""
_VALUES = {
    **dict.fromkeys(("prompt", "position", "token", "context_tokens"), Within()),
    "draft_rank": Within(low=-1),
    "draft_probability": Within.probability(dims=2),
    "overlap": Within.probability(nan=True),
    "target_probability": Within.probability(),
    **dict.fromkeys(("match_length", "match_count", "retrieval_offered", "retrieval_run"), Within()),
}


class TracePrompt(Frozen):
    """One recorded prompt."""

    id: str
    workload: str
    prompt_tokens: int
    output_tokens: int
    source: str = Field(
        default="", description="document or user that it comes from, whose prompts are alike; empty: its own"
    )


class Trace(Document):
    """A teacher-forced record of drafters against the target's own output.

    Because an accepted path *is* the true prefix, the rank of the token at `position` t + d - 1 is the rank that
    decides depth d of a step that starts at t: one row a position serves every depth.
    """

    newest: ClassVar[int] = 3
    oldest: ClassVar[int] = 3
    made_by: ClassVar[str] = "reader record"
    kind: Literal["trace"] = "trace"
    schema_version: int = 3
    target: str
    draft: str | None
    temperature: float
    candidates: int
    prompts: tuple[TracePrompt, ...]
    arrays: ArrayFile
    grown: GrownRecord | None = Field(
        default=None, description="what trees grown at every step did, where some were run"
    )

    _columns: Columns | None = PrivateAttr(default=None)

    @classmethod
    def create(cls, path: str | Path, columns: Columns, **fields: Any) -> Trace:
        """Check `columns`, write them beside `path`, then the document itself.

        Raises
        ------
        DocumentError
            If a column is missing, unknown, empty, or of another length.
        """
        path = Path(path)
        check_columns(columns, len(fields.get("prompts", ())))
        arrays = ArrayFile.write(path.with_suffix(".parquet"), columns)
        trace = cls(arrays=arrays, **fields)
        trace._columns = columns
        trace.write(path)
        return trace

    @classmethod
    def read(cls, path: str | Path) -> Self:
        trace = super().read(path)
        trace._columns = trace.arrays.read(Path(path).parent)
        check_columns(trace._columns, len(trace.prompts))
        if trace.grown is not None:
            trace.grown.load(Path(path).parent)
        return trace

    @classmethod
    def in_memory(cls, columns: Columns, **fields: Any) -> Trace:
        """A trace that lies in no file: for simulation and tests."""
        check_columns(columns, len(fields.get("prompts", ())))
        trace = cls(arrays=ArrayFile(name="", sha256="", rows=len(columns["prompt"])), **fields)
        trace._columns = columns
        return trace

    @property
    def columns(self) -> Columns:
        """The arrays, by the names and shapes of `TRACE_COLUMNS`."""
        assert self._columns is not None, "a trace is made by create, read or in_memory"
        return self._columns

    @cached_property
    def workloads(self) -> tuple[str, ...]:
        """Workloads in order of first appearance."""
        return tuple(dict.fromkeys(prompt.workload for prompt in self.prompts))

    def rows(self, workload: str) -> NDArray[np.intp]:
        """Row numbers of every position of `workload`."""
        chosen = [i for i, prompt in enumerate(self.prompts) if prompt.workload == workload]
        return np.flatnonzero(np.isin(self.columns["prompt"], chosen))

    def sources(self, prompts: NDArray[np.integer[Any]]) -> NDArray[np.intp]:
        """(P,) number of the source of each of these prompts; a prompt without one is a source of its own."""
        names = [self.prompts[int(i)].source or f"prompt {i}" for i in prompts]
        return np.unique(names, return_inverse=True)[1]


def check_columns(columns: Columns, prompts: int) -> None:
    """Raise `DocumentError` unless `columns` are those of a trace of so many `prompts`, with values that can be."""
    missing, unknown = TRACE_COLUMNS.keys() - columns.keys(), columns.keys() - TRACE_COLUMNS.keys()
    require(
        not missing and not unknown,
        "a trace must have exactly the columns of `TRACE_COLUMNS`",
        got=f"missing {sorted(missing)}, unknown {sorted(unknown)}",
        fix="Record the trace again with this version.",
        error=DocumentError,
    )
    lengths = {name: len(column) for name, column in columns.items()}
    require(
        len(set(lengths.values())) == 1 and lengths["prompt"] > 0,
        "the columns of a trace must have one common length above 0",
        got=str(lengths),
        fix="Record at least one prompt with at least one output token.",
        error=DocumentError,
    )
    check_values(columns, _VALUES, "a trace")
    check_prompts(columns["prompt"], columns["position"], prompts, "a trace")
    ranks, offered, run = (columns[name] for name in ("draft_rank", "retrieval_offered", "retrieval_run"))
    candidates = columns["draft_probability"].shape[1]
    require(
        bool((ranks < max(candidates, 1)).all()) and bool((run <= offered).all()),
        f"`draft_rank` must lie below the {candidates} recorded candidates, and `retrieval_run` within what is offered",
        got=f"ranks up to {int(ranks.max())}, a run of up to {int((run - offered).max())} more than offered",
        fix="The file was damaged or edited: record it again.",
        error=DocumentError,
    )
