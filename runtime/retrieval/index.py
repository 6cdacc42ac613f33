"""Retrieval drafting for one request: what followed this context before, in its own text or in past outputs.

Costs no forward of any model. The request's own text is a suffix index that grows with every token; an optional
datastore of past outputs is shared by all requests. Trees are grown best first by estimated path probability, and
every node looks its own context up anew. Sources only ever see what the prefix determines.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from reader_theory.errors import InvalidInputError, require
from reader_theory.trees import TokenTree, TokenTrees
from runtime.retrieval.bodies import evidence
from runtime.retrieval.bodies import growth as kernel
from runtime.retrieval.datastore import Datastore
from runtime.retrieval.suffix_index import MAX_DEPTH, SuffixIndex, record_positions

__all__ = [
    "Evidence",
    "GrowthArrays",
    "RetrievalIndex",
    "check_limits",
    "record_beside",
    "record_positions",
]


class GrowthArrays(NamedTuple):
    """Where a compiled body grows the trees of a batch, a row each; a row's first `sizes` nodes count.

    Not `TokenTrees`: the body writes in place after every forward of a draft, and knows no root. `trees` adds it.

    Attributes
    ----------
    tokens : (B, N) int32
    parents : (B, N) int32
        Column of the parent, which comes before its children; -1 hangs off the last token of the text.
    matches : (B, N) int32
        Tokens of context (text and path) that the longest occurrence behind a node shares with it.
    sources : (B, N) int32
        Who offered the token: 1 retrieval, 2 the draft, 3 both.
    laws : (B, N) int32
        Which of the row's laws is the node's own; -1 for none.
    chances : (B, N) float64
        Estimate that every token on the path is emitted, never larger than the parent's.
    sizes : (B,) int64
    """

    tokens: NDArray[np.int32]
    parents: NDArray[np.int32]
    matches: NDArray[np.int32]
    sources: NDArray[np.int32]
    laws: NDArray[np.int32]
    chances: NDArray[np.float64]
    sizes: NDArray[np.int64]

    def trees(self, roots: ArrayLike, names: tuple[str, str, str] = ("retrieval", "draft", "both")) -> TokenTrees:
        """The trees below the last token of each row, (B,) int; `names` are those of sources 1, 2 and 3."""
        most = int(self.sizes.max(initial=0))
        inside = np.arange(most) < self.sizes[:, None]
        tokens, parents, sources = (np.zeros((len(self.sizes), 1 + most), np.int64) for _ in range(3))
        tokens[:, 0] = roots
        parents[:, 0] = -1
        tokens[:, 1:] = np.where(inside, self.tokens[:, :most], 0)
        parents[:, 1:] = np.where(inside, self.parents[:, :most] + 1, -1)
        sources[:, 1:] = np.where(inside, self.sources[:, :most], 0)
        return TokenTrees(tokens, parents, 1 + self.sizes, sources, ("", *names))


@dataclass(frozen=True, slots=True)
class Evidence:
    """How much a match counts: odds of a single occurrence, by source and match length.

    p(token) = W(token) / (escape + sum W), where an occurrence adds its odds to the token that followed it, divided
    by the square root of the number of occurrences beside it.

    Attributes
    ----------
    odds : (4, 33) float64, >= 0
        Rows: own text, delta, datastore, copy model; columns: match length, 32 for longer ones.
    escape : float, > 0
        Weight of everything that retrieval does not offer.
    corrected : float, >= 0
        Where the copy model offers y and z came last time that it did: weight of z over that of y.
    inserted : float, >= 0
        The same by the token before: where z came last time that the copy model was wrong after it.
    replaced : float, >= 0
        Weight of one token further on in the copied text, while the copy model waits after a miss.
    """

    odds: NDArray[np.float64]
    escape: float = 1.0
    corrected: float = 0.25
    inserted: float = 0.25
    replaced: float = 0.4

    def __post_init__(self) -> None:
        odds = np.asarray(self.odds, np.float64)
        require(
            odds.shape == (4, 33) and bool(np.isfinite(odds).all()) and bool((odds >= 0).all()),
            "`odds` must be a (4, 33) table of finite weights >= 0",
            got=f"shape {odds.shape}, smallest {odds.min(initial=np.inf)}",
            fix="Start from `Evidence.smooth()` and replace rows.",
        )
        numbers = self._numbers
        require(
            self.escape > 0 and all(0 <= number < np.inf for number in numbers),
            "`escape` must be positive, and `corrected`, `inserted`, `replaced` must be >= 0",
            got=numbers,
            fix="The defaults are a good start.",
        )

    @classmethod
    def smooth(
        cls,
        own: tuple[float, float] = (0.41, 1.875),
        delta: tuple[float, float] = (0.165, 1.25),
        store: tuple[float, float] = (0.165, 1.25),
        copy: tuple[float, float] = (0.22, 1.35),
        **others: float,
    ) -> Evidence:
        """odds(source, m) = scale * m ** power, with (scale, power) by source; m + 1/2 for own text and copy model."""
        length = np.arange(33.0)
        rows = [scale * length**power for scale, power in (delta, store)]
        own_row, copy_row = (scale * (length + 0.5) ** power for scale, power in (own, copy))
        return cls(np.stack([own_row * (length > 0), *rows, copy_row]), **others)

    def parameters(self) -> NDArray[np.float64]:
        """(136,) float64: what the compiled body reads."""
        return np.concatenate([np.ravel(self.odds), self._numbers]).astype(np.float64)

    @property
    def _numbers(self) -> tuple[float, ...]:
        return self.escape, self.corrected, self.inserted, self.replaced


_DEFAULT = Evidence.smooth()
_NO_STORE = Datastore.build([])
_NO_LOCK = nullcontext()
"""Of requests without a datastore: nothing ever grows there."""


class RetrievalIndex:
    """Retrieval state of one request.

    Parameters
    ----------
    prompt : (P,) int32, >= 0
        Token ids of the prompt.
    datastore : Datastore, optional
        Past outputs, shared between requests.
    evidence : Evidence, optional
        A fitted calibration instead of the default.
    max_depth : int
        Longest context of the request's own text told apart, in tokens; longer matches count as this long.

    Attributes
    ----------
    addresses : (int, int)
        Of the request's header, and of what it shares with others, as the compiled bodies take them.
    lock : context manager
        To be held while a body reads them: the datastore's.
    """

    def __init__(
        self,
        prompt: ArrayLike,
        datastore: Datastore | None = None,
        *,
        evidence: Evidence | None = None,
        max_depth: int = MAX_DEPTH,
    ) -> None:
        self._index = SuffixIndex(prompt, max_depth=max_depth)
        self._store = store = datastore or _NO_STORE
        self._parameters = (evidence or _DEFAULT).parameters()
        addresses = (store.delta.address, store.header.ctypes.data, self._parameters.ctypes.data, 0)
        self._shared = np.array(addresses, np.int64)
        self.lock: AbstractContextManager[object] = store.lock if datastore else _NO_LOCK
        self.addresses = self._index.address, self._shared.ctypes.data
        with self.lock:
            kernel.locate(*self.addresses)

    def extend(self, tokens: ArrayLike) -> None:
        """Append emitted tokens, (n,) int32; raises InvalidInputError, and appends nothing, when one is no token id."""
        self._index.extend(tokens)

    @property
    def tokens(self) -> int:
        """Tokens of the request's text."""
        return len(self._index)

    @property
    def match_length(self) -> int:
        """Tokens of the longest suffix of the request's text that occurred in it before; 0 for none."""
        return self._index.match_length

    @property
    def match_count(self) -> int:
        """Earlier occurrences of that suffix."""
        return self._index.match_count

    def chain(self, max_tokens: int) -> NDArray[np.int32]:
        """Continuation of the most recent longest match in the own text, (n,) int32; looked up anew where it ends."""
        return self._index.chain(max_tokens)

    def likeliest(self, max_tokens: int) -> tuple[NDArray[np.int32], int]:
        """Likeliest chain over the own text and the datastore, (n,) int32, and the match that it is based on.

        A longer one begins with every shorter one, so that it may be cut.
        """
        grown = self.grow(max_tokens, single=True)
        return grown.tokens[0], int(grown.matches[0, 0]) if grown.sizes[0] else 0

    def offers(self, laws: int = 0, width: int = 0) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]:
        """All that is offered for the next token.

        Parameters
        ----------
        laws : int
            Address of laws of a neural draft (`NeuralLaws.addresses`), each of `width` tokens; 0 for none.

        Returns
        -------
        tokens : (n,) int64
        scores : (n,) float64
        sources : (n,) int64
            1 where retrieval alone offered it, 2 where the draft alone did, 3 where both did.
        """
        room = evidence.KINDS + width
        tokens, scores, sources = np.empty(room, np.int64), np.empty(room), np.empty(room, np.int64)
        with self.lock:
            found = kernel.offers(*self.addresses, laws, tokens, scores, sources)
        return tokens[:found], scores[:found], sources[:found]

    def tree(self, budget: int, price: float = 0.0) -> TokenTree:
        """Draft tree of at most `budget` nodes, each with a path probability above `price`.

        Its nodes are in the order in which they were grown; the root is the text's last token, -1 without a text.
        """
        last = self._index.text[-1:].tolist() or [-1]
        return self.grow(budget, price).trees(last)[0]

    def grow(self, budget: int, price: float = 0.0, *, single: bool = False) -> GrowthArrays:
        """The same as arrays of one row, with the path probabilities; `single` makes the likeliest chain of it."""
        check_limits(budget, price)
        own, shared = np.array([self.addresses], np.int64).T.copy()
        numbers, chances, made = np.empty((5, 1, budget), np.int32), np.empty((1, budget)), np.empty(1, np.int64)
        asked = np.zeros(1, np.int64), np.full(1, budget, np.int64), np.full(1, price, np.float64)
        with self.lock:
            kernel.grow_many(own, shared, *asked, single, numbers, chances, made, 0, 1)
        tokens, parents, matches, sources, laws = numbers[:, :, : made[0]]
        return GrowthArrays(tokens, parents, matches, sources, laws, chances[:, : made[0]], made)

    @property
    def nbytes(self) -> int:
        """Bytes held for this request (the datastore is shared and not counted)."""
        return self._index.nbytes


def record_beside(
    datastore: Datastore, prompt: ArrayLike, output: ArrayLike, max_tokens: int = 24
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]:
    """`record_positions` of chains over the own text and a datastore; occurrences are not counted, and 0."""
    ahead = np.asarray(output, np.int32)
    index = RetrievalIndex(prompt, datastore)
    found = np.zeros((4, len(ahead)), np.int32)
    for at in range(len(ahead)):
        chain, found[0, at] = index.likeliest(max_tokens)
        same = chain[: len(ahead) - at] == ahead[at : at + len(chain)]
        found[2:, at] = len(chain), len(same) if same.all() else int(np.argmin(same))
        index.extend(ahead[at : at + 1])
    match_length, match_count, offered, run = found
    return match_length, match_count, offered, run


def check_limits(budget: int, price: float) -> None:
    """Raise InvalidInputError unless a tree of `budget` nodes above `price` can be grown."""
    if not (budget >= 1 and price >= 0):
        raise InvalidInputError(
            "`budget` must be at least 1 and `price` >= 0",
            got=f"budget {budget}, price {price}",
            fix="To draft nothing, do not ask; the price is a path probability.",
        )
