"""Finite language: some token sequences, kept as the trie of their prefixes. Prefer it for choices and enums."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from reader_theory.errors import require
from reader_theory.grammar.language import Language, NotALanguageError, State, check_tokens

__all__ = ["Trie"]


class Trie(Language):
    """Exactly these token sequences; one that is given twice counts once.

    Parameters
    ----------
    strings : iterable of sequences of int

    Raises
    ------
    NotALanguageError
        When there is none.

    Examples
    --------
    >>> names = Trie([[1, 2], [1, 3, 3], [4]])
    >>> names.tokens(names.start, room=2).tolist(), len(names), names.least(names.start)
    ([1, 4], 5, 1)
    """

    name = "trie"

    def __init__(self, strings: Iterable[Sequence[int]]) -> None:
        below: list[dict[int, int]] = [{}]
        ends: set[int] = set()
        for number, string in enumerate(strings):
            node = 0
            for token in check_tokens(string, f"string {number}"):
                node = below[node].setdefault(token, len(below))
                if node == len(below):
                    below.append({})
            ends.add(node)
        require(
            bool(ends),
            "a language must hold at least one string",
            got="none",
            fix="Give the token sequences that may be written.",
            error=NotALanguageError,
        )
        self.start, self._ends = 0, frozenset(ends)
        self._below = [dict(sorted(found.items())) for found in below]
        self._least = [0] * len(below)
        for node in reversed(range(len(below))):  # children have higher numbers
            self._least[node] = 0 if node in ends else 1 + min(self._least[to] for to in below[node].values())
        self._tokens = [np.array(list(found), dtype=np.int64) for found in self._below]
        self._needs = [
            np.array([1 + self._least[to] for to in found.values()], dtype=np.int64) for found in self._below
        ]
        self.alphabet = frozenset(token for found in self._below for token in found)
        self.vocabulary = 1 + max((int(found[-1]) for found in self._tokens if len(found)), default=-1)

    def __len__(self) -> int:
        """Nodes below the root."""
        return len(self._below) - 1

    def tokens(self, state: State, room: int) -> NDArray[np.int64]:
        assert isinstance(state, int)
        return self._tokens[state][self._needs[state] <= room]

    def after(self, state: State, token: int) -> State:
        assert isinstance(state, int)
        return self._below[state][token]

    def complete(self, state: State) -> bool:
        return state in self._ends

    def least(self, state: State) -> int:
        assert isinstance(state, int)
        return self._least[state]
