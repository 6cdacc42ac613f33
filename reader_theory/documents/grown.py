"""GrownRecord: what trees that are grown anew at every step did on the outputs of a trace, step by step."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, PrivateAttr

from reader_theory.documents.arrays import ArrayFile, Columns
from reader_theory.documents.base import Frozen
from reader_theory.documents.columns import Within, check_values
from reader_theory.documents.policy import Grown, SourceMap
from reader_theory.errors import DocumentError, require

__all__ = ["GROWN_COLUMNS", "GrownRecord"]

GROWN_COLUMNS: dict[str, str] = {
    "policy": "(S,) int32: index into `GrownRecord.policies`",
    "prompt": "(S,) int32: index into `Trace.prompts`",
    "position": "(S,) int32: place of the first token that the step emits in its prompt's output",
    "emitted": "(S,) int32: tokens that the step emits: those accepted, and one more; clipped at the end",
    "nodes": "(S,) int32: draft nodes verified, the root not counted",
    "forwards": "(S, F) int32: tokens that the row has in each forward of the draft, those emitted since it last ran "
    "in the first; 0 where it has none",
}
"""Columns of a grown record, one row a step; a policy's steps on a prompt lie together, in order."""


class GrownRecord(Frozen):
    """What grown policies did on the outputs of a trace, step by step.

    A tree that is grown anew at every step cannot be replayed from ranks on the true path, so each policy was run on
    it. Maps lie by workload; each step was taken with maps that were fitted on prompts of other sources.
    """

    policies: tuple[Grown, ...] = Field(description="without maps")
    maps: dict[str, tuple[SourceMap, ...]] = Field(description="by workload, fitted on all of its prompts")
    arrays: ArrayFile

    _columns: Columns | None = PrivateAttr(default=None)

    @classmethod
    def create(
        cls,
        columns: Columns,
        policies: tuple[Grown, ...],
        maps: dict[str, tuple[SourceMap, ...]],
        path: Path | None = None,
    ) -> GrownRecord:
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
        """The arrays, by the names and shapes of `GROWN_COLUMNS`."""
        assert self._columns is not None, "a grown record is made by create, or read with its trace"
        return self._columns


def _check(columns: Columns, policies: int) -> None:
    lengths = {name: len(column) for name, column in columns.items()}
    require(
        columns.keys() == GROWN_COLUMNS.keys() and len(set(lengths.values())) == 1,
        "a grown record must have exactly the columns of `GROWN_COLUMNS`, of one length",
        got=str(lengths),
        fix="Record the trace again with this version.",
        error=DocumentError,
    )
    bounds = {name: Within(dims=2 if name == "forwards" else 1) for name in GROWN_COLUMNS}
    check_values(columns, bounds | {"policy": Within(high=policies - 1)}, "a grown record")
