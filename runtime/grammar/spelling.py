"""From texts to the token sequences that spell them: the tokenizer's own spelling of each, or every one there is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

from reader_theory.errors import require
from reader_theory.grammar import Automaton, Language, NotALanguageError, Trie
from runtime.models.vocabulary import fingerprint_of

__all__ = ["Tokenisations", "matcher_tokenizer", "spelled"]

Tokenisations = Literal["canonical", "all"]


def spelled(texts: Iterable[bytes], tokenizer: Any, tokenisations: Tokenisations = "canonical") -> Language:
    """The language of some texts.

    Parameters
    ----------
    texts : iterable of bytes, UTF-8
    tokenizer : transformers tokenizer
    tokenisations : {"canonical", "all"}
        Whether a text is one string, as the tokenizer writes it, or as many as tokens can spell it.

    Raises
    ------
    NotALanguageError
        When there is no text, or the tokenizer cannot write one of them.
    """
    chosen = sorted(set(texts))
    require(
        bool(chosen),
        "a language must hold at least one text",
        got="none",
        fix="Name the texts that may be written.",
        error=NotALanguageError,
    )
    language = _canonical(chosen, tokenizer) if tokenisations == "canonical" else _all(chosen, tokenizer)
    return language.tokenized_by(fingerprint_of(tokenizer))


def _canonical(texts: Sequence[bytes], tokenizer: Any) -> Language:
    strings: list[list[int]] = []
    for text in texts:
        told = text.decode()
        tokens = list(tokenizer(told, add_special_tokens=False)["input_ids"])
        back = tokenizer.decode(tokens, clean_up_tokenization_spaces=False)
        require(
            back == told,
            "each text of a language must come back from its tokens",
            got=f"{told!r}, which comes back as {back!r}",
            fix="Write it as the tokenizer does, with its spaces; or give token ids.",
            error=NotALanguageError,
        )
        strings.append(tokens)
    return Trie(strings)


def _all(texts: Sequence[bytes], tokenizer: Any) -> Language:
    """Every spelling: an automaton over the trie of the texts' bytes, whose moves are tokens."""
    below: list[dict[int, int]] = [{}]
    ends: set[int] = set()
    for text in texts:
        node = 0
        for byte in text:
            node = below[node].setdefault(byte, len(below))
            if node == len(below):
                below.append({})
        ends.add(node)
    known = _tokens_by_bytes(tokenizer)
    longest = max(map(len, known))
    moves = {node: _moves(node, below, known, longest) for node in range(len(below))}
    return Automaton(moves, 0, ends)


def _moves(node: int, below: list[dict[int, int]], known: dict[bytes, list[int]], longest: int) -> dict[int, int]:
    """Where each token leads that spells a way down the trie from a node."""
    found: dict[int, int] = {}
    waiting = [(node, b"")]
    while waiting:
        at, spelt = waiting.pop()
        found |= dict.fromkeys(known.get(spelt, ()), at)
        if len(spelt) < longest:
            waiting += [(to, spelt + bytes([byte])) for byte, to in below[at].items()]
    return found


def _tokens_by_bytes(tokenizer: Any) -> dict[bytes, list[int]]:
    """Ordinary tokens by the bytes that they stand for."""
    reader = matcher_tokenizer(tokenizer)
    found: dict[bytes, list[int]] = {}
    for token in range(reader.vocab_size):
        if not reader.is_special_token(token) and (spelt := reader.decode_bytes([token])):
            found.setdefault(spelt, []).append(token)
    return found


def matcher_tokenizer(tokenizer: Any) -> Any:
    """A transformers tokenizer as llguidance takes it."""
    from llguidance.hf import from_tokenizer

    return from_tokenizer(tokenizer)
