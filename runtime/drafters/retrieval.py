"""Retrieval drafting for one request: what followed this context before, in its own text or in past outputs.

Costs no forward of any model. The request's own text is a suffix index that grows with every token; an optional
datastore of past outputs is shared by all requests.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from runtime.drafters.suffix_index import MAX_DEPTH, SuffixIndex, record_positions

__all__ = ["RetrievalIndex", "record_positions"]


class RetrievalIndex:
    """Retrieval state of one request.

    Parameters
    ----------
    prompt : (P,) int32, >= 0
        Token ids of the prompt.
    max_depth : int
        Longest context told apart, in tokens; longer matches count as this long.
    """

    def __init__(self, prompt: ArrayLike, *, max_depth: int = MAX_DEPTH) -> None:
        self._index = SuffixIndex(prompt, max_depth=max_depth)

    def extend(self, tokens: ArrayLike) -> None:
        """Append emitted tokens, (n,) int32; raises InvalidInputError, and appends nothing, when one is no token id."""
        self._index.extend(tokens)

    @property
    def match_length(self) -> int:
        """Tokens of the longest suffix of the request's text that occurred in it before; 0 for none."""
        return self._index.match_length

    @property
    def match_count(self) -> int:
        """Earlier occurrences of that suffix."""
        return self._index.match_count

    def chain(self, max_tokens: int) -> NDArray[np.int32]:
        """Continuation of the most recent longest match, (n,) int32, n <= `max_tokens`; looked up anew where it ends."""
        return self._index.chain(max_tokens)

    @property
    def nbytes(self) -> int:
        """Bytes held for this request (the datastore is shared and not counted)."""
        return self._index.nbytes
