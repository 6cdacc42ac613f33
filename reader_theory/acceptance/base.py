"""What every acceptance model answers: with what probability does the target emit a drafted path."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from reader_theory.documents.trace import Trace
from reader_theory.errors import InvalidInputError, require
from reader_theory.trees.tree import TokenTree
from reader_theory.trees.value import path_probability, tokens_per_step

__all__ = ["AcceptanceModel", "PathwiseModel", "as_probabilities", "as_table", "model_from_dict", "normalised"]

FloatArray = NDArray[np.float64]
_MODELS: dict[str, type[AcceptanceModel]] = {}
_SLACK = 1e-9


class AcceptanceModel(ABC):
    """Gives every node of a tree the probability that it adds a token to a step.

    Subclasses are frozen dataclasses with a `name`, and say which `sources` of nodes they know.
    Prefer `replay` where the policy can be run on the trace itself: a model is for extrapolating and for solvers.
    """

    name: ClassVar[str]
    sources: ClassVar[tuple[str, ...]] = ("draft",)

    def __init_subclass__(cls) -> None:
        if "name" in cls.__dict__:
            _MODELS[cls.name] = cls

    @classmethod
    @abstractmethod
    def fit(cls, trace: Trace, workload: str | None = None) -> Self:
        """The model that describes a trace, or one workload of it, best."""

    @abstractmethod
    def path_probability(self, tree: TokenTree, *, context_tokens: float | None = None) -> FloatArray:
        """(N + 1,) float64: probability that a step emits the path to each node, counted once where sources overlap."""

    def tokens_per_step(self, tree: TokenTree, *, context_tokens: float | None = None) -> float:
        """Expected tokens a step of `tree`: the sum of its path probabilities, that of the root being 1."""
        return tokens_per_step(self.path_probability(tree, context_tokens=context_tokens))

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, lists and strings, with the model's `name`."""
        fields: list[Any] = list(dataclasses.fields(self))  # pyright: ignore[reportArgumentType]
        return {"name": self.name} | {field.name: _plain(getattr(self, field.name)) for field in fields}

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Self:
        """The model that `to_dict` wrote."""
        return cls(**{key: value for key, value in fields.items() if key != "name"})


class PathwiseModel(AcceptanceModel):
    """A model whose path probabilities are products of conditionals."""

    @abstractmethod
    def conditional(self, tree: TokenTree, *, context_tokens: float | None = None) -> FloatArray:
        """(N + 1,) float64: probability that a node's token is next, given that its parent's path was emitted."""

    def path_probability(self, tree: TokenTree, *, context_tokens: float | None = None) -> FloatArray:
        return path_probability(tree, self.conditional(tree, context_tokens=context_tokens))


def model_from_dict(fields: dict[str, Any]) -> AcceptanceModel:
    """The model that any `to_dict` wrote.

    Raises
    ------
    InvalidInputError
        If no model has the name that `fields` carry.
    """
    name = fields.get("name")
    require(
        name in _MODELS,
        "`name` must be that of an acceptance model",
        got=repr(name),
        fix=f"Choose one of {sorted(_MODELS)}.",
    )
    return _MODELS[str(name)].from_dict(fields)


def as_probabilities(name: str, values: ArrayLike) -> FloatArray:
    """`values` as read-only float64, checked to lie in [0, 1]."""
    try:
        array = np.array(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InvalidInputError(f"`{name}` must hold numbers", got=str(error), fix="Pass floats in [0, 1].") from None
    outside = [tuple(place) for place in np.argwhere(~((array >= 0) & (array <= 1)))[:3].tolist()]
    require(
        len(outside) == 0 and array.size > 0,
        f"`{name}` must hold at least one probability, each in [0, 1]",
        got=f"shape {array.shape}, {[float(array[place]) for place in outside]} at {outside}",
        fix="Divide counts by their total; replace NaN by what you believe, or fit from a trace.",
    )
    array.setflags(write=False)
    return array


def as_table(name: str, values: ArrayLike) -> FloatArray:
    """`values` as read-only (D, R) float64 whose rows are probabilities of distinct ranks: each sums to at most 1."""
    array = as_probabilities(name, values)
    sums = np.atleast_2d(array).sum(axis=-1)
    heavy = np.flatnonzero(sums > 1 + _SLACK)
    require(
        array.ndim == 2 and heavy.size == 0,
        f"`{name}` must be a table of depths by ranks whose rows sum to at most 1",
        got=f"shape {array.shape}, rows {heavy[:5].tolist()} summing to {sums[heavy[:5]].tolist()}",
        fix="Ranks exclude one another: pass the probability of each, not its cumulative sum, or divide rows by their "
        "sum with RankTable.normalised; for one rank vector at every depth use RankTable.stationary(vector, depth).",
    )
    return array


def normalised(table: FloatArray) -> FloatArray:
    """(..., R): ranks scaled down to sum to 1 where they sum above it."""
    return table / np.maximum(table.sum(axis=-1, keepdims=True), 1.0)


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray) else value
