"""Chains that look-ups offer the rows of a batch under a `Chain` policy: one compiled call for all rows.

For whoever has an index of each row's text: our engine's retrieval drafter, and proposers inside other engines. Needs
no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from reader_theory.documents.policy import Chain
from runtime.retrieval.bodies import rows as kernel
from runtime.retrieval.bodies import scan
from runtime.retrieval.followed import Texts
from runtime.retrieval.growing import growing
from runtime.retrieval.index import RetrievalIndex
from runtime.retrieval.suffix_index import MAX_DEPTH

__all__ = ["NO_LIMIT", "below", "chains_of_texts", "offered_chains"]

NO_LIMIT = 1 << 31

Ints = NDArray[np.int64]


def offered_chains(
    indices: Sequence[RetrievalIndex], policy: Chain, most: Ints, *, beside: bool, limit: int = NO_LIMIT
) -> tuple[list[NDArray[np.int32]], Ints]:
    """What a `Chain` policy offers each row, and the match that it is based on.

    Parameters
    ----------
    indices : sequence of B RetrievalIndex
        Over the rows' texts; of the default depth.
    most : (B,) int64
        Tokens that a row has room for; none are offered where it is 0 or less.
    beside : bool
        The likeliest chains over text and datastore; else the continuations of the text's own latest longest match.
    limit : int
        A chain ends before the first token that is not below it.

    Returns
    -------
    chains : list of B (n,) int32
    matches : (B,) int64
        Match lengths, before any cap.
    """
    if not indices:
        return [], np.zeros(0, np.int64)
    if beside:
        return _likeliest(indices, policy, most, limit)
    own = np.array([index.addresses[0] for index in indices], np.int64)
    out, made, matches = _of_indices(own, policy, most, limit)
    return [row[MAX_DEPTH : MAX_DEPTH + n] for row, n in zip(out, made.tolist(), strict=True)], matches


def chains_of_texts(
    texts: Texts, addresses: Ints, policy: Chain, most: Ints, *, limit: int, scanned: int
) -> list[list[int]]:
    """What a `Chain` policy of the texts alone offers each row, as lists; arguments as of `offered_chains`.

    Parameters
    ----------
    texts : Texts
        Of B rows.
    addresses : (B,) int64
        Of the headers of indices that have read the texts of more than `scanned` tokens; 0 for the others.
    scanned : int
        Texts of up to so many tokens are searched whole.
    """
    out, made, _ = _of_indices(addresses, policy, most, limit)
    if scanned:
        caps = _caps(policy)  # pyright: ignore[reportArgumentType]
        scan.scan_many(texts.addresses, texts.lengths, scanned, caps, most, limit, MAX_DEPTH, out, made)
    found = out[:, MAX_DEPTH : MAX_DEPTH + int(made.max(initial=0))].tolist()
    for chain, length in zip(found, made.tolist(), strict=True):
        del chain[length:]
    return found


def _of_indices(addresses: Ints, policy: Chain, most: Ints, limit: int) -> tuple[NDArray[np.int32], Ints, Ints]:
    out = np.empty((len(addresses), MAX_DEPTH + policy.max_tokens), np.int32)
    made, matches = np.empty((2, len(addresses)), np.int64)
    caps = _caps(policy)  # pyright: ignore[reportArgumentType]
    kernel.chain_many(addresses, caps, most, limit, out, matches, made, np.empty(MAX_DEPTH + 1, np.int64))
    return out, made, matches


def below(tokens: NDArray[np.int32], sizes: Ints, limit: int) -> Ints:
    """(B,) how many of the first `sizes` (B,) of each row's (B, N) tokens come before one that is not below `limit`."""
    strange = (tokens >= limit) & (np.arange(tokens.shape[1]) < sizes[:, None])
    return np.where(strange.any(axis=1), strange.argmax(axis=1), sizes)


def _likeliest(
    indices: Sequence[RetrievalIndex], policy: Chain, most: Ints, limit: int
) -> tuple[list[NDArray[np.int32]], Ints]:
    grown = growing(indices, policy.max_tokens, single=True)()
    matches = np.where(grown.sizes > 0, grown.matches[:, 0], 0).astype(np.int64)
    caps = _caps(policy)  # pyright: ignore[reportArgumentType]
    sizes = np.minimum(np.minimum(caps[np.minimum(matches, len(caps) - 1)], grown.sizes), np.maximum(most, 0))
    kept = below(grown.tokens, sizes, limit).tolist()
    return [row[:n] for row, n in zip(grown.tokens, kept, strict=True)], matches


@lru_cache(maxsize=64)
def _caps(policy: Chain) -> Ints:
    """Longest chain by match length."""
    caps = np.array([policy.cap(match) for match in range(MAX_DEPTH + 1)], np.int64)
    caps.flags.writeable = False
    return caps
