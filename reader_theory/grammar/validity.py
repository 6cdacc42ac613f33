"""How far ahead a grammar looks: not at all (`mask`), k tokens (`lookahead:k`), or to the end of the text (`exact`)."""

from __future__ import annotations

from dataclasses import dataclass

from reader_theory.errors import InvalidInputError

__all__ = ["Validity"]


@dataclass(frozen=True)
class Validity:
    """What a text in a language is drawn from.

    Parameters
    ----------
    ahead : int, >= 0, or None
        Tokens beyond the next one whose loss of mass is counted in; None for all of them.

    Examples
    --------
    >>> Validity.of("lookahead:2"), Validity.of("exact").faithful, Validity.of("mask").law
    (Validity(ahead=2), True, 'grammar_projected (mask)')
    """

    ahead: int | None

    @classmethod
    def of(cls, text: str) -> Validity:
        """Read ``exact``, ``lookahead:k`` or ``mask``.

        Raises
        ------
        InvalidInputError
        """
        kind, colon, depth = str(text).partition(":")
        if kind == "exact" and not colon:
            return cls(None)
        if kind == "mask" and not colon:
            return cls(0)
        if kind == "lookahead" and depth.isdecimal() and int(depth) >= 1:
            return cls(int(depth))
        raise InvalidInputError(
            "`validity` must be exact, lookahead:k with k >= 1, or mask",
            got=repr(text),
            fix="exact samples the model's law given the language; mask is what most engines do, and another law.",
        )

    @property
    def faithful(self) -> bool:
        """Whether the text has the model's law given that it lies in the language."""
        return self.ahead is None

    @property
    def law(self) -> str:
        """The name of what is sampled, as records and completions say it."""
        if self.ahead is None:
            return "grammar_faithful (exact)"
        return "grammar_projected (mask)" if not self.ahead else f"grammar_lookahead ({self.ahead})"

    def __str__(self) -> str:
        return "exact" if self.ahead is None else f"lookahead:{self.ahead}" if self.ahead else "mask"
