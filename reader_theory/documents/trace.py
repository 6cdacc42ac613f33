"""Trace: what the drafters would have offered at every position of the target's own output."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PrivateAttr

from reader_theory.documents.arrays import ArrayFile, Columns
from reader_theory.documents.base import Document, Frozen
from reader_theory.documents.columns import Within, check_prompts, check_values
from reader_theory.documents.forwards import DraftForwards
from reader_theory.documents.grown import GrownRecord
from reader_theory.documents.policy import DRAFT, RETRIEVAL
from reader_theory.errors import DocumentError, require

__all__ = ["DRAFTER_COLUMNS", "TRACE_COLUMNS", "Trace", "TraceDrafter", "TracePrompt"]

TRACE_COLUMNS: dict[str, str] = {
    "prompt": "(T,) int32, non-decreasing: index into `Trace.prompts`",
    "position": "(T,) int32: place of the token in its prompt's output, from 0, without gaps",
    "token": "(T,) int32: the token that the target emitted",
    "context_tokens": "(T,) int32: prompt and output tokens before this one",
    "target_probability": "(T,) float32: the target's own probability of the token it emitted",
}
"""Columns of a trace, one row a position; each drafter has its own beside them, called ``{drafter}_{column}``."""

DRAFTER_COLUMNS: dict[str, dict[str, str]] = {
    "model": {
        "rank": "(T,) int32: rank among its candidates given the true prefix; -1 when not in the top K",
        "probability": "(T, K) float32: its probabilities of its top K candidates, descending",
        "overlap": "(T,) float32: sum over tokens of min(target law, its law); NaN when not known",
    },
    "block": {
        "rank": "(T, D) int32: in column d, for a step that starts here, the rank of the token d places on among the "
        "candidates of that depth; -1 when not among them, or past the end of the output",
        "probability": "(T, K) float32: its probabilities of the first depth's candidates; equal shares without a law",
    },
    "lookups": {
        "match": "(T,) int32: longest suffix of the true prefix that is found earlier in what is looked up",
        "count": "(T,) int32: how often that suffix occurred there",
        "offered": "(T,) int32: tokens that the chain after it holds here",
        "run": "(T,) int32: leading tokens of that chain that equal what the target emitted from here on",
    },
}
"""Columns of a drafter, by its kind. A token at rank r extends a draft path by its rank-r child.

A model of kind ``model`` is asked again at every node: its rank at a position serves every depth that a path reaches it
at. One of kind ``block`` offers all depths from where the step starts, so each depth has a rank of its own.
"""

_VALUES = {
    **dict.fromkeys(("prompt", "position", "token", "context_tokens"), Within()),
    "target_probability": Within.probability(),
}
_RANKED = {"rank": Within(low=-1), "probability": Within.probability(dims=2)}
_DRAFTER_VALUES: dict[str, dict[str, Within]] = {
    "model": _RANKED | {"overlap": Within.probability(nan=True)},
    "block": _RANKED | {"rank": Within(low=-1, dims=2)},
    "lookups": dict.fromkeys(("match", "count", "offered", "run"), Within()),
}


class TraceDrafter(Frozen):
    """One drafter of a trace: what was scored at every position under its name."""

    kind: Literal["model", "block", "lookups"] = Field(
        description="asked anew at every node, or for all depths at once, or look-ups of past tokens"
    )
    model: str | None = Field(default=None, description="what was run; None for an index of tokens")
    candidates: int = Field(default=0, ge=0, description="tokens of its law that were ranked")
    forwards: DraftForwards = Field(
        default=DraftForwards(),
        exclude_if=lambda each: each == DraftForwards(),  # as traces of before were written
        description="forwards that it takes for a tree, as it declares",
    )

    @property
    def is_ranked(self) -> bool:
        """Whether static trees of its ranks can be planned, rather than chains of what it found."""
        return self.kind != "lookups"


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
    kv: str = Field(default="plain", description="cache of the target, as `--kv` names it")
    temperature: float
    drafters: dict[str, TraceDrafter] = Field(description="by name, which policies ask for them by")
    prompts: tuple[TracePrompt, ...]
    arrays: ArrayFile
    grown: dict[str, GrownRecord] = Field(
        default_factory=dict[str, GrownRecord], description="what trees grown at every step did, by who was asked"
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
        check_columns(columns, len(fields.get("prompts", ())), fields.get("drafters", {}))
        arrays = ArrayFile.write(path.with_suffix(".parquet"), columns)
        trace = cls(arrays=arrays, **fields)
        trace._columns = columns
        trace.write(path)
        return trace

    @classmethod
    def read(cls, path: str | Path) -> Self:
        trace = super().read(path)
        trace._columns = trace.arrays.read(Path(path).parent)
        check_columns(trace._columns, len(trace.prompts), trace.drafters)
        for record in trace.grown.values():
            record.load(Path(path).parent)
        return trace

    @classmethod
    def in_memory(cls, columns: Columns, **fields: Any) -> Trace:
        """A trace that lies in no file: for simulation and tests."""
        check_columns(columns, len(fields.get("prompts", ())), fields.get("drafters", {}))
        trace = cls(arrays=ArrayFile(name="", sha256="", rows=len(columns["prompt"])), **fields)
        trace._columns = columns
        return trace

    @property
    def draft(self) -> str | None:
        """The model behind the drafter called "draft"."""
        return self.drafters[DRAFT].model if DRAFT in self.drafters else None

    @property
    def candidates(self) -> int:
        """Tokens that the drafter called "draft" was ranked on."""
        return self.drafters[DRAFT].candidates if DRAFT in self.drafters else 0

    def of(self, *names: str) -> Trace:
        """The trace of these drafters alone, a model under the name "draft" and look-ups under "retrieval".

        Acceptance models describe the drafters of these names; this is how they are fitted to any other.

        Raises
        ------
        InvalidInputError
            If the trace has no such drafter.
        """
        require(
            all(name in self.drafters for name in names),
            "a drafter must be one that the trace recorded",
            got=f"{list(names)}; the trace has {sorted(self.drafters)}",
            fix="Record with this drafter, or ask for another.",
        )
        called = {name: DRAFT if self.drafters[name].is_ranked else RETRIEVAL for name in names}
        if all(name == own for name, own in called.items()) and len(names) == len(self.drafters):
            return self
        columns = {name: self.columns[name] for name in TRACE_COLUMNS}
        for name, own in called.items():
            each = DRAFTER_COLUMNS[self.drafters[name].kind]
            columns |= {f"{own}_{column}": self.columns[f"{name}_{column}"] for column in each}
        trace = self.model_copy(update={"drafters": {own: self.drafters[name] for name, own in called.items()}})
        trace._columns = columns
        return trace

    @property
    def columns(self) -> Columns:
        """The arrays, by the names and shapes of `TRACE_COLUMNS`, and of `DRAFTER_COLUMNS` after each drafter's."""
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

    def documents(self, prompts: NDArray[np.integer[Any]]) -> NDArray[np.intp]:
        """(P,) number of the document of each of these prompts: what is resampled, and held out, as a whole.

        A prompt without a source is a document of its own; with all from one source nothing tells how documents
        differ, and each prompt is one.
        """
        names = [self.prompts[int(i)].source or f"prompt {i}" for i in prompts]
        found = np.unique(names, return_inverse=True)[1]
        return found if found.max(initial=0) > 0 else np.arange(len(names))

    def sources(self, workload: str) -> int:
        """How many sources the prompts of `workload` name; 0 where one of them names none."""
        named = {prompt.source for prompt in self.prompts if prompt.workload == workload}
        return 0 if "" in named else len(named)


def check_columns(columns: Columns, prompts: int, drafters: Mapping[str, TraceDrafter]) -> None:
    """Raise `DocumentError` unless `columns` are those of a trace of so many `prompts`, with values that can be."""
    names = [name for name in drafters if not name.replace("-", "").replace(".", "").isalnum()]
    require(
        not names,
        "a drafter's name must be made of letters, digits, points and hyphens",
        got=str(names),
        fix="Name it so in --draft NAME=FOLDER.",
        error=DocumentError,
    )
    own = {
        f"{name}_{column}": within
        for name, drafter in drafters.items()
        for column, within in _DRAFTER_VALUES[drafter.kind].items()
    }
    wanted = _VALUES | own
    missing, unknown = wanted.keys() - columns.keys(), columns.keys() - wanted.keys()
    require(
        not missing and not unknown,
        "a trace must have exactly the columns of `TRACE_COLUMNS` and of its drafters",
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
    check_values(columns, wanted, "a trace")
    check_prompts(columns["prompt"], columns["position"], prompts, "a trace")
    for name, drafter in drafters.items():
        _check_drafter({column: columns[f"{name}_{column}"] for column in DRAFTER_COLUMNS[drafter.kind]}, name)


def _check_drafter(columns: Columns, name: str) -> None:
    if "rank" in columns:
        ranks, candidates = columns["rank"], columns["probability"].shape[1]
        sound, got = bool((ranks < max(candidates, 1)).all()), f"ranks up to {int(ranks.max())} of {candidates}"
    else:
        over = columns["run"] - columns["offered"]
        sound, got = bool((over <= 0).all()), f"a run of up to {int(over.max())} more than offered"
    require(
        sound,
        f"ranks of {name!r} must lie below its recorded candidates, and a run within what is offered",
        got=got,
        fix="The file was damaged or edited: record it again.",
        error=DocumentError,
    )
