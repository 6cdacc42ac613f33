"""The law of the emitted string, exactly: every branch of a verification rule, in fractions.

A rule draws through `choose(weights)`; the enumeration runs it once for every sequence of choices. Prefer it to
sampling wherever the case is small: equality of fractions needs no tolerance and no seed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

from reader_theory.errors import NotADistributionError, require

__all__ = ["Choose", "Law", "Target", "continue_with_target", "emitted_law", "is_lossless", "joint_law"]

Text = tuple[int, ...]
Law = dict[Text, Fraction]
"""Probability of each emitted string; strings of probability 0 are left out."""

Target = Callable[[Text], Sequence[Fraction]]
"""Law of the next token after a prefix of emitted tokens, (V,) fractions that sum to 1."""

Choose = Callable[[Sequence[Fraction]], int]
"""Draws an index with the given probabilities, which must sum to 1."""


class _Branch:
    """One run of a rule: forced along `prefix`, then always the first possible choice; siblings are left to `open`."""

    def __init__(self, prefix: tuple[int, ...], open_branches: list[tuple[int, ...]]) -> None:
        self.prefix, self.open, self.taken = prefix, open_branches, list[int]()
        self.probability = Fraction(1)

    def choose(self, weights: Sequence[Fraction]) -> int:
        _check(weights)
        place = len(self.taken)
        if place < len(self.prefix):
            pick = self.prefix[place]
        else:
            pick, *others = (i for i, weight in enumerate(weights) if weight > 0)
            self.open.extend((*self.taken, other) for other in others)
        self.taken.append(pick)
        self.probability *= weights[pick]
        return pick


def emitted_law(rule: Callable[..., Sequence[int]], *arguments: Any) -> Law:
    """Law of what ``rule(choose, *arguments)`` returns, over every way its choices can fall.

    Parameters
    ----------
    rule : callable
        Takes `choose` first and returns the emitted tokens. It must be a function of its choices alone: equal
        choices give equal runs.
    *arguments
        Handed to the rule: the target, the draft, a tree.

    Returns
    -------
    dict of tuple of int to Fraction
        Sums to 1 exactly.

    Raises
    ------
    NotADistributionError
        If the rule draws from weights that are negative or do not sum to 1.

    Examples
    --------
    >>> half = Fraction(1, 2)
    >>> emitted_law(lambda choose: [choose([half, half]), 7])
    {(0, 7): Fraction(1, 2), (1, 7): Fraction(1, 2)}
    """
    law: Law = {}
    pending: list[tuple[int, ...]] = [()]
    while pending:
        branch = _Branch(pending.pop(), pending)
        text = tuple(int(token) for token in rule(branch.choose, *arguments))
        law[text] = law.get(text, Fraction(0)) + branch.probability
    return dict(sorted(law.items()))


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
    return dict(sorted(whole.items()))


def joint_law(target: Target, length: int) -> Law:
    """The target's own law of its next `length` tokens."""
    return continue_with_target({(): Fraction(1)}, target, length)


def is_lossless(law: Law, target: Target, length: int | None = None) -> bool:
    """Whether the emitted string, continued by the target, has the target's joint law exactly.

    Parameters
    ----------
    law : dict of tuple of int to Fraction
        What `emitted_law` returned.
    target : callable
    length : int, optional
        Tokens to compare; those of the longest emitted string when left out, which is enough.
    """
    length = max(map(len, law), default=0) if length is None else length
    return continue_with_target(law, target, length) == joint_law(target, length)


def _check(weights: Sequence[Fraction]) -> None:
    require(
        all(weight >= 0 for weight in weights) and sum(weights) == 1,
        "a rule must draw from weights >= 0 that sum to 1 exactly",
        got=f"{[str(weight) for weight in weights]}, sum {sum(weights)}",
        fix="Normalise them as `fractions.Fraction`; floats rarely sum to 1 exactly.",
        error=NotADistributionError,
    )
