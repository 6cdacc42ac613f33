"""Exact law of a rule that reads coupling noise: every race is settled by balls, so that finitely many noises suffice.

A token of probability n/M owns n of M balls. Ranks of M independent uniforms put one ball on top, each with chance
1/M; the largest of a token's n uniforms, to the power n, is a uniform of its own. So the winner of the race is the
owner of the top ball, and one noise for each top ball covers every outcome with its exact probability.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from itertools import permutations
from math import lcm
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reader_theory.rules.cases import Case
from reader_theory.rules.exact import Law, Text

__all__ = ["race_law"]


def ball_noise(law: NDArray[Any], order: tuple[int, ...]) -> NDArray[np.float64]:
    """(V,) coupling uniforms under which the tokens of `law` finish as the balls of `order` say, the last one on top.

    Parameters
    ----------
    law : (V,) object array of fractions
    order : tuple of int
        The M balls from the lowest rank to the top; ball k belongs to the first token whose cumulative count exceeds k.
    """
    balls = len(order)
    counts = [int(p * balls) for p in law]
    owner = np.repeat(np.arange(len(law)), counts)
    height = np.empty(balls)
    height[list(order)] = (np.arange(balls) + 1.0) / (balls + 1)
    best = [height[owner == token].max() if count else 0.5 for token, count in enumerate(counts)]
    return np.array([1 - top ** max(count, 1) for top, count in zip(best, counts, strict=True)])


def race_law(run: Callable[[NDArray[np.float64]], Text], case: Case, *, all_orders: bool = False) -> Law:
    """Exact law of the string that ``run(noise)`` emits, noise being (depth + 1, V) coupling uniforms.

    Parameters
    ----------
    run : callable
        The rule, drafting included.
    case : Case
        Its target says how many balls each token owns after each string.
    all_orders : bool
        Run every order of the balls rather than one for each ball on top; for very few balls.
    """
    law: Law = {}

    def explore(text: Text, rows: list[NDArray[np.float64]], weight: Fraction) -> None:
        target = case.target(text)
        orders = _orders(lcm(*(p.denominator for p in target)), all_orders)
        for order in orders:
            known = [*rows, ball_noise(target, order)]
            rest = [np.full(case.vocabulary, 0.5)] * (case.depth + 1 - len(known))
            emitted = run(np.array(known + rest))
            if len(emitted) <= len(known):
                law[emitted] = law.get(emitted, Fraction(0)) + weight / len(orders)
            else:
                explore(emitted[: len(known)], known, weight / len(orders))

    explore((), [], Fraction(1))
    return law


def _orders(balls: int, all_orders: bool) -> list[tuple[int, ...]]:
    if all_orders:
        return list(permutations(range(balls)))
    turns = [(*range(top + 1, balls), *range(top + 1)) for top in range(balls)]
    return [turn if turn[-1] % 2 else (*turn[-2::-1], turn[-1]) for turn in turns]
