"""What a language is: a set of token sequences, seen as states, the tokens after each, and where a string may end.

A language is one of token sequences, not of texts: a text that a tokenizer can write in several ways is as many strings
of it, or one, as whoever makes the language says.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from reader_theory.errors import InvalidInputError, require

__all__ = ["Language", "NotALanguageError", "State", "check_tokens"]

State = Hashable
"""Where a prefix stands; equal states have the same continuations."""


class NotALanguageError(InvalidInputError):
    """A language has no string, no end, or tokens that are none."""


class Language(ABC):
    """A set of token sequences.

    Attributes
    ----------
    name : str
        Of the kind.
    start : State
        Of the empty prefix.
    alphabet : frozenset of int
        Tokens that stand in some string; none where they are known to be no end tokens.
    tokenizer : str
        Fingerprint of the tokenizer that numbered its tokens; empty where it was made of token ids.
    vocabulary : int
        Its token ids are below this.
    bounded : bool
        Whether `tokens` heeds its `room`; where not, a text may run out of room before it ends.
    """

    name: ClassVar[str]
    start: State
    alphabet: frozenset[int] = frozenset()
    tokenizer: str = ""
    vocabulary: int = 0
    bounded: bool = True

    @abstractmethod
    def tokens(self, state: State, room: int) -> NDArray[np.int64]:
        """(n,) int64, ascending: tokens after which a string can still end within `room`, themselves counted."""

    @abstractmethod
    def after(self, state: State, token: int) -> State:
        """The state after one of the tokens of `state`."""

    @abstractmethod
    def complete(self, state: State) -> bool:
        """Whether a string ends here."""

    @abstractmethod
    def least(self, state: State) -> int:
        """Fewest further tokens after which a string ends; 0 where one does."""

    @property
    def prefix_free(self) -> bool:
        """Whether no string begins another: it then says by itself where a text ends."""
        seen, waiting = {self.start}, [self.start]
        while waiting:
            state = waiting.pop()
            after = {self.after(state, token) for token in self.tokens(state, 1 << 30).tolist()}
            if after and self.complete(state):
                return False
            waiting += after - seen
            seen |= after
        return True

    def tokenized_by(self, fingerprint: str) -> Language:
        """The same language, whose tokens are numbered by the tokenizer of this fingerprint."""
        self.tokenizer = fingerprint
        return self


def check_tokens(tokens: Sequence[Any] | NDArray[Any], where: str) -> list[int]:
    """Token ids as ints, refused unless they are whole numbers from 0 up."""
    whole = all(isinstance(token, int | np.integer) and not isinstance(token, bool) and token >= 0 for token in tokens)
    require(
        whole,
        "a language must be made of token ids, whole numbers from 0 up",
        got=f"{list(tokens)[:8]} in {where}",
        fix="Encode texts with the model's tokenizer first.",
        error=NotALanguageError,
    )
    return [int(token) for token in tokens]
