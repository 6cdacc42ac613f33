"""What was drafted and how: tokens, tree, scheme and law, so that a verifier can refuse what it cannot verify."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from reader_theory.errors import InvalidInputError, require
from reader_theory.rules.laws import as_laws, without_token
from reader_theory.rules.pick import pick_token
from reader_theory.trees import TokenTree

__all__ = ["DRAWN", "SCHEMES", "DraftLaw", "Scheme"]

Scheme = Literal["deterministic", "chain", "iid", "without_replacement", "coupled"]
SCHEMES: tuple[Scheme, ...] = ("deterministic", "chain", "iid", "without_replacement", "coupled")
"""Every way to draft."""
DRAWN: frozenset[Scheme] = frozenset({"chain", "iid", "without_replacement"})
"""Those that draw tokens from a law that must be declared."""
_DRAW_SLACK = 1e-9


@dataclass(frozen=True, eq=False)
class DraftLaw:
    """A draft of N tokens with the law that it was drawn from.

    Parameters
    ----------
    tree : TokenTree of N drafted nodes, tokens known
        Siblings stand in the order in which they were drawn; the root's token is not read.
    scheme : {"deterministic", "chain", "iid", "without_replacement", "coupled"}
        ``deterministic``: the tree is a function of the prefix (top-k, retrieval, any merge of both). ``chain``: one
        draw at each node. ``iid``: siblings drawn independently, repeats kept. ``without_replacement``: each drawn
        from the law without its elder siblings, renormalised. ``coupled``: winners of a race whose noise the target
        shares.
    law : (R, V) float64, or object array of fractions; None for ``deterministic`` (and optional for ``coupled``)
        Law q at each node that has children, in the order of the nodes, the root first: after temperature and filters,
        that is, the law that was really sampled.
    drawn_with : (N + 1,) in [0, 1), optional
        The drafting uniforms, one a node, the root's not read; when given, every draw is done again and must give the
        same token.

    Raises
    ------
    InvalidInputError
        When the scheme is unknown, tokens are missing, or the law is missing or of the wrong shape.

    Examples
    --------
    >>> draft = DraftLaw(TokenTree(parents=[-1, 0, 1], tokens=[4, 7, 3]), scheme="deterministic")
    >>> draft.tree.nodes, draft.tokens[draft.tree.children(1)].tolist()
    (2, [3])
    """

    tree: TokenTree
    scheme: Scheme
    law: NDArray[Any] | None = None
    drawn_with: NDArray[Any] | None = None

    def __post_init__(self) -> None:
        if self.law is not None and self.tree.nodes:
            object.__setattr__(self, "law", as_laws(self.law, "law"))
        require(
            self.tree.tokens is not None and (self.drawn_with is None or len(self.drawn_with) == len(self.tree)),
            "a draft must have a token a node, and `drawn_with` one number a node, if any",
            got=f"{len(self.tree)} nodes",
            fix="Cut padding before verifying: each request carries its own number of nodes.",
        )
        _check_scheme(self)

    @property
    def tokens(self) -> NDArray[np.int64]:
        """(N + 1,) int64: token of each node."""
        assert self.tree.tokens is not None
        return self.tree.tokens

    @cached_property
    def _rows(self) -> dict[int, int]:
        return {parent: row for row, parent in enumerate(self.tree.inner)}

    def law_at(self, node: int = 0) -> NDArray[Any]:
        """(V,) law that the children of `node` were drawn from."""
        assert self.law is not None
        return self.law[self._rows[node]]

    def check(self, vocabulary: int) -> None:
        """Refuse a draft that no rule could verify over this vocabulary.

        Parameters
        ----------
        vocabulary : int
            V of the target's laws.

        Raises
        ------
        InvalidInputError
            On a token outside of the vocabulary, a repeated sibling (unless ``iid``), law 0 at an offered token, or a
            token that the declared law does not give for the uniform it was drawn with.
        """
        _check_tokens(self, vocabulary)
        if self.scheme != "iid":
            _check_siblings(self)
        if self.law is not None and self.tree.nodes:
            _check_offers(self, vocabulary)


def _check_scheme(draft: DraftLaw) -> None:
    known = draft.scheme in SCHEMES
    require(
        known, "`scheme` must be one of " + ", ".join(SCHEMES), got=repr(draft.scheme), fix="Declare how it was drawn."
    )
    require(
        draft.law is not None if draft.scheme in DRAWN else draft.scheme == "coupled" or draft.law is None,
        "`law` must be given for a sampled scheme and left out for a deterministic one",
        got=f"scheme {draft.scheme!r} with {'no law' if draft.law is None else 'a law'}",
        fix="Declare the law that was sampled, after temperature and filters; argmax and top-k have none.",
    )
    parents = len(draft.tree.inner)
    fits = draft.law is None or not draft.tree.nodes or (draft.law.ndim == 2 and len(draft.law) == parents)
    require(
        fits,
        "`law` must have one row for each node with children",
        got=f"shape {() if draft.law is None else draft.law.shape} for {parents} such nodes",
        fix="Stack the laws in the order of the nodes, the root first.",
    )
    require(
        draft.scheme != "chain" or draft.tree.is_chain,
        "`scheme` must not be 'chain' where a node has several children",
        got=f"parents {draft.tree.parents.tolist()}",
        fix="Declare 'iid' or 'without_replacement', whichever was sampled.",
    )


def _check_tokens(draft: DraftLaw, vocabulary: int) -> None:
    bad = np.flatnonzero((draft.tokens[1:] < 0) | (draft.tokens[1:] >= vocabulary)) + 1
    require(
        bad.size == 0,
        f"`tokens` must lie in the vocabulary, 0 to {vocabulary - 1}",
        got=f"{draft.tokens[bad[:5]].tolist()} at nodes {bad[:5].tolist()}",
        fix="Cut padding (such as -1) before verifying, and check that draft and target share a tokenizer.",
    )


def _check_siblings(draft: DraftLaw) -> None:
    pairs = list(zip(draft.tree.parents.tolist(), draft.tokens.tolist(), strict=True))
    repeated = sorted({pair for pair in pairs if pairs.count(pair) > 1}) if len(set(pairs)) < len(pairs) else []
    require(
        not repeated,
        "siblings must carry distinct tokens unless they were drawn independently",
        got=f"(parent, token) {repeated[:5]} more than once",
        fix="Merge repeats into one node; draws that were independent are declared 'iid', repeats kept.",
    )


def _check_offers(draft: DraftLaw, vocabulary: int) -> None:
    assert draft.law is not None
    width = draft.law.shape[1]
    same = width == vocabulary
    require(same, f"`law` must have {vocabulary} tokens a row", got=width, fix="Give both laws one vocabulary.")
    for parent in draft.tree.inner:
        law = draft.law_at(parent)
        for node in draft.tree.children(parent):
            _check_offer(draft, node, law)
            law = without_token(law, int(draft.tokens[node])) if draft.scheme == "without_replacement" else law


def _check_offer(draft: DraftLaw, node: int, law: NDArray[Any]) -> None:
    token = int(draft.tokens[node])
    if not law[token] > 0:
        raise InvalidInputError(
            "`law` must be positive at every token that it offered",
            got=f"law 0 at token {token} of node {node}",
            fix="Declare the law that was sampled: temperature and filters included, elder siblings removed.",
        )
    if draft.drawn_with is not None and draft.scheme in DRAWN and not _drawn(law, token, draft.drawn_with[node]):
        raise InvalidInputError(
            "`tokens` must be what `law` gives for the uniforms in `drawn_with`",
            got=f"token {token} at node {node}, where the declared law gives {pick_token(law, draft.drawn_with[node])}",
            fix="Declare the law that was sampled. An argmax is 'deterministic'; a re-ranked draw is no draw.",
        )


def _drawn(law: NDArray[Any], token: int, uniform: Any) -> bool:
    """Whether the inverse of `law` at `uniform` is `token`, up to rounding at the ends of its interval."""
    slack = 0 if law.dtype == object else _DRAW_SLACK
    below, total = law[:token].sum(), law.sum()
    point = uniform * total
    return bool(point >= below - slack) and bool(point < below + law[token] + slack)
