"""Regular expressions and JSON schemas, through llguidance: its matcher says which tokens, or bytes, may come next.

A language of few texts is listed, byte by byte, and is then an ordinary finite one. Any other is known by its matcher
alone: it can be masked and looked ahead in, not listed.
"""

from __future__ import annotations

from collections import OrderedDict
from functools import cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from reader_theory.errors import InvalidInputError, require
from reader_theory.grammar import Language, NotALanguageError
from reader_theory.grammar.language import State
from runtime.grammar.spelling import matcher_tokenizer
from runtime.models.vocabulary import fingerprint_of

__all__ = ["Matched", "grammar_of", "listed_texts"]

TEXTS, BYTES = 4096, 1 << 16
"""Texts, and bytes of their trie, up to which a language is listed."""
HELD = 512
"""Matchers that a language keeps, each at a prefix."""


def grammar_of(kind: Literal["regex", "schema"], source: Any) -> str:
    """A grammar as llguidance reads it, of a regular expression or a JSON schema; JSON is written without spaces.

    Raises
    ------
    InvalidInputError
        When the library refuses it, with what it says.
    """
    from llguidance import LLMatcher

    try:
        if kind == "regex":
            grammar = LLMatcher.grammar_from_regex(str(source))
        else:
            grammar = LLMatcher.grammar_from_json_schema(source, overrides={"whitespace_flexible": False})
    except ValueError as error:
        raise _refused(kind, str(error)) from None
    fault = LLMatcher.validate_grammar(grammar)
    if fault and not fault.startswith("WARNING"):
        raise _refused(kind, fault)
    return grammar


def _refused(kind: str, said: str) -> InvalidInputError:
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return InvalidInputError(
        f"the {kind} of a language must be one that llguidance takes",
        got=" / ".join(lines)[:300],
        fix="Write it without what is named there: look-around and back-references, unknown types or keywords.",
    )


@cache
def _bytes_tokenizer() -> Any:
    from llguidance import LLTokenizer

    return LLTokenizer("byte")


def listed_texts(grammar: str) -> list[bytes] | None:
    """Every text of a grammar; None where they are more, or longer, than can be listed.

    Raises
    ------
    NotALanguageError
        When it has none.
    """
    from llguidance import LLMatcher

    reader = _bytes_tokenizer()
    texts: list[bytes] = []
    waiting: list[tuple[Any, bytes, int | None]] = [(LLMatcher(reader, grammar, log_level=0), b"", None)]
    walked = 0
    while waiting:
        matcher, text, byte = waiting.pop()
        if byte is not None:  # a matcher is copied when its turn comes: most of those that wait never have one
            matcher = matcher.deep_copy()
            matcher.consume_token(byte)
            text += bytes([byte])
        if matcher.is_accepting():
            texts.append(text)
        waiting += ((matcher, text, int(byte)) for byte in ([] if matcher.is_stopped() else _allowed(matcher, reader)))
        walked += 1
        if walked > BYTES or len(texts) > TEXTS:
            return _unless_endless(texts, walked)
    require(
        bool(texts),
        "a language must hold at least one text",
        got="a grammar that no text fulfils",
        fix="Look for an enum without members, or demands that contradict each other.",
        error=NotALanguageError,
    )
    return texts


def _unless_endless(texts: list[bytes], walked: int) -> None:
    require(
        bool(texts),
        "a grammar must have a text that ends",
        got=f"none among its first {walked} prefixes",
        fix="Give its recursion a way out.",
        error=NotALanguageError,
    )


def _allowed(matcher: Any, reader: Any) -> NDArray[np.int64]:
    """Tokens that a matcher allows, its end token and special ones left out."""
    bits = np.unpackbits(np.frombuffer(matcher.compute_bitmask(), np.uint8), bitorder="little")
    found = np.flatnonzero(bits[: reader.vocab_size]).astype(np.int64)
    return found[[not reader.is_special_token(int(token)) for token in found]] if len(found) else found


class Matched(Language):
    """A language that a matcher of llguidance knows, over every spelling of its texts.

    Its states are prefixes; `tokens` does not heed its room, and `least` is a lower bound.

    Parameters
    ----------
    grammar : str
        From `grammar_of`.
    tokenizer : transformers tokenizer
    """

    name = "matched"
    bounded = False

    def __init__(self, grammar: str, tokenizer: Any) -> None:
        from llguidance import LLMatcher

        self._reader = matcher_tokenizer(tokenizer)
        special = [token for token in range(self._reader.vocab_size) if self._reader.is_special_token(token)]
        self._ordinary = np.ones(self._reader.vocab_size, dtype=np.bool_)
        self._ordinary[special] = False
        self.start: State = ()
        self.vocabulary = int(np.flatnonzero(self._ordinary)[-1]) + 1
        self.tokenized_by(fingerprint_of(tokenizer))
        self._fresh = LLMatcher(self._reader, grammar, log_level=0)
        self._held: OrderedDict[State, Any] = OrderedDict()
        self._masks: dict[State, NDArray[np.int64]] = {}

    @property
    def prefix_free(self) -> bool:
        return False

    def _matcher(self, state: State) -> Any:
        assert isinstance(state, tuple)
        found = self._held.pop(state, None)
        if found is None:
            near = self._held.get(state[:-1]) if state else None
            found = (near or self._fresh).deep_copy()
            found.consume_tokens(list(state[-1:] if near is not None else state))
        self._held[state] = found
        if len(self._held) > HELD:
            self._held.popitem(last=False)
        return found

    def tokens(self, state: State, room: int) -> NDArray[np.int64]:
        known = self._masks.get(state)
        if known is None:
            matcher = self._matcher(state)
            known = np.zeros(0, dtype=np.int64)
            if not matcher.is_stopped():
                bits = np.unpackbits(np.frombuffer(matcher.compute_bitmask(), np.uint8), bitorder="little")
                known = np.flatnonzero(bits[: len(self._ordinary)].astype(np.bool_) & self._ordinary)
            self._masks[state] = known
        return known if room > 0 else known[:0]

    def after(self, state: State, token: int) -> State:
        assert isinstance(state, tuple)
        return (*state, token)

    def complete(self, state: State) -> bool:
        return bool(self._matcher(state).is_accepting())

    def least(self, state: State) -> int:
        return 0 if self.complete(state) else 1
