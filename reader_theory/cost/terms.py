"""The equation of a step, written once: its seconds are the sum of its terms, times one scale.

A term gives seconds for the conditions of a step. Measured tables (`Cost.model`), fitted operator models (`StepCost`)
and an engine's logs (`EngineStep`) are such terms; forecast, planner, schedule, calibration and grid all sum through
`StepModel`. A drafter names its term: a third party registers the maker of one in `TERMS`, and a `Cost` refers to it.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from reader_theory.estimate import Estimate, Origin
from reader_theory.registry import Registry

__all__ = ["TERMS", "Forwards", "FunctionTerm", "StepConditions", "StepModel", "Term", "TermMaker"]

Floats = NDArray[np.float64]
ONE = Estimate.exact(1.0, "assumed")
WEAKEST: tuple[Origin, ...] = ("assumed", "predicted", "fitted", "measured", "bound")
"""Origins of terms: their sum has the first that is among them."""


@dataclass(frozen=True, eq=False)
class Forwards:
    """What a drafter runs in a step: its forwards by size.

    Parameters
    ----------
    tokens : (..., F)
        Tokens a row of each forward; a look-up in an index is one of 1.
    times : (..., F)
        How often each of them runs; the chance of it, where that is a mean over steps.
    """

    tokens: Floats
    times: Floats

    def __init__(self, tokens: ArrayLike, times: ArrayLike = 1.0) -> None:
        object.__setattr__(self, "tokens", np.atleast_1d(np.asarray(tokens, dtype=np.float64)))
        object.__setattr__(self, "times", np.asarray(times, dtype=np.float64))


@dataclass(frozen=True, eq=False)
class StepConditions:
    """What a step is asked to do; fields broadcast against one another, so that many steps are asked at once.

    Parameters
    ----------
    batch : (...)
        Rows.
    context : (...)
        Mean cached tokens of a row.
    tokens : (...)
        Tokens a row that the target computes, the root included.
    forwards : mapping from drafter to Forwards
        What each drafter runs.
    growths : (...)
        How often the trees of a batch are grown.
    drafting : (...) bool
        Whether the step is one of drafting, or of plain decoding.
    prefill_tokens : (...)
        Tokens of prompts in the same step.
    """

    batch: Floats
    context: Floats
    tokens: Floats
    forwards: Mapping[str, Forwards]
    growths: Floats
    drafting: NDArray[np.bool_]
    prefill_tokens: Floats

    def __init__(
        self,
        batch: ArrayLike = 1.0,
        context: ArrayLike = 512.0,
        tokens: ArrayLike = 1.0,
        *,
        forwards: Mapping[str, Forwards] | None = None,
        growths: ArrayLike = 0.0,
        drafting: ArrayLike = False,
        prefill_tokens: ArrayLike = 0.0,
    ) -> None:
        numbers = {
            "batch": batch, "context": context, "tokens": tokens, "growths": growths, "prefill_tokens": prefill_tokens
        }  # fmt: skip
        for name, value in numbers.items():
            object.__setattr__(self, name, np.asarray(value, dtype=np.float64))
        object.__setattr__(self, "drafting", np.asarray(drafting, dtype=np.bool_))
        object.__setattr__(self, "forwards", dict(forwards or {}))

    @classmethod
    def of_levels(
        cls,
        level_widths: Sequence[int] = (),
        *,
        batch: float = 1.0,
        context: float = 512.0,
        drafter: str = "draft",
        drafted_levels: int | None = None,
        prefill_tokens: float = 0.0,
    ) -> StepConditions:
        """Conditions of a tree by its level widths, first level first; none is plain decoding.

        The root enters the drafter, then each level but the last; `drafted_levels` says how many of these forwards
        there are, where not all are drafted.
        """
        levels = len(level_widths) if drafted_levels is None else min(drafted_levels, len(level_widths))
        sizes = (1, *level_widths)[:levels]
        forwards = {drafter: Forwards(sizes)} if sizes else {}
        return cls(
            batch=batch, context=context, tokens=1 + sum(level_widths), forwards=forwards,
            drafting=bool(level_widths), prefill_tokens=prefill_tokens,
        )  # fmt: skip

    @property
    def verified(self) -> Floats:
        """Tokens of all rows that the target computes, roots included."""
        return self.batch * self.tokens

    def over(self, drafter: str, seconds: Callable[[Floats, Floats, Floats], Floats]) -> Floats:
        """Sum over a drafter's forwards of `seconds` (batch, tokens a row, context), each as often as it runs."""
        asked = self.forwards.get(drafter)
        if asked is None:
            return np.zeros(())
        each = seconds(self.batch[..., None], asked.tokens, self.context[..., None])
        return np.asarray(np.sum(asked.times * each * np.ones_like(asked.tokens), axis=-1), dtype=np.float64)


class Term(ABC):
    """One named part of a step."""

    name: str
    factor: float = 1.0
    """What its seconds are scaled by already."""
    origin: Origin = "measured"
    relative_spread: float = 0.0
    """Half-width of its 95 % interval over its value."""

    @abstractmethod
    def seconds(self, conditions: StepConditions) -> Floats:
        """Seconds at the conditions, broadcast."""

    def estimate(self, conditions: StepConditions) -> Estimate:
        """Seconds of one step with their interval."""
        value, wide = float(self.seconds(conditions)), self.relative_spread
        return Estimate(value=value, low=max(value * (1 - wide), 0.0), high=value * (1 + wide), origin=self.origin)


@dataclass(frozen=True)
class FunctionTerm(Term):
    """A term from a function of the conditions."""

    name: str
    function: Callable[[StepConditions], Floats]
    factor: float = 1.0
    relative_spread: float = 0.0
    origin: Origin = "measured"

    def seconds(self, conditions: StepConditions) -> Floats:
        """`factor` times the function."""
        return self.factor * self.function(conditions)


@dataclass(frozen=True)
class StepModel:
    """The terms of a step; its seconds are their sum.

    Parameters
    ----------
    terms : tuple of Term
    scale : Estimate
        Factor of all of them: what whole steps took over the sum of the terms.
    covariance : (t, t), optional
        Of the factors of the terms, where they were fitted together; else their errors are taken as independent.
    misfit : float
        Relative standard deviation of a step about the sum.
    """

    terms: tuple[Term, ...]
    scale: Estimate = ONE
    covariance: tuple[tuple[float, ...], ...] | None = None
    misfit: float = 0.0

    def parts(self, conditions: StepConditions) -> dict[str, Floats]:
        """Seconds of every term at the conditions, broadcast."""
        return {term.name: self.scale.value * term.seconds(conditions) for term in self.terms}

    def seconds(self, conditions: StepConditions) -> Floats:
        """Seconds of the step at the conditions, broadcast."""
        return np.asarray(sum(self.parts(conditions).values()), dtype=np.float64)

    def estimates(self, conditions: StepConditions) -> dict[str, Estimate]:
        """Every term of one step with its interval."""
        return {term.name: term.estimate(conditions).scaled(self.scale.value) for term in self.terms}

    def estimate(self, conditions: StepConditions) -> Estimate:
        """Seconds of one step; independent errors add in squares, those of `covariance` as it says."""
        terms = self.estimates(conditions).values()
        total = math.fsum(term.value for term in terms)
        common = total * (self.scale.high - self.scale.low) / (2 * self.scale.value)
        apart = math.fsum((term.high - term.value) ** 2 for term in terms)
        if self.covariance is not None:
            raw = np.array([float(term.seconds(conditions)) / term.factor for term in self.terms]) * self.scale.value
            apart = 1.96**2 * float(raw @ np.array(self.covariance) @ raw)
        half = math.sqrt(apart + common**2 + (1.96 * self.misfit * total) ** 2)
        origins = {term.origin for term in terms}
        origin: Origin = next(each for each in WEAKEST if each in origins)
        return Estimate(value=total, low=max(total - half, 0.0), high=total + half, origin=origin)


class TermMaker(ABC):
    """What makes a drafter's term from what a cost document holds of that drafter; found in `TERMS` by its `name`."""

    name: ClassVar[str]

    @classmethod
    @abstractmethod
    def term(cls, drafter: str, cost: Any) -> Term:
        """The term of the drafter called `drafter`; `cost` is its `DrafterCost`."""


TERMS: Registry[type[TermMaker]] = Registry("term")
"""Makers of drafters' terms."""


@TERMS.register
class _ByForward(TermMaker):
    """Forwards of a model, from a table over batch, tokens a row and context."""

    name = "forwards"

    @classmethod
    def term(cls, drafter: str, cost: Any) -> Term:
        table = cost.forward
        return FunctionTerm(drafter, lambda c: c.over(drafter, table.at), relative_spread=table.relative_spread)


@TERMS.register
class _ByRow(TermMaker):
    """So many seconds a row each time that it is asked: look-ups."""

    name = "lookups"

    @classmethod
    def term(cls, drafter: str, cost: Any) -> Term:
        each = cost.row_s
        wide = (each.high - each.low) / (2 * each.value) if each.value > 0 else 0.0

        def rows(batch: Floats, tokens: Floats, context: Floats) -> Floats:
            return batch * each.value

        return FunctionTerm(drafter, lambda c: c.over(drafter, rows), relative_spread=wide)
