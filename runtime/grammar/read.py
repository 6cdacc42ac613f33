"""Read a language from a file: what may be written, in the tokens of a model's tokenizer.

A text file has one choice a line. A JSON file is a list of texts, a JSON schema, or an object with exactly one of
``strings``, ``regex``, ``schema``, ``tokens``, ``automaton`` and ``dyck``, and ``tokenisations`` beside it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from reader_theory.documents.base import Frozen
from reader_theory.errors import DocumentError, InvalidInputError, require
from reader_theory.grammar import Automaton, Dyck, Language, Trie
from runtime.grammar.matched import Matched, grammar_of, listed_texts
from runtime.grammar.spelling import Tokenisations, spelled
from runtime.importers.rows import read_text
from runtime.models.vocabulary import fingerprint_of

__all__ = ["LanguageSpec", "language_of", "read_language"]

Token = int | str
"""A token id, or a text that is one token."""


class AutomatonSpec(Frozen):
    """A deterministic automaton."""

    start: int
    accepting: tuple[int, ...]
    moves: tuple[tuple[int, Token, int], ...] = Field(description="(state, token, state)")


class DyckSpec(Frozen):
    """Brackets that match."""

    pairs: tuple[tuple[Token, Token], ...]
    length: int = Field(description="tokens of a string")


class LanguageSpec(Frozen):
    """A language as a file states it."""

    strings: tuple[str, ...] | None = None
    regex: str | None = None
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")
    tokens: tuple[tuple[int, ...], ...] | None = None
    automaton: AutomatonSpec | None = None
    dyck: DyckSpec | None = None
    tokenisations: Literal["canonical", "all"] | None = Field(
        default=None, description="spellings of a text that are strings; canonical when left out"
    )

    @model_validator(mode="after")
    def _one_kind(self) -> LanguageSpec:
        kinds = [name for name in KINDS if getattr(self, name) is not None]
        if len(kinds) != 1:
            raise ValueError(f"exactly one of strings, regex, schema, tokens, automaton, dyck; got {kinds}")
        return self


KINDS = ("strings", "regex", "schema_", "tokens", "automaton", "dyck")


def read_language(path: str | Path, tokenizer: Any, tokenisations: Tokenisations | None = None) -> Language:
    """The language of a file.

    Parameters
    ----------
    path : str or Path
    tokenizer : transformers tokenizer
    tokenisations : {"canonical", "all"}, optional
        What the file says when left out.

    Raises
    ------
    InvalidInputError
        When there is no such file, or it states no language.
    """
    path = Path(path)
    require(
        path.is_file(),
        "the file of a language must exist",
        got=f"`{path}`",
        fix="Pass a .txt or .json file.",
        error=DocumentError,
    )
    spec = _spec(path)
    return language_of(
        spec if tokenisations is None else spec.model_copy(update={"tokenisations": tokenisations}), tokenizer
    )


def _spec(path: Path) -> LanguageSpec:
    text = read_text(path)
    try:
        if ".json" not in path.suffixes:
            return LanguageSpec(strings=tuple(line for line in text.splitlines() if line))
        told = json.loads(text)
        json.dumps(told, ensure_ascii=False, allow_nan=False).encode()  # half a character, or no number: a ValueError
        if isinstance(told, list):
            return LanguageSpec(strings=tuple(told))
        known = {field.alias or name for name, field in LanguageSpec.model_fields.items()}
        return LanguageSpec.model_validate(told if set(told) & known else {"schema": told})
    except (ValueError, TypeError, RecursionError) as error:  # pydantic's error is a ValueError
        raise DocumentError(
            "the file of a language must hold lines of text, a JSON schema, or one of strings, regex, schema, tokens, "
            "automaton and dyck",
            got=f"`{path}`: {str(error).splitlines()[-1][:200]}",
            fix='For example {"regex": "yes|no"}.',
        ) from None


def language_of(spec: LanguageSpec, tokenizer: Any) -> Language:
    """The language that a spec states."""
    if spec.tokens is not None:
        return Trie(spec.tokens)
    if spec.automaton is not None or spec.dyck is not None:
        return _of_tokens(spec, tokenizer).tokenized_by(fingerprint_of(tokenizer))
    if spec.strings is not None:
        return spelled((text.encode() for text in spec.strings), tokenizer, spec.tokenisations or "canonical")
    grammar = grammar_of("regex", spec.regex) if spec.regex is not None else grammar_of("schema", spec.schema_)
    texts = listed_texts(grammar)
    if texts is not None:
        return spelled(texts, tokenizer, spec.tokenisations or "canonical")
    require(
        spec.tokenisations == "all",
        "a language of very many texts must be one over all their spellings",
        got=f"{spec.tokenisations or 'no'} tokenisations, of texts that cannot be listed",
        fix='Say {"tokenisations": "all"}, or bound the schema or expression.',
    )
    return Matched(grammar, tokenizer)


def _of_tokens(spec: LanguageSpec, tokenizer: Any) -> Language:
    if spec.dyck is not None:
        pairs = [(_token(left, tokenizer), _token(right, tokenizer)) for left, right in spec.dyck.pairs]
        return Dyck(pairs, spec.dyck.length)
    assert spec.automaton is not None
    moves: dict[int, dict[int, int]] = {}
    for state, token, to in spec.automaton.moves:
        number = _token(token, tokenizer)
        found = moves.setdefault(state, {})
        require(
            found.setdefault(number, to) == to,
            "an automaton must be deterministic",
            got=f"two moves from state {state} by token {token!r}",
            fix="Merge the states that they lead to.",
        )
    return Automaton(moves, spec.automaton.start, spec.automaton.accepting)


def _token(told: Token, tokenizer: Any) -> int:
    if isinstance(told, int):
        return told
    tokens = list(tokenizer(told, add_special_tokens=False)["input_ids"])
    if len(tokens) != 1:
        raise InvalidInputError(
            "a token that is given as a text must be one token",
            got=f"{told!r}, which is {len(tokens)}",
            fix="Give token ids, or several moves.",
        )
    return int(tokens[0])
