"""A request's way through its language: where each output stands, and what the target's law was there.

Outputs are tuples of tokens from the first emitted one on. What is drawn at one is the sampler's law (temperature,
filters, penalties and end tokens as the request asks) weighed by what looking ahead from it gives.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from reader_theory.errors import InvalidInputError, require
from reader_theory.grammar import GREEDY, LOGARITHMIC, Language, Moves, Prefixes, Validity, future_validity, prefixes_of

__all__ = ["Course", "Text", "Way"]

Text = tuple[int, ...]


class _Place(NamedTuple):
    """Where an output stands; outside of the language, or past its end, there is no state."""

    state: Hashable
    ended: bool = False


_OUTSIDE, _ENDED = _Place(None), _Place(None, ended=True)


class Way(NamedTuple):
    """What may follow an output.

    Attributes
    ----------
    tokens : (k,) int64
        Tokens of the language.
    weights : (k,) float64
        Logarithm of what each is weighed by; 0 under a mask.
    complete : bool
        Whether the text may end here.
    """

    tokens: NDArray[np.int64]
    weights: NDArray[np.float64]
    complete: bool


class Course:
    """One request in its language.

    Parameters
    ----------
    language : Language
    validity : Validity
    room : int
        Tokens that the request may emit, an end token among them.
    stops : tuple of int
        End tokens; where there is none, the language ends the text.
    greedy : bool
        Whether the string least below the greedy path is asked for, rather than a draw.
    alike : int, optional
        Tokens that the target's law depends on; all when left out.
    before : tuple of int
        Tokens before the output, for `alike`.

    Raises
    ------
    InvalidInputError
        When the request cannot be served: no string fits, an end token stands within the strings, one string begins
        another and nothing says which of them ends, or the exact law has too many prefixes.
    """

    def __init__(
        self,
        language: Language,
        validity: Validity,
        room: int,
        stops: tuple[int, ...] = (),
        *,
        greedy: bool = False,
        alike: int | None = None,
        before: Text = (),
    ) -> None:
        self.language, self.validity, self.stops = language, validity, tuple(sorted(set(stops)))
        self.room = room - bool(self.stops)
        self.greedy, self.arithmetic = greedy, GREEDY if greedy else LOGARITHMIC
        self._alike, self._before = alike, before[-alike:] if alike else ()
        self._places: dict[Text, _Place] = {(): _Place(language.start)}
        self._laws: dict[Hashable, tuple[Moves, NDArray[np.float64]]] = {}
        self.fault: InvalidInputError | None = None
        _check(self, language, room)
        if validity.faithful:
            assert self.whole is not None

    # ---- where an output stands

    def place(self, output: Text) -> _Place:
        """Of an output: its state, or that it has ended or left the language."""
        known = self._places.get(output)
        if known is None:
            known = self._places[output] = self._next(self.place(output[:-1]), output)
        return known

    def _next(self, before: _Place, output: Text) -> _Place:
        if before.state is None:
            return before
        token, state = output[-1], before.state
        if token in self.stops:
            return _ENDED if self.language.complete(state) else _OUTSIDE
        found = self._tokens(state, len(output) - 1)
        at = int(np.searchsorted(found, token))
        if at == len(found) or found[at] != token:
            return _OUTSIDE
        after = self.language.after(state, token)
        return _ENDED if not self.stops and self.language.complete(after) else _Place(after)

    def _tokens(self, state: Hashable, emitted: int) -> NDArray[np.int64]:
        return self.language.tokens(state, self.room - emitted)

    def lies_within(self, output: Text) -> bool:
        """Whether an output begins, or is, a string of the language, its end token behind it or not."""
        return self.place(output) is not _OUTSIDE

    def ended(self, output: Text) -> bool:
        """Whether an output is a whole string, its end token behind it where there is one."""
        return self.place(output).ended

    # ---- the target's law, and what it comes to

    @cached_property
    def whole(self) -> Prefixes:
        """All prefixes of the language that fit."""
        return self._prefixes((), None)

    def _prefixes(self, output: Text, depth: int | None) -> Prefixes:
        return prefixes_of(
            self.language,
            self.room - len(output),
            state=self.place(output).state,
            depth=depth,
            alike=self._alike,
            before=(*self._before, *output),
        )

    def _key(self, output: Text) -> Hashable:
        if self._alike is None:
            return output
        recent = (*self._before, *output)[-self._alike :] if self._alike else ()
        return self.place(output).state, len(output), recent

    def unknown(self, output: Text) -> list[Text]:
        """Outputs after which the target's law must be noted before `way` can look ahead from this one."""
        if self.place(output).state is None or self.validity.ahead == 0:
            return []
        graph = self.whole if self.validity.ahead is None else self._prefixes(output, self.validity.ahead + 1)
        found = [(*output, *path) for node, path in enumerate(graph.paths) if self._matters(graph, node)]
        return [each for each in found if self._key(each) not in self._laws]

    def _matters(self, graph: Prefixes, node: int) -> bool:
        """Whether the target's law there is asked: not where `depth` ends, or nothing is left to choose."""
        if graph.open[node] or (node == 0 and not self.validity.faithful):
            return False
        return bool(len(graph.tokens[node])) or bool(self.stops)

    def note(self, output: Text, scores: NDArray[np.float64]) -> None:
        """Keep what matters of the target's law after an output: (V,) logarithms."""
        state = self.place(output).state
        ends = scores[list(self.stops)] if self.stops and self.language.complete(state) else np.zeros(0)
        moves = scores[self._tokens(state, len(output))].tolist()
        end = self.arithmetic.plus(ends.tolist()) if self.stops else self.arithmetic.one
        self._laws[self._key(output)] = Moves(moves, end), ends

    def _moves(self, output: Text, graph: Prefixes) -> list[Moves | None]:
        nothing = Moves((), self.arithmetic.one)
        laws: list[Moves | None] = []
        for node, path in enumerate(graph.paths):
            asked = self._matters(graph, node)
            known = self._laws.get(self._key((*output, *path))) if asked else None
            laws.append(known[0] if known is not None else nothing if not asked and not graph.open[node] else None)
        return laws

    def way(self, output: Text) -> Way | None:
        """What may follow an output, and what it is weighed by; None where the language says nothing about it.

        Raises
        ------
        InvalidInputError
            When what `unknown` lists was not noted.
        """
        state = self.place(output).state
        if state is None:
            return None
        tokens, complete = self._tokens(state, len(output)), self.language.complete(state)
        if self.validity.ahead == 0 or not len(tokens):
            return Way(tokens, np.zeros(len(tokens)), complete)
        depth = None if self.validity.ahead is None else self.validity.ahead + 1
        graph = self._prefixes(output, depth)
        laws = self._moves(output, graph)
        laws[0] = Moves([self.arithmetic.one] * len(tokens), self.arithmetic.one)  # of no matter: only what is below is
        phi = future_validity(graph, laws, self.arithmetic)
        return Way(tokens, np.array([phi[to] for to in graph.below[0]], dtype=np.float64), complete)

    def moves(self) -> list[Moves]:
        """The noted laws after each prefix of `whole`, in logarithms, or below the best one where it is greedy."""
        laws = [each for each in self._moves((), self.whole) if each is not None]
        assert len(laws) == len(self.whole), "all that `unknown` lists is noted"
        return laws

    @property
    def mass(self) -> float:
        """Logarithm of the probability that the sampler, left alone, writes a string of the language."""
        return future_validity(self.whole, self.moves(), self.arithmetic)[0]

    def draw(self, vocabulary: int, pick: Callable[[NDArray[np.float64], int], int]) -> list[int]:
        """A whole string, its end token with it, of the noted laws.

        Parameters
        ----------
        pick : callable
            A token from a (V,) law, or from scores where the request is greedy, at an output position.

        Raises
        ------
        InvalidInputError
            When no string has any mass.
        """
        if self.fault is not None:
            raise self.fault
        graph = self.whole
        phi = future_validity(graph, self.moves(), self.arithmetic)
        require(
            phi[0] > -math.inf,
            "some string of the language must have mass under the sampler's law",
            got=f"none of the {len(graph)} prefixes leads to one: filters drop a token of every string",
            fix="Raise top_k, top_p or the temperature, lower min_p, or put the strings' form into the prompt.",
        )
        output: list[int] = []
        node = 0
        while True:
            tokens, law = self._choice(graph, node, phi)
            if not len(tokens):
                return output
            token = pick(_spread(tokens, law, vocabulary, greedy=self.greedy), len(output))
            output.append(token)
            if token in self.stops:
                return output
            node = graph.below[node][int(np.searchsorted(graph.tokens[node], token))]

    def _choice(self, graph: Prefixes, node: int, phi: Sequence[float]) -> tuple[list[int], NDArray[np.float64]]:
        """Tokens that may come next on the way to a whole string, end tokens among them, and their log masses."""
        if not self._matters(graph, node):
            return [], np.zeros(0)
        moves, ends = self._laws[self._key(graph.paths[node])]
        ahead = [score + phi[to] for score, to in zip(moves.tokens, graph.below[node], strict=True)]
        tokens = [*graph.tokens[node].tolist(), *(self.stops if len(ends) else ())]
        return tokens, np.array([*ahead, *ends.tolist()], dtype=np.float64)


def _spread(tokens: list[int], scores: NDArray[np.float64], vocabulary: int, *, greedy: bool) -> NDArray[np.float64]:
    """(V,) law of a few tokens from their log masses; the scores themselves where the likeliest is taken."""
    if greedy:
        whole = np.full(vocabulary, -np.inf)
        whole[tokens] = scores
        return whole
    law = np.zeros(vocabulary)
    law[tokens] = np.exp(scores - scores.max())
    return law / law.sum()


def _check(course: Course, language: Language, room: int) -> None:
    within = sorted(language.alphabet & set(course.stops))
    require(
        not within,
        "an end token must not stand within a string of the language",
        got=f"tokens {within[:4]}",
        fix="Leave it out of the strings: it is added behind them; or out of `stop_token_ids`, or set `ignore_eos`.",
    )
    require(
        bool(course.stops) or (not language.complete(language.start) and language.bounded and language.prefix_free),
        "a language in which one string begins another must have an end token that says which of them was meant",
        got=f"no end token, and a language ({language.name}) that does not say by itself where a text ends",
        fix="Give `stop_token_ids`, or leave `ignore_eos` out.",
    )
    need = language.least(language.start) + bool(course.stops)
    require(
        need <= room,
        "`max_new_tokens` must have room for a string of the language",
        got=f"{room} tokens where the shortest takes {need}" + (", its end token with it" if course.stops else ""),
        fix=f"Ask for at least {need} new tokens.",
    )
    require(
        language.bounded or not course.validity.faithful,
        "`validity` exact must be asked of a language whose prefixes can be listed",
        got=f"{language.name}, a language without bound that only a matcher knows",
        fix="Bound the schema or expression (maxLength, maxItems, {1,4}), or ask for lookahead:1 or mask.",
    )
