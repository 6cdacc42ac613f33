"""The exact enumerator: the law of anything that draws, found by running it once for every way its draws can fall.

A program draws through `Forks`: an index by `choose(weights)`, or uniforms, which it may compare with numbers.

A `ForkingUniform` stands for every number of [0, 1) at once. It starts as the whole interval; each comparison that
could go either way forks the run at that breakpoint. Every outcome comes with the exact probability of its cells, as a
`Fraction`. A comparison that holds at one end point only is followed too, with probability zero: what it reaches must
still be possible. Prefer it to sampling wherever the case is small: equality of fractions needs no tolerance and no
seed.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from reader_theory.errors import NotADistributionError, require

__all__ = ["ForkingUniform", "Forks", "Law", "Target", "Text", "continue_with_target", "law_gap", "outcome_law"]

Text = tuple[int, ...]
Law = dict[Text, Fraction]
"""Probability of each emitted string."""

Target = Callable[[Text], Sequence[Fraction]]
"""Law of the next token after a prefix of emitted tokens, (V,) fractions that sum to 1."""

Outcome = TypeVar("Outcome", bound=Hashable)


@dataclass
class Forks:
    """The decisions of one run: replayed as far as they are known, new ones taken at their first possibility."""

    planned: tuple[int, ...]
    taken: list[int] = field(default_factory=list[int])
    siblings: list[tuple[int, ...]] = field(default_factory=list[tuple[int, ...]])
    weight: Fraction = Fraction(1)

    def choose(self, weights: Sequence[Fraction]) -> int:
        """An index drawn with these probabilities; one of probability 0 is never drawn.

        Raises
        ------
        NotADistributionError
            If the weights are negative or do not sum to 1.
        """
        require(
            all(weight >= 0 for weight in weights) and sum(weights) == 1,
            "a rule must draw from weights >= 0 that sum to 1 exactly",
            got=f"{[str(weight) for weight in weights]}, sum {sum(weights)}",
            fix="Normalise them as `fractions.Fraction`; floats rarely sum to 1 exactly.",
            error=NotADistributionError,
        )
        possible = [index for index, weight in enumerate(weights) if weight > 0]
        return possible[self.fork([weights[index] for index in possible])]

    def fork(self, weights: Sequence[Fraction]) -> int:
        """Index of the possibility that this run follows, be it of probability 0; its weight multiplies the run's."""
        place = len(self.taken)
        if place < len(self.planned):
            index = self.planned[place]
        else:
            index = 0
            self.siblings += [(*self.taken, other) for other in range(1, len(weights))]
        self.taken.append(index)
        self.weight *= weights[index]
        return index

    def uniforms(self, *shape: int) -> NDArray[Any]:
        """Object array of independent forking uniforms."""
        array = np.empty(shape, dtype=object)
        for place in np.ndindex(*shape):
            array[place] = ForkingUniform(_Cell(self))
        return array


@dataclass
class _Cell:
    """Where one uniform is known to lie: in [low, high), or at `pinned`."""

    forks: Forks
    low: Fraction = Fraction(0)
    high: Fraction = Fraction(1)
    pinned: Fraction | None = None
    left_end: bool = True

    def below(self, bound: Fraction, *, closed: bool) -> bool:
        """Whether the uniform is < bound (<= bound when `closed`), forking where both can be."""
        if self.pinned is not None:
            return self.pinned < bound or (closed and self.pinned == bound)
        if bound >= self.high:
            return True
        if bound <= self.low:
            return closed and self.left_end and bound == self.low and self._at_left_end()
        share = (bound - self.low) / (self.high - self.low)
        if self.forks.fork([share, 1 - share]) == 0:
            self.high = bound
            return True
        self.low, self.left_end = bound, not closed
        return False

    def _at_left_end(self) -> bool:
        if self.forks.fork([Fraction(1), Fraction(0)]) == 1:
            self.pinned = self.low
            return True
        self.left_end = False
        return False


class ForkingUniform:
    """``scale * u + shift`` for a uniform u that a run is still free to choose; compares with numbers, and forks."""

    __slots__ = ("_cell", "_scale", "_shift")
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, cell: _Cell, scale: Fraction = Fraction(1), shift: Fraction = Fraction(0)) -> None:
        self._cell, self._scale, self._shift = cell, scale, shift

    def __mul__(self, factor: Any) -> ForkingUniform:
        if factor == 1:
            return self
        factor = Fraction(factor)
        return ForkingUniform(self._cell, self._scale * factor, self._shift * factor)

    __rmul__ = __mul__

    def __truediv__(self, divisor: Any) -> ForkingUniform:
        return self * (1 / Fraction(divisor))

    def __add__(self, term: Any) -> ForkingUniform:
        return ForkingUniform(self._cell, self._scale, self._shift + Fraction(term))

    __radd__ = __add__

    def __neg__(self) -> ForkingUniform:
        return self * -1

    def __sub__(self, term: Any) -> ForkingUniform:
        return self + -Fraction(term)

    def __rsub__(self, term: Any) -> ForkingUniform:
        return -self + term

    def __lt__(self, bound: Any) -> bool:
        return self._compare(bound, closed=False)

    def __le__(self, bound: Any) -> bool:
        return self._compare(bound, closed=True)

    def __gt__(self, bound: Any) -> bool:
        return not self._compare(bound, closed=True)

    def __ge__(self, bound: Any) -> bool:
        return not self._compare(bound, closed=False)

    def _compare(self, bound: Any, *, closed: bool) -> bool:
        scale, room = self._scale, bound
        if isinstance(bound, ForkingUniform):
            if bound._cell is not self._cell:
                raise TypeError("two uniforms cannot be compared with each other exactly; compare each with a number")
            scale, room = scale - bound._scale, bound._shift
        elif not isinstance(bound, Fraction | int):
            room = Fraction(bound)
        room = room - self._shift if self._shift else room
        if scale == 0:
            return room > 0 or (closed and room == 0)
        if scale > 0:
            return self._cell.below(room if scale == 1 else room / scale, closed=closed)
        return not self._cell.below(room / scale, closed=not closed)


def outcome_law(run: Callable[[Forks], Outcome]) -> dict[Outcome, Fraction]:
    """Exact law of what `run` returns, over all the uniforms that it takes from its `Forks`.

    Parameters
    ----------
    run : callable
        Takes a `Forks`, draws uniforms from it, returns something hashable; run once for every cell.

    Returns
    -------
    dict
        Probability of each outcome; 0 where it is reached at an end point only. The probabilities sum to 1.

    Examples
    --------
    >>> outcome_law(lambda forks: bool(forks.uniforms(1)[0] < Fraction(1, 3)))
    {True: Fraction(1, 3), False: Fraction(2, 3)}
    """
    law: dict[Outcome, Fraction] = {}
    waiting: list[tuple[int, ...]] = [()]
    while waiting:
        forks = Forks(waiting.pop())
        outcome = run(forks)
        waiting += forks.siblings
        law[outcome] = law.get(outcome, Fraction(0)) + forks.weight
    return law


def continue_with_target(law: Law, target: Target, length: int) -> Law:
    """Law of the first `length` tokens, each emitted string drawn on from the target.

    Raises
    ------
    NotADistributionError
        If a string is longer than `length`.
    """
    longest = max(map(len, law), default=0)
    require(
        longest <= length,
        "`length` must be at least that of the longest emitted string",
        got=f"length {length}, a string of {longest} tokens",
        fix="Pass the depth of the tree plus one, or more.",
        error=NotADistributionError,
    )
    whole: Law = {}
    pending = list(law.items())
    while pending:
        text, probability = pending.pop()
        if len(text) == length:
            whole[text] = whole.get(text, Fraction(0)) + probability
        else:
            pending += [((*text, token), probability * p) for token, p in enumerate(target(text)) if p > 0]
    return whole


def law_gap(law: Law, target: Target, length: int) -> Fraction:
    """Total variation between the emitted string continued by the target and the target's own first `length` tokens.

    1 when a string that the target never emits was reached, be it with probability 0.
    """
    whole = continue_with_target(law, target, length)
    own = continue_with_target({(): Fraction(1)}, target, length)
    if set(whole) - set(own):
        return Fraction(1)
    return sum((abs(whole.get(text, Fraction(0)) - own[text]) for text in own), Fraction(0)) / 2
