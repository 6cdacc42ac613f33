"""Evolutionary search under a budget: one part down, another up, selection in stages of growing, fresh samples.

Prefer it where what a part is worth depends on the other parts, so that no sum over parts can be maximised exactly:
which layers a self-draft leaves out, how many bits each layer keeps. Where the value is additive, the exact programs of
this folder are faster and certain.

One parent has `offspring` children by a few switches each, which keep the budget. Each stage scores its candidates on a
sample drawn for it alone, all on the same, and keeps the best; the parent competes in the last stage, on that stage's
sample, so that it never lives on a lucky score of before.

References
----------
Sieberling, Kuznedelev, Kurtic, Alistarh, "EvoPress: towards optimal dynamic model compression via evolutionary search",
2024 (arXiv 2410.14649), algorithm 1.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.random import Generator

from reader_theory.documents.base import write_atomically
from reader_theory.errors import DocumentError, require

__all__ = ["Candidate", "Evolution", "Fitness", "LevelSpace", "Space", "Stage", "evolve"]

Candidate = tuple[int, ...]

SWITCHES = 3
"""A child differs by the lesser of two draws from 1 .. SWITCHES switches."""
ATTEMPTS = 64
"""Draws for a child that is not there yet, after which a generation goes on with fewer."""


class Space(Protocol):
    """What is searched."""

    def start(self, generator: Generator) -> Candidate:
        """Any candidate of the budget."""
        ...

    def switched(self, candidate: Candidate, generator: Generator) -> Candidate:
        """The candidate with one part down and another up, of the same budget."""
        ...

    def spent(self, candidate: Candidate) -> int:
        """What it takes of the budget; the same for all."""
        ...


class Fitness(Protocol):
    """How good candidates are."""

    def __call__(self, candidates: Sequence[Candidate], tokens: int, sample: int, /) -> Sequence[float]:
        """One value for each, higher is better, all on the same `tokens` tokens, which `sample` alone decides."""
        ...


@dataclass(frozen=True)
class Stage:
    """One step of selection.

    Parameters
    ----------
    survivors : int
        Candidates that it leaves, 1 in the last stage.
    tokens : int
        Size of its sample, growing from stage to stage.
    """

    survivors: int
    tokens: int


STAGES = (Stage(survivors=4, tokens=256), Stage(survivors=1, tokens=1024))


@dataclass(frozen=True)
class LevelSpace:
    """A level for each part, with a given sum: layers kept or left out, steps of bits a layer.

    Parameters
    ----------
    parts : int
    levels : int
        Each part is at 0 .. levels - 1.
    total : int
        Sum over parts, in 0 .. parts (levels - 1).
    groups : tuple of int, optional
        Group of each part: a switch stays within one, where a step costs alike. One group when left out.
    """

    parts: int
    levels: int
    total: int
    groups: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        require(
            self.parts > 0 and self.levels > 1 and 0 <= self.total <= self.parts * (self.levels - 1),
            "`total` must be a sum that `parts` of 0 .. levels - 1 can have",
            got=f"{self.total} of {self.parts} parts of {self.levels} levels",
            fix="Pass 0 <= total <= parts * (levels - 1).",
        )
        require(
            len(self.groups) in (0, self.parts),
            "`groups` must name a group for each part",
            got=f"{len(self.groups)} for {self.parts} parts",
            fix="Leave it out for one group.",
        )

    def start(self, generator: Generator) -> Candidate:
        """Each step of the budget goes to a part with room, evenly at random."""
        steps = np.repeat(np.arange(self.parts), self.levels - 1)
        chosen = generator.permutation(steps)[: self.total]
        return tuple(np.bincount(chosen, minlength=self.parts).tolist())

    def switched(self, candidate: Candidate, generator: Generator) -> Candidate:
        levels = np.array(candidate)
        groups = np.array(self.groups or (0,) * self.parts)
        up, down = levels < self.levels - 1, levels > 0
        pairs = up[:, None] & down[None, :] & (groups[:, None] == groups[None, :]) & ~np.eye(self.parts, dtype=bool)
        choices = np.flatnonzero(pairs)
        if len(choices):
            raised, lowered = divmod(int(generator.choice(choices)), self.parts)
            levels[raised] += 1
            levels[lowered] -= 1
        return tuple(levels.tolist())

    def spent(self, candidate: Candidate) -> int:
        return sum(candidate)


@dataclass
class Evolution:
    """A search as far as it has come; `evolve` goes on from it.

    Attributes
    ----------
    parent : Candidate
    generation, tokens, samples : int
        Generations done, tokens scored, samples drawn.
    history : list of (int, int, float)
        Generation, tokens and the parent's fitness on its last stage's sample.
    random : dict
        State of the generator.
    """

    parent: Candidate
    generation: int = 0
    tokens: int = 0
    samples: int = 0
    history: list[tuple[int, int, float]] = field(default_factory=list[tuple[int, int, float]])
    random: dict[str, Any] = field(default_factory=dict[str, Any])

    def save(self, path: Path) -> None:
        """Write it whole, or not at all."""
        write_atomically(path, json.dumps(asdict(self)).encode())

    @classmethod
    def load(cls, path: Path) -> Evolution:
        """
        Raises
        ------
        DocumentError
            If the file is none that `save` wrote.
        """
        try:
            held = json.loads(path.read_bytes())
            held["parent"] = tuple(int(level) for level in held["parent"])
            held["history"] = [(int(a), int(b), float(c)) for a, b, c in held["history"]]
            return cls(**held)
        except (ValueError, TypeError, KeyError) as error:
            raise DocumentError(
                "a search to go on with must be one that was saved",
                got=f"`{path}`: {error}",
                fix="Delete it to begin anew, or name another file.",
            ) from error


def evolve(
    space: Space,
    fitness: Fitness,
    *,
    generations: int,
    offspring: int = 16,
    stages: Sequence[Stage] = STAGES,
    seed: int = 0,
    begun: Evolution | None = None,
    after: Callable[[Evolution], bool] | None = None,
) -> Evolution:
    """Search `space` for the fittest candidate.

    Parameters
    ----------
    generations : int
        In all, those of `begun` included.
    offspring : int
        Children a generation.
    stages : sequence of Stage
        Survivors shrink, samples grow.
    begun : Evolution, optional
        A search of before, to go on with.
    after : callable (Evolution) -> bool, optional
        Called after each generation, to save or show it; true ends the search.

    Returns
    -------
    Evolution
        Its `parent` is the fittest found. The same seed gives the same search, in one go or several.
    """
    _check_stages(stages)
    generator = np.random.default_rng(seed)
    state = begun or Evolution(space.start(generator))
    if state.random:
        generator.bit_generator.state = state.random
    while state.generation < generations:
        children = _children(space, state.parent, offspring, generator)
        _select(state, children, fitness, stages)
        state.generation += 1
        state.random = dict(generator.bit_generator.state)
        if after is not None and after(state):
            break
    return state


def _check_stages(stages: Sequence[Stage]) -> None:
    survivors = [stage.survivors for stage in stages]
    sizes = [stage.tokens for stage in stages]
    require(
        bool(stages)
        and survivors[-1] == 1
        and survivors == sorted(survivors, reverse=True)
        and sizes[0] > 0
        and sizes == sorted(sizes),
        "`stages` must end with one survivor, each with no more survivors and no smaller a sample than before",
        got=f"survivors {survivors}, samples {sizes}",
        fix="For example (Stage(4, 256), Stage(1, 1024)).",
    )


def _children(space: Space, parent: Candidate, offspring: int, generator: Generator) -> list[Candidate]:
    """Distinct children, none of them the parent, each of the parent's budget."""
    budget = space.spent(parent)
    seen: dict[Candidate, None] = {parent: None}
    for _ in range(ATTEMPTS * offspring):
        if len(seen) > offspring:
            break
        child = parent
        for _ in range(int(generator.integers(1, SWITCHES + 1, size=2).min())):
            child = space.switched(child, generator)
        assert space.spent(child) == budget, "a switch keeps the budget"
        seen[child] = None
    return list(seen)[1:]


def _select(state: Evolution, children: list[Candidate], fitness: Fitness, stages: Sequence[Stage]) -> None:
    """The fittest child or the parent, by stages."""
    best = float("nan")
    for stage in stages:
        last = stage is stages[-1]
        candidates: list[Candidate] = [*children, state.parent] if last else children
        if not candidates:
            continue  # a space of one candidate
        values = np.asarray(fitness(candidates, stage.tokens, state.samples), dtype=np.float64)
        state.tokens += stage.tokens * len(candidates)
        state.samples += 1
        values = np.where(np.isnan(values), -np.inf, values)
        order = np.argsort(-values, kind="stable")[: stage.survivors]
        children = [candidates[i] for i in order.tolist()]
        best = float(values[order[0]])
    state.parent = children[0]
    state.history.append((state.generation, state.tokens, best))
