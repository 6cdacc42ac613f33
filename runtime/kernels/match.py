"""Doors: longest suffix match, its continuation, and trie lookup, for a whole batch of texts without an index.

Prefer them where texts lie on the device already, or change faster than an index pays; a `SuffixIndex` answers the
same for one text from a structure that grows with it. The scan reads every text once.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from reader_theory.errors import require
from runtime.kernels._door import Array, Sizes, empty_like_of, host, on_gpu

__all__ = ["Matches", "suffix_chain", "suffix_match", "trie_lookup"]


class Matches(NamedTuple):
    """The longest suffix of each text that occurred before.

    Attributes
    ----------
    length : (B,) int64
        Its tokens, at most `max_depth`; 0 for none.
    count : (B,) int64
        Earlier occurrences of it.
    position : (B,) int64
        Index of the token that followed the most recent one; -1 for none.
    """

    length: Any
    count: Any
    position: Any


def suffix_match(text: Array, lengths: Array, max_depth: int = 32) -> Matches:
    """Longest repeated suffix of each text.

    Parameters
    ----------
    text : (B, T) int32, >= 0
        Texts, anything where padded.
    lengths : (B,) int64, in [0, T]
        Tokens of each text.
    max_depth : int
        Longest context told apart.

    Raises
    ------
    InvalidInputError
        On a wrong shape or dtype, and on the CPU on lengths outside of [0, T].
    """
    sizes = _texts(text, lengths, max_depth)
    out = Matches(*(empty_like_of(text, (sizes["B"],)) for _ in range(3)))
    if on_gpu(text, lengths):
        from runtime.kernels.gpu import match as gpu

        gpu.suffix_match(text, lengths, max_depth, *out)
        return out
    from runtime.kernels.cpu import match as cpu

    _in_range("lengths", cpu.suffix_match(host(text), host(lengths), max_depth, *map(host, out)), sizes["T"])
    return out


def suffix_chain(text: Array, lengths: Array, max_tokens: int, max_depth: int = 32) -> tuple[Any, Any]:
    """Continuation of the most recent longest match; where it ends, text and chain are looked up anew.

    Parameters
    ----------
    text, lengths, max_depth
        As in `suffix_match`.
    max_tokens : int, >= 1
        Longest continuation.

    Returns
    -------
    tokens : (B, max_tokens) int32, -1 beyond `made`
    made : (B,) int64
    """
    sizes = _texts(text, lengths, max_depth)
    require(max_tokens >= 1, "`max_tokens` must be at least 1", got=max_tokens, fix="To draft nothing, do not ask.")
    tokens = empty_like_of(text, (sizes["B"], max_tokens), "int32")
    made = empty_like_of(text, (sizes["B"],))
    if on_gpu(text, lengths):
        from runtime.kernels.gpu import match as gpu

        gpu.suffix_chain(text, lengths, max_depth, tokens, made)
        return tokens, made
    from runtime.kernels.cpu import match as cpu

    _in_range("lengths", cpu.suffix_chain(host(text), host(lengths), max_depth, host(tokens), host(made)), sizes["T"])
    return tokens, made


def trie_lookup(tokens: Array, parents: Array, counts: Array, query: Array) -> Any:
    """Where a query leads in each row's trie, token by token.

    Parameters
    ----------
    tokens, parents : (B, N) int64
        Nodes: node 0 is the root, ``parents[b, i] < i``, siblings carry distinct tokens.
    counts : (B,) int64, in [0, N]
        Nodes of each row.
    query : (B, M) int64
        Tokens to follow from the root.

    Returns
    -------
    (B, M) int64
        Node after each token; -1 from the first token on that no child carries.
    """
    sizes = Sizes()
    sizes.take("tokens", tokens, ("B", "N"))
    sizes.take("parents", parents, ("B", "N"))
    sizes.take("counts", counts, ("B",))
    sizes.take("query", query, ("B", "M"))
    found = empty_like_of(tokens, (sizes["B"], sizes["M"]))
    if on_gpu(tokens, parents, counts, query):
        from runtime.kernels.gpu import match as gpu

        gpu.trie_lookup(tokens, parents, counts, query, found)
        return found
    from runtime.kernels.cpu import match as cpu

    _in_range("counts", cpu.trie_lookup(*map(host, (tokens, parents, counts, query, found))), sizes["N"])
    return found


def _texts(text: Array, lengths: Array, max_depth: int) -> Sizes:
    sizes = Sizes()
    sizes.take("text", text, ("B", "T"), ("int32",))
    sizes.take("lengths", lengths, ("B",))
    require(max_depth >= 1, "`max_depth` must be at least 1", got=max_depth, fix="32 tells apart what matters.")
    return sizes


def _in_range(name: str, row: int, most: int) -> None:
    require(row < 0, f"`{name}` must lie in [0, {most}]", got=f"another value at row {row}", fix="Cut to the padding.")
