"""Future validity: the probability that a text goes on to lie in the language, and the laws that follow from it.

With Phi(y) the probability, under the model, that the prefix y is completed to a string of the language,

.. math:: \\Phi(y) = \\sum_v p(v | y) \\Phi(yv) + p(end | y) [y is complete]

the model's law given the language is its Doob transform p(v | y) Phi(yv) / Phi(y). Phi comes from one backward pass
over the prefixes. Masking drops Phi and renormalises.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from reader_theory.errors import require
from reader_theory.grammar.prefixes import Prefixes
from reader_theory.grammar.validity import Validity

__all__ = ["GREEDY", "LOGARITHMIC", "Arithmetic", "Moves", "future_validity", "string_law"]


class Arithmetic(NamedTuple):
    """How masses are added along alternatives, and multiplied along a path."""

    zero: Any
    one: Any
    plus: Callable[[Iterable[Any]], Any]
    times: Callable[[Any, Any], Any]


def _log_sum(terms: Iterable[float]) -> float:
    given = list(terms)
    best = max(given, default=-math.inf)
    return best if best == -math.inf else best + math.log(math.fsum(math.exp(term - best) for term in given))


def _most(terms: Iterable[float]) -> float:
    return max(terms, default=-math.inf)


LINEAR = Arithmetic(0, 1, sum, operator.mul)
"""Probabilities: floats, or fractions, which stay exact."""
LOGARITHMIC = Arithmetic(-math.inf, 0.0, _log_sum, operator.add)
"""Logarithms of probabilities: long strings do not vanish."""
GREEDY = Arithmetic(-math.inf, 0.0, _most, operator.add)
"""Logits below the best one: what the others come to as the temperature goes to 0, the string least below greedy."""


class Moves(NamedTuple):
    """The model's law after a prefix, as far as the language asks for it.

    Attributes
    ----------
    tokens : sequence of k masses
        Of each token that may follow, in the order of `Prefixes.tokens`.
    end : mass
        Of ending the text there; one where the language alone ends it.
    """

    tokens: Sequence[Any]
    end: Any


def future_validity(
    prefixes: Prefixes, moves: Sequence[Moves | None], arithmetic: Arithmetic = LINEAR, *, ahead: int | None = None
) -> list[Any]:
    """Phi of every prefix.

    Parameters
    ----------
    moves : sequence of n Moves or None
        The model's law after each prefix; None where the prefix is open, whose Phi counts as one.
    arithmetic : Arithmetic
    ahead : int, optional
        Tokens to look ahead; after them every prefix counts as one. To the end when left out.

    Returns
    -------
    list of n masses
        That of the first prefix first.
    """
    phi: list[Any] = [arithmetic.one] * len(prefixes)
    for node, law in enumerate(moves):
        known = law is not None and len(law.tokens) == len(prefixes.below[node])
        require(
            known or bool(prefixes.open[node]),
            "`moves` must have the model's law after every prefix that is not open",
            got=f"{law} for {len(prefixes.below[node])} tokens after {prefixes.paths[node]}",
            fix="Give one mass for each of the prefix's tokens.",
        )
    if ahead is None:
        for node in reversed(range(len(prefixes))):
            phi[node] = _sum(prefixes, moves[node], phi, node, arithmetic)
    for _ in range(ahead or 0):
        phi = [_sum(prefixes, law, phi, node, arithmetic) for node, law in enumerate(moves)]
    return phi


def _sum(prefixes: Prefixes, law: Moves | None, phi: Sequence[Any], node: int, arithmetic: Arithmetic) -> Any:
    """What the Phi below a prefix give there."""
    if prefixes.open[node] or law is None:
        return arithmetic.one
    terms = [arithmetic.times(mass, phi[to]) for mass, to in zip(law.tokens, prefixes.below[node], strict=True)]
    return arithmetic.plus([*terms, law.end] if prefixes.complete[node] else terms)


def string_law(
    prefixes: Prefixes, moves: Sequence[Moves | None], validity: Validity, *, most: int = 1 << 16
) -> dict[tuple[int, ...], Any]:
    """Probability of every string of a language when it is drawn as `validity` says, token by token.

    Masses are linear: probabilities as floats, or fractions, which stay exact. Where masking leads to a prefix whose
    continuations have no mass, what it had is missing from the sum.

    Raises
    ------
    InvalidInputError
        When no string has any mass, or there are more than `most`.
    """
    ahead = validity.ahead
    require(
        future_validity(prefixes, moves)[0] > 0,
        "some string of the language must have mass under the model",
        got="none: the sampler's filters drop a token of every string",
        fix="Raise top_k, top_p or the temperature, or lower min_p.",
    )
    phi = future_validity(prefixes, moves, ahead=ahead)
    found: dict[tuple[int, ...], Any] = {}
    waiting: list[tuple[int, tuple[int, ...], Any]] = [(0, (), LINEAR.one)]
    while waiting:
        node, text, mass = waiting.pop()
        law = moves[node]
        assert law is not None, "string laws look to the end of every string"
        weights = [p * phi[to] for p, to in zip(law.tokens, prefixes.below[node], strict=True)]
        end = law.end if prefixes.complete[node] else 0
        total = sum(weights) + end
        if prefixes.complete[node] and total:
            found[text] = mass * end / total
        steps = zip(prefixes.tokens[node].tolist(), weights, prefixes.below[node], strict=True)
        waiting += [(to, (*text, token), mass * weight / total) for token, weight, to in steps if weight]
        require(
            len(found) <= most,
            "a language whose strings are listed must not have too many",
            got=f"more than {most}",
            fix="Use a smaller language.",
        )
    return found
