"""Finite automaton: states, and moves between them by tokens. Prefer it where strings are many or without bound."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reader_theory.errors import require
from reader_theory.grammar.language import Language, NotALanguageError, State, check_tokens

__all__ = ["Automaton"]


class Automaton(Language):
    """Token sequences along which a deterministic automaton goes from its start to an accepting state.

    States that no string visits are left out.

    Parameters
    ----------
    moves : mapping from state to mapping from token to state
        One state a token: it is deterministic.
    start : state
    accepting : collection of states

    Raises
    ------
    NotALanguageError
        When no accepting state can be reached: no string ever ends.

    Examples
    --------
    >>> pairs = Automaton({"even": {7: "odd"}, "odd": {7: "even"}}, start="even", accepting={"even"})
    >>> pairs.tokens("odd", room=1).tolist(), pairs.tokens("even", room=1).tolist(), pairs.least("odd")
    ([7], [], 1)
    """

    name = "automaton"

    def __init__(self, moves: Mapping[Any, Mapping[int, Any]], start: State, accepting: Collection[Hashable]) -> None:
        self.start, self._accepting = start, frozenset(accepting)
        reached = _reached(moves, start)
        self._least = _distances(moves, reached, self._accepting)
        require(
            start in self._least,
            "a language must have a string that ends",
            got=f"{len(reached)} states from {start!r}, and none of them accepts",
            fix="Name an accepting state that the start leads to.",
            error=NotALanguageError,
        )
        self._moves = {
            state: dict(sorted((token, to) for token, to in moves.get(state, {}).items() if to in self._least))
            for state in self._least
        }
        for state, found in self._moves.items():
            check_tokens(list(found), f"moves of state {state!r}")
        self._tokens = {state: np.array(list(found), dtype=np.int64) for state, found in self._moves.items()}
        self._needs = {
            state: np.array([1 + self._least[to] for to in found.values()], dtype=np.int64)
            for state, found in self._moves.items()
        }
        self.alphabet = frozenset(token for found in self._moves.values() for token in found)
        self.vocabulary = 1 + max((int(found[-1]) for found in self._tokens.values() if len(found)), default=-1)

    def tokens(self, state: State, room: int) -> NDArray[np.int64]:
        return self._tokens[state][self._needs[state] <= room]

    def after(self, state: State, token: int) -> State:
        return self._moves[state][token]

    def complete(self, state: State) -> bool:
        return state in self._accepting

    def least(self, state: State) -> int:
        return self._least[state]


def _reached(moves: Mapping[Any, Mapping[int, Any]], start: State) -> list[State]:
    seen, order = {start}, [start]
    for state in order:
        for to in moves.get(state, {}).values():
            if to not in seen:
                seen.add(to)
                order.append(to)
    return order


def _distances(
    moves: Mapping[Any, Mapping[int, Any]], reached: list[State], accepting: frozenset[Hashable]
) -> dict[State, int]:
    """Fewest tokens from each state to an accepting one, by breadth-first search backwards; dead states have none."""
    before: dict[State, list[State]] = {}
    for state in reached:
        for to in moves.get(state, {}).values():
            before.setdefault(to, []).append(state)
    found = {state: 0 for state in reached if state in accepting}
    order = list(found)
    for state in order:
        for above in before.get(state, []):
            if above not in found:
                found[above] = found[state] + 1
                order.append(above)
    return found
