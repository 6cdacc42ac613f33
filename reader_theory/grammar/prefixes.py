"""The prefixes of a language below one of them: the nodes at which a model's law must be known, parents first."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reader_theory.errors import InvalidInputError
from reader_theory.grammar.language import Language, State

__all__ = ["Prefixes", "TooManyPrefixesError", "prefixes_of"]

Text = tuple[int, ...]


class TooManyPrefixesError(InvalidInputError):
    """A language has more prefixes than a model should be asked about."""


@dataclass(frozen=True)
class Prefixes:
    """Prefixes of a language, in order of length; those that a model cannot tell apart are one.

    Attributes
    ----------
    paths : tuple of n tuples of int
        Tokens from the first one, which has none, to each: of prefixes that are one, those of one of them.
    tokens : tuple of n (k,) int64
        Tokens that may follow each.
    below : tuple of n tuples of k int
        Where each of them leads.
    complete : (n,) bool
        Whether a string ends there.
    open : (n,) bool
        Whether it was not looked behind: `depth` ends there.
    """

    paths: tuple[Text, ...]
    tokens: tuple[NDArray[np.int64], ...]
    below: tuple[tuple[int, ...], ...]
    complete: NDArray[np.bool_]
    open: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.paths)


def prefixes_of(
    language: Language,
    room: int,
    *,
    state: State | None = None,
    depth: int | None = None,
    most: int = 1 << 14,
    alike: int | None = None,
    before: Text = (),
) -> Prefixes:
    """Prefixes from `state` on whose strings end within `room` tokens.

    Parameters
    ----------
    state : State, optional
        Of the first one; the language's start when left out.
    depth : int, optional
        Longest prefixes that are listed; all when left out.
    most : int
        More than so many are refused.
    alike : int, optional
        Tokens that the model's law depends on: prefixes that agree in state, length and the last `alike` tokens are
        one, which is dynamic programming over (state, length, context). All differ when left out.
    before : tuple of int
        Tokens before the first one, for `alike`.

    Raises
    ------
    TooManyPrefixesError

    Examples
    --------
    >>> from reader_theory.grammar.trie import Trie
    >>> prefixes_of(Trie([[1, 2], [1, 3]]), room=2).paths
    ((), (1,), (1, 2), (1, 3))
    """
    first = language.start if state is None else state
    paths: list[Text] = [()]
    states: list[State] = [first]
    tokens: list[NDArray[np.int64]] = []
    below: list[tuple[int, ...]] = []
    known: dict[Hashable, int] = {}
    none = np.zeros(0, dtype=np.int64)
    for node, path in enumerate(paths):
        listed = depth is None or len(path) < depth
        found = language.tokens(states[node], room - len(path)) if listed else none
        places: list[int] = []
        for token in found.tolist():
            to, longer = language.after(states[node], token), (*path, token)
            key = (to, len(longer), (*before, *longer)[-alike:] if alike else ()) if alike is not None else longer
            place = known.setdefault(key, len(paths))
            if place == len(paths):
                paths.append(longer)
                states.append(to)
                if len(paths) > most:
                    raise _too_many(language, room, most)
            places.append(place)
        tokens.append(found)
        below.append(tuple(places))
    complete = np.array([language.complete(each) for each in states])
    reach = np.array([depth is not None and len(path) >= depth for path in paths])
    return Prefixes(tuple(paths), tuple(tokens), tuple(below), complete, reach)


def _too_many(language: Language, room: int, most: int) -> TooManyPrefixesError:
    return TooManyPrefixesError(
        "the model's law must be known after every prefix that is looked at, and there must not be too many",
        got=f"more than {most} prefixes of {language.name} within {room} tokens",
        fix="Use fewer or shorter strings, a smaller max_new_tokens, lookahead:1, or mask and the law that it samples.",
    )
