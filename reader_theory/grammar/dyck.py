"""Dyck language: brackets that match, of one length. The smallest language that a window of tokens does not decide."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
from numpy.typing import NDArray

from reader_theory.errors import require
from reader_theory.grammar.language import Language, NotALanguageError, State, check_tokens

__all__ = ["Dyck"]


class Dyck(Language):
    """Strings of `length` tokens in which every opening token is closed by its own, the last opened first.

    Parameters
    ----------
    pairs : sequence of (int, int)
        Opening and closing token of each kind.
    length : int, even, >= 2

    Examples
    --------
    >>> brackets = Dyck([(0, 1)], length=4)
    >>> opened = brackets.after(brackets.start, 0)
    >>> brackets.tokens(opened, room=9).tolist(), brackets.tokens(brackets.after(opened, 0), room=9).tolist()
    ([0, 1], [1])
    """

    name = "dyck"

    def __init__(self, pairs: Sequence[tuple[int, int]], length: int) -> None:
        each = [token for pair in pairs for token in check_tokens(pair, "pairs")]
        require(
            bool(each) and len(each) == 2 * len(pairs) == len(set(each)),
            "`pairs` must hold an opening and a closing token a kind, all different",
            got=list(pairs),
            fix="Give every bracket its own token.",
            error=NotALanguageError,
        )
        require(
            length >= 2 and length % 2 == 0,
            "`length` must be even, and at least 2",
            got=length,
            fix="Every opening token needs a closing one.",
            error=NotALanguageError,
        )
        self.pairs, self.length = {int(left): int(right) for left, right in pairs}, length
        self.start: State = (0, ())
        self.alphabet = frozenset(each)
        self.vocabulary = 1 + max(each)

    def tokens(self, state: State, room: int) -> NDArray[np.int64]:
        place, stack = _parts(state)
        left = self.length - place
        if left > room or left == 0:
            return np.zeros(0, dtype=np.int64)
        opening = list(self.pairs) if len(stack) + 2 <= left else []
        return np.array(sorted([*opening, *stack[-1:]]), dtype=np.int64)

    def after(self, state: State, token: int) -> State:
        place, stack = _parts(state)
        if token in self.pairs:
            return place + 1, (*stack, self.pairs[token])
        return place + 1, stack[:-1]

    @property
    def prefix_free(self) -> bool:
        return True

    def complete(self, state: State) -> bool:
        return _parts(state)[0] == self.length

    def least(self, state: State) -> int:
        return self.length - _parts(state)[0]


def _parts(state: State) -> tuple[int, tuple[int, ...]]:
    """Tokens so far, and the closing tokens that are owed, the last one first to come."""
    place, stack = cast(tuple[int, tuple[int, ...]], state)
    return place, stack
