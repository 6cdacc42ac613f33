"""Cost: what the terms of a step read, the target's and each drafter's, as tables over batch, tokens and context."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property, lru_cache
from typing import Any, ClassVar, Literal, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field, model_validator

from reader_theory.cost.head import DrafterHead
from reader_theory.cost.terms import TERMS, FunctionTerm, StepConditions, StepModel, Term
from reader_theory.documents.base import Document, Frozen
from reader_theory.documents.forwards import DraftForwards
from reader_theory.documents.policy import DRAFT, RETRIEVAL
from reader_theory.errors import require
from reader_theory.estimate import Estimate, Origin

__all__ = ["Cost", "CostTable", "DrafterCost", "Reference"]

Grid = tuple[tuple[tuple[float, ...], ...], ...]


HALF_PAGE = 8
"""Tokens of a row's last page that are empty in the mean."""


class CostTable(Frozen):
    """Seconds of one forward over (batch, tokens a row, context tokens a row), interpolated linearly inside the grid.

    `tokens` counts the rows' query tokens, the root included: a tree of N nodes is a forward of N + 1 tokens. Outside
    the grid the slope between the edge and a point half or twice as far goes on, for that of two near points is noise;
    seconds beyond an edge grow by nothing at least, and in proportion at most, and `beyond` says how far. Steps between
    grid points are not seen, which `relative_spread` admits.
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
        ragged = len({len(plane) for plane in self.seconds}) > 1 or len({len(r) for p in self.seconds for r in p}) > 1
        if ragged or self.values.shape != shape or min(shape) < 1:
            told = "rows of several lengths" if ragged else self.values.shape
            raise ValueError(f"seconds must have the shape {shape} of its axes, at least one each, got {told}")
        if not (np.isfinite(self.values).all() and (self.values > 0).all()):
            raise ValueError("seconds must be finite and above 0")
        axes = (self.batch, self.tokens, self.context)
        if any(list(axis) != sorted(set(axis)) for axis in axes) or min(self.batch[0], self.tokens[0]) < 1:
            raise ValueError("axes must be strictly increasing, batch and tokens from 1 on")
        if self.context[0] < 0:
            raise ValueError("contexts must be 0 or more")
        return self

    @cached_property
    def values(self) -> NDArray[np.float64]:
        """(batch, tokens, context) float64 seconds."""
        return np.array(self.seconds, dtype=np.float64)

    def at(self, batch: ArrayLike, tokens: ArrayLike, context: ArrayLike) -> NDArray[np.float64]:
        """Seconds at each (batch, tokens, context), broadcast together."""
        points = [np.asarray(x, dtype=np.float64) for x in (batch, tokens, context)]
        axes, least_s = (self.batch, self.tokens, self.context), self.values.min() * 0.5
        within = [np.clip(x, axis[0], axis[-1]) for axis, x in zip(axes, points, strict=True)]
        edge = self._linear(within)
        if all(np.array_equal(x, inside) for x, inside in zip(points, within, strict=True)):
            return np.maximum(edge, least_s)
        most, least = edge, edge
        for axis, x in zip(axes, points, strict=True):
            most = most * np.maximum(x / max(axis[-1], 1), 1)
            least = least * np.minimum(x / max(axis[0], 1), 1)
        return np.maximum(np.clip(self._linear(points), least, most), least_s)

    def _linear(self, points: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
        """Linear in each axis, beyond the grid as well; axes of which one place is asked are taken out first."""
        table, left = self.values, list[tuple[NDArray[np.intp], NDArray[np.float64], NDArray[np.intp]]]()
        for place in reversed(range(len(points))):
            low, share, high = _locate((self.batch, self.tokens, self.context)[place], points[place])
            if points[place].ndim:
                left.insert(0, (low, share, high))
            else:
                table = (1 - share) * table.take(low, axis=place) + share * table.take(high, axis=place)
        total = np.zeros(np.broadcast_shapes(*(x.shape for x in points)))
        for corner in np.ndindex((2,) * len(left)):
            chosen = list(zip(corner, left, strict=True))
            weights = [share if side else 1 - share for side, (_, share, _) in chosen]
            index = tuple(high if side else low for side, (low, _, high) in chosen)
            total += math.prod(weights) * table[index]
        return total

    def beyond(self, batch: ArrayLike, tokens: ArrayLike, context: ArrayLike) -> dict[str, float]:
        """By axis, how many times the farthest point lies beyond what was measured; empty inside.

        A context shorter than the least measured counts as inside: its seconds are at most those there.
        """
        found: dict[str, float] = {}
        for name, asked in (("batch", batch), ("tokens", tokens), ("context", context)):
            axis, points = getattr(self, name), np.asarray(asked, dtype=np.float64)
            below = axis[0] / max(float(points.min()), 1e-9) if name != "context" else 1.0
            if (factor := max(float(points.max()) / max(axis[-1], 1), below)) > 1:
                found[name] = factor
        return found


class DrafterCost(Frozen):
    """What a drafter costs a step: the term that prices it, and what that term reads."""

    term: str = Field(default="forwards", description="name of the maker of its term, in `reader_theory.cost.TERMS`")
    model: str | None = Field(default=None, description="what runs; None for an index of tokens")
    forward: CostTable | None = Field(default=None, description="seconds of one forward, where it has forwards")
    head: CostTable | None = Field(
        default=None,
        exclude_if=lambda each: each is None,
        description="of `forward`, the seconds of the output head, which is then a term of its own",
    )
    output: DrafterHead | None = Field(
        default=None, exclude_if=lambda each: each is None, description="what that output head is: full, or how small"
    )
    row_s: Estimate | None = Field(default=None, description="seconds a row of one look-up, where it has look-ups")
    parameters: dict[str, float] = Field(default_factory=dict, description="what a term from outside reads")
    forwards: DraftForwards | None = Field(
        default=None,
        exclude_if=lambda each: each is None,
        description="forwards that it takes for a tree; None: as the trace says, else one a level",
    )

    @model_validator(mode="after")
    def _whole(self) -> DrafterCost:
        needed = {"forwards": "forward", "lookups": "row_s"}.get(self.term)
        if needed is not None and getattr(self, needed) is None:
            raise ValueError(f"a drafter with the term {self.term!r} must have `{needed}`")
        if self.head is not None and (self.forward is None or (self.head.values.min() > self.forward.values.max())):
            raise ValueError("`head` must be a part of `forward`")
        return self


class Reference(Frozen):
    """A fixed step that was measured beside everything else: the pace of the machine that all seconds are stated at.

    A run measures it too, so that a machine that has changed pace is told from a model that is wrong.
    """

    batch: int = Field(ge=1)
    tokens: int = Field(ge=1)
    context: int = Field(ge=1)
    seconds: Estimate = Field(description="of a plain forward of the target; the interval is how the pace moved")


class Cost(Document):
    """What a step costs on one device: the document that `calibrate` writes and `plan` reads.

    `model` is the equation: the terms of a step of B rows, each with a tree of at most N nodes, at context c are
    ``target(B, N + 1, c)``; for each drafter its forwards or look-ups, a forward's output head apart where that was
    timed; growing the trees of a batch, each time
    ``B * growth_s + growth_step_s``; ``B * verify_s``, ``B * commit_s``, and ``step_overhead_s``. Plain decoding has
    ``B * plain_overhead_s + plain_step_overhead_s`` in place of the last three. All times the closure of who drafts.
    """

    newest: ClassVar[int] = 4
    made_by: ClassVar[str] = "reader calibrate"
    kind: Literal["cost"] = "cost"
    schema_version: int = 4
    device: str
    target: str
    kv: str = Field(default="plain", description="cache of the target, as `--kv` names it")
    dtype: str
    target_forward: CostTable
    packed: bool = Field(
        default=False, description="whether a forward of the target computes each row's own tokens and no padding"
    )
    drafters: dict[str, DrafterCost] = Field(
        default_factory=dict[str, DrafterCost], description="by name; look-ups are a drafter too"
    )
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
        default=None, description="seconds a row of growing a tree once; None where it was not measured"
    )
    growth_step_s: float = Field(default=0.0, ge=0, description="the same a step, whatever the batch")
    closure: Estimate = Field(description="measured seconds of whole engine steps over the sum of their terms")
    closures: dict[str, Estimate] = Field(
        default_factory=dict, description="the same by who drafts (off, or names joined by +), where it was measured"
    )
    ratios: dict[str, Estimate] = Field(
        default_factory=dict,
        description="closure by who drafts over that of off, from stretches at one pace of the machine: the interval "
        "that a speed-up has from the cost",
    )
    reference: Reference | None = Field(default=None, description="None where no fixed step was measured")
    notes: tuple[str, ...] = ()

    kv_tokens: dict[str, int] = Field(
        default_factory=dict[str, int],
        description="tokens that the cache holds, by who drafts as in `closures`, where it was predicted or logged",
    )

    @model_validator(mode="before")
    @classmethod
    def _older(cls, raw: object) -> object:
        """Versions 1 and 2 had one model that drafts, and look-ups beside it."""
        told: dict[str, Any] = dict(cast("dict[str, Any]", raw)) if isinstance(raw, dict) else {}
        if "retrieval_s" not in told:
            return cast(object, raw)
        model, forward, row_s = (told.pop(name, None) for name in ("draft", "draft_forward", "retrieval_s"))
        drafters = {DRAFT: {"model": model, "forward": forward}} if forward is not None else {}
        if "both" in (closures := dict[str, Any](told.get("closures") or {})):
            closures[f"{DRAFT}+{RETRIEVAL}"] = closures.pop("both")
        return told | {
            "drafters": {**drafters, RETRIEVAL: {"term": "lookups", "row_s": row_s}},
            "closures": closures,
            "schema_version": cls.newest,
        }

    @property
    def draft(self) -> str | None:
        """The model behind the drafter called "draft"."""
        return self.drafters[DRAFT].model if DRAFT in self.drafters else None

    @property
    def draft_forward(self) -> CostTable | None:
        """Seconds of a forward of the drafter called "draft"."""
        return self.drafters[DRAFT].forward if DRAFT in self.drafters else None

    def of(self, drafters: Iterable[str] | None) -> Cost:
        """The cost of these drafters alone; of all when None."""
        if drafters is None:
            return self
        return self.model_copy(update={"drafters": {name: self.drafters[name] for name in drafters}})

    def as_declared(self, declared: Mapping[str, DraftForwards]) -> Cost:
        """The cost with the forwards that each drafter was recorded with.

        Raises
        ------
        InvalidInputError
            Where the cost was measured with others: the drafter of that name is another one.
        """
        told = {name: each.forwards for name, each in self.drafters.items() if each.forwards and name in declared}
        differ = {name: each for name, each in told.items() if each != declared[name]}
        require(
            not differ,
            "a drafter must take the forwards in the cost that it was recorded with",
            got="; ".join(
                f"{name}: {each!r} in the cost, {declared[name]!r} recorded" for name, each in differ.items()
            ),
            fix="Record and calibrate with the same drafter under this name.",
        )
        drafters = {
            name: each.model_copy(update={"forwards": declared.get(name, each.forwards)})
            for name, each in self.drafters.items()
        }
        return self.model_copy(update={"drafters": drafters})

    def forwards_of(self, drafter: str) -> DraftForwards:
        """What a drafter takes for a tree; one forward a level where nothing says otherwise."""
        each = self.drafters.get(drafter)
        return each.forwards if each is not None and each.forwards is not None else DraftForwards()

    def closure_of(self, drafters: Iterable[str]) -> Estimate:
        """The closure of steps with these drafters, none for plain decoding; the general one where they have none."""
        return self.closures.get("+".join(sorted(drafters)) or "off", self.closure)

    def ratio_of(self, drafters: Iterable[str]) -> Estimate | None:
        """The ratio of steps with these drafters to plain ones; of any where they have none, None without any."""
        if not self.ratios:
            return None
        widest = max(self.ratios.values(), key=lambda each: each.high / each.low)
        return self.ratios.get("+".join(sorted(drafters)), widest)

    def running(self, batch: float, context: float, drafts: int, drafters: Iterable[str]) -> float:
        """Rows of `batch` that the cache holds, each with its context, its drafts and half a page; all if not told."""
        room = self.kv_tokens.get("+".join(sorted(drafters)) or "off")
        return batch if room is None else min(batch, room / (context + drafts + HALF_PAGE))

    def beyond(self, conditions: StepConditions) -> dict[str, float]:
        """By axis, how many times these steps lie beyond what was measured of the target and of who drafts."""
        found = self.target_forward.beyond(conditions.batch, conditions.tokens, conditions.context)
        for name, asked in conditions.forwards.items():
            table = self.drafters[name].forward if name in self.drafters else None
            tokens = asked.tokens[np.broadcast_to(asked.times, asked.tokens.shape) > 0]
            if table is not None and tokens.size:
                each = table.beyond(conditions.batch, tokens, conditions.context)
                found = {axis: max(found.get(axis, 1.0), each.get(axis, 1.0)) for axis in (*found, *each)}
        return found

    def model(self, drafters: Iterable[str] = ()) -> StepModel:
        """The equation of a step in which these draft; none is plain decoding."""
        names = tuple(drafters)
        return StepModel((*self._terms(), *self._drafting()), self.closure_of(names))

    def _terms(self) -> tuple[Term, ...]:
        plain, step = self.plain_step_overhead_s, self.step_overhead_s
        return (
            FunctionTerm(
                "target",
                lambda c: self.target_forward.at(c.batch, c.tokens, c.context),
                relative_spread=self.target_forward.relative_spread,
            ),
            _rows("verify", self.verify_s),
            _rows("commit", self.commit_s),
            FunctionTerm(
                "overhead",
                lambda c: np.where(c.drafting, step.value, c.batch * self.plain_overhead_s.value + plain.value),
            ),
        )

    def _drafting(self) -> tuple[Term, ...]:
        found = tuple(term for name, each in self.drafters.items() for term in _drafter_terms(name, each))
        if (growth := self.growth_s) is None:
            return found
        grown = FunctionTerm("growth", lambda c: c.growths * (c.batch * growth.value + self.growth_step_s))
        return (*found, grown)


def _drafter_terms(name: str, each: DrafterCost) -> tuple[Term, ...]:
    """The drafter's term, and its output head's apart where that is known; their sum is the same."""
    whole = TERMS[each.term].term(name, each)
    if each.head is None:
        return (whole,)
    table = each.head
    head = FunctionTerm(f"{name} head", lambda c: c.over(name, table.at), relative_spread=table.relative_spread)
    body = FunctionTerm(
        name, lambda c: np.maximum(whole.seconds(c) - head.seconds(c), 0.0), relative_spread=whole.relative_spread
    )
    return (body, head)


def _rows(name: str, each: Estimate) -> Term:
    """So much a row of a drafting step."""
    wide = (each.high - each.low) / (2 * each.value) if each.value > 0 else 0.0
    return FunctionTerm(name, lambda c: np.where(c.drafting, c.batch * each.value, 0.0), relative_spread=wide)


def _locate(
    axis: tuple[int, ...], x: NDArray[np.float64]
) -> tuple[NDArray[np.intp], NDArray[np.float64], NDArray[np.intp]]:
    grid, half, twice = _far(axis)
    if len(grid) == 1:
        zero = np.zeros(x.shape, dtype=np.intp)
        return zero, np.zeros(x.shape), zero
    low = np.clip(np.searchsorted(grid, x, side="right") - 1, 0, len(grid) - 2)
    high = low + 1
    low, high = np.where(x > grid[-1], half, low), np.where(x < grid[0], twice, high)
    share = (x - grid[low]) / (grid[high] - grid[low])
    return low, share, high


@lru_cache
def _far(axis: tuple[int, ...]) -> tuple[NDArray[np.float64], int, int]:
    """An axis; places of its last point at most half as far as the end, and of the first twice as far as the start."""
    grid = np.asarray(axis, dtype=np.float64)
    half = int((grid <= grid[-1] / 2).sum()) - 1
    twice = int((grid < 2 * grid[0]).sum())
    return grid, max(half, 0), min(max(twice, 1), len(grid) - 1)
