"""Cost: seconds of each named term of a step, as tables measured or predicted over batch, tokens and context."""

from __future__ import annotations

from functools import cached_property
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field, model_validator

from reader_theory.documents.base import Document, Frozen
from reader_theory.estimate import Estimate, Origin

__all__ = ["Cost", "CostTable"]

Grid = tuple[tuple[tuple[float, ...], ...], ...]


class CostTable(Frozen):
    """Seconds of one forward over (batch, tokens a row, context tokens a row), interpolated linearly inside the grid.

    `tokens` counts the rows' query tokens, the root included: a tree of N nodes is a forward of N + 1 tokens. Outside
    the grid the nearest edge's slope goes on; steps between grid points are not seen, which `relative_spread` admits.
    """

    batch: tuple[int, ...]
    tokens: tuple[int, ...]
    context: tuple[int, ...]
    seconds: Grid = Field(description="seconds[batch][tokens][context], medians")
    relative_spread: float = Field(ge=0, description="half width of a 95 % interval over the value")
    origin: Origin = "measured"

    @model_validator(mode="after")
    def _consistent(self) -> CostTable:
        shape = (len(self.batch), len(self.tokens), len(self.context))
        if self.values.shape != shape:
            raise ValueError(f"seconds must have the shape {shape} of its axes, got {self.values.shape}")
        if not (np.isfinite(self.values).all() and (self.values > 0).all()):
            raise ValueError("seconds must be finite and above 0")
        if any(list(axis) != sorted(set(axis)) for axis in (self.batch, self.tokens, self.context)):
            raise ValueError("axes must be strictly increasing")
        return self

    @cached_property
    def values(self) -> NDArray[np.float64]:
        """(batch, tokens, context) float64 seconds."""
        return np.array(self.seconds, dtype=np.float64)

    def at(self, batch: ArrayLike, tokens: ArrayLike, context: ArrayLike) -> NDArray[np.float64]:
        """Seconds at each (batch, tokens, context), broadcast together."""
        points = np.broadcast_arrays(*(np.asarray(x, dtype=np.float64) for x in (batch, tokens, context)))
        result = self.values
        cells = [_locate(axis, x) for axis, x in zip((self.batch, self.tokens, self.context), points, strict=True)]
        total = np.zeros(points[0].shape)
        for corner in np.ndindex(2, 2, 2):
            weight = np.ones(points[0].shape)
            index: list[NDArray[np.intp]] = []
            for side, (low, share, high) in zip(corner, cells, strict=True):
                weight = weight * (share if side else 1 - share)
                index.append(high if side else low)
            total += weight * result[tuple(index)]
        return np.maximum(total, result.min() * 0.5)


class Cost(Document):
    """What a step costs on one device: the document that `calibrate` writes and `plan` reads.

    A step of B rows, each with a tree of at most N nodes, at context c takes

    ``target(B, N + 1, c) + drafting + B * (retrieval_s + verify_s + commit_s) + step_overhead_s``

    times `closure`, where drafting is one forward of the draft over the tokens emitted since the last draft, and one
    a level over the nodes that have children. A joined tree is grown once, and once more after each of these forwards,
    for ``B * growth_s + growth_step_s`` each time.
    """

    newest: ClassVar[int] = 3
    oldest: ClassVar[int] = 3
    made_by: ClassVar[str] = "reader calibrate"
    kind: Literal["cost"] = "cost"
    schema_version: int = 3
    device: str
    target: str
    draft: str | None
    dtype: str
    target_forward: CostTable
    draft_forward: CostTable | None
    retrieval_s: Estimate = Field(description="seconds a row and step: query and extension of the suffix index")
    verify_s: Estimate = Field(description="seconds a row and step: laws, picking tokens, following the tree")
    commit_s: Estimate = Field(description="seconds a row and step: moving accepted cache entries")
    step_overhead_s: Estimate = Field(description="seconds a drafting step, whatever the batch")
    plain_overhead_s: Estimate = Field(
        description="seconds a row and step of all but the forward, when nothing is drafted"
    )
    plain_step_overhead_s: Estimate = Field(
        default_factory=lambda: Estimate.exact(0.0, "assumed"),
        description="seconds a step of all but the forward, when nothing is drafted",
    )
    growth_s: Estimate | None = Field(
        default=None, description="seconds a row of growing a joined tree once; None where it was not measured"
    )
    growth_step_s: float = Field(default=0.0, ge=0, description="the same a step, whatever the batch")
    closure: Estimate = Field(description="measured seconds of whole engine steps over the sum of their terms")
    closures: dict[str, Estimate] = Field(
        default_factory=dict, description="the same by `Policy.drafted_by`, where it was measured"
    )

    def closure_of(self, drafted_by: str) -> Estimate:
        """The closure of steps that are drafted by these; the general one where there is none of their own."""
        return self.closures.get(drafted_by, self.closure)

    def growing_s(self, batch: float, times: float) -> float:
        """Seconds of growing the joined trees of a batch so many times; 0 where it was not measured."""
        return 0.0 if self.growth_s is None else times * (batch * self.growth_s.value + self.growth_step_s)

    def drafting_s(self, batch: int, forwards: ArrayLike, context: float) -> float:
        """Seconds of the draft's forwards over these numbers of tokens a row; 0 without a draft."""
        tokens = np.asarray(forwards, dtype=np.float64)
        if self.draft_forward is None or tokens.size == 0:
            return 0.0
        return float(self.draft_forward.at(batch, tokens, context).sum())


def _locate(
    axis: tuple[int, ...], x: NDArray[np.float64]
) -> tuple[NDArray[np.intp], NDArray[np.float64], NDArray[np.intp]]:
    grid = np.asarray(axis, dtype=np.float64)
    if len(grid) == 1:
        zero = np.zeros(x.shape, dtype=np.intp)
        return zero, np.zeros(x.shape), zero
    low = np.clip(np.searchsorted(grid, x, side="right") - 1, 0, len(grid) - 2)
    share = (x - grid[low]) / (grid[low + 1] - grid[low])
    return low, share, low + 1
