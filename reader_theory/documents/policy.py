"""Policy: what a step drafts, as values; one class a kind, told apart by `kind` and joined in the union `Policy`.

Documents, planner, engine and exporters all hold these. `name` is for people: nothing reads it back.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cached_property
from typing import Annotated, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from reader_theory.documents.base import Frozen
from reader_theory.errors import require
from reader_theory.trees.tree import TokenTree

__all__ = [
    "DATASTORE",
    "DRAFT",
    "OFFERS",
    "RETRIEVAL",
    "Chain",
    "Grown",
    "Off",
    "Policy",
    "SourceMap",
    "Static",
    "Union",
    "policy_of",
]

DRAFT, RETRIEVAL, DATASTORE = "draft", "retrieval", "datastore"
"""Names of drafters when nobody names any: a model, look-ups in the text so far, and in past outputs beside it."""

OFFERS = ("retrieval unasked", "retrieval", "draft", "both")
"""Who offered a token: retrieval where the draft was not asked, or was and did not; the draft; both."""

Shape = Literal["off", "chain", "tree"]


class _Policy(Frozen, ABC):
    """What every policy says of itself."""

    def __hash__(self) -> int:
        return hash((type(self), *(getattr(self, name) for name in type(self).model_fields)))

    @property
    @abstractmethod
    def name(self) -> str:
        """Short name for people, such as ``"tree 12x4 + retrieval 8 (0+1m, m>=2)"``."""

    @property
    @abstractmethod
    def drafters(self) -> tuple[str, ...]:
        """Names of those who draft: the one that is asked in forwards first, then retrieval."""

    @property
    @abstractmethod
    def most_nodes(self) -> int:
        """Most nodes that a row verifies, or that a drafter is asked at, in a step; the root is not counted."""

    @property
    @abstractmethod
    def shape(self) -> Shape:
        """``"off"`` drafts nothing; ``"chain"`` never offers siblings; ``"tree"`` may."""

    @property
    def fixed(self) -> Static | None:
        """The tree of fixed ranks in it, if any."""
        return None

    @property
    def retrieved(self) -> Chain | None:
        """The retrieved chain in it, if any."""
        return None

    @property
    def asks(self) -> str | None:
        """Name of the drafter whose forwards the policy asks for, if any."""
        return None if self.fixed is None else self.fixed.drafter

    def asking(self, drafter: str) -> Self:
        """The same policy of another drafter, where it asks one in forwards."""
        return self

    @property
    def drafted_by(self) -> str:
        """Its drafters in one word, such as ``"draft+retrieval"``; ``"off"`` when nobody drafts."""
        return "+".join(self.drafters) or "off"

    @property
    def in_words(self) -> str:
        """What a step's drafts depend on, in a sentence; empty where the name says it all."""
        return ""

    @cached_property
    def tree(self) -> TokenTree:
        """Ranks at which a drafter is asked; the root alone where no ranks are fixed."""
        return TokenTree.empty() if self.fixed is None else self.fixed.ranked_tree()

    @property
    def asked_widths(self) -> NDArray[np.float64]:
        """(D,) nodes a row below which a drafter is asked, by level, the root's first: see `DraftForwards.sizes`."""
        return np.empty(0) if self.fixed is None else self.fixed.inner_widths()


class Off(_Policy):
    """Nothing is drafted: one token a step."""

    kind: Literal["off"] = "off"

    @property
    def name(self) -> str:
        return "off"

    @property
    def drafters(self) -> tuple[str, ...]:
        return ()

    @property
    def most_nodes(self) -> int:
        return 0

    @property
    def shape(self) -> Shape:
        return "off"


class Static(_Policy):
    """The same tree of a drafter's ranks in every step; node 0 is the last committed token."""

    kind: Literal["static"] = "static"
    drafter: str = DRAFT
    parents: tuple[int, ...] = Field(min_length=2, description="of each node, the root's -1 first")
    ranks: tuple[int, ...] = Field(min_length=2, description="which candidate each node is, the root's 0 first")

    @model_validator(mode="after")
    def _a_tree(self) -> Self:
        _ = self.tree
        return self

    @classmethod
    def of(cls, tree: TokenTree, drafter: str = DRAFT) -> Static:
        """The policy of a tree that holds a node or more."""
        return cls(drafter=drafter, parents=tuple(tree.parents.tolist()), ranks=tuple(tree.ranks.tolist()))

    def ranked_tree(self) -> TokenTree:
        """The tree; `tree` keeps it."""
        return TokenTree(self.parents, self.ranks)

    def inner_widths(self) -> NDArray[np.float64]:
        """Nodes with children, by level."""
        return np.bincount(self.tree.depths[list(self.tree.inner)]).astype(np.float64)

    @property
    def name(self) -> str:
        tree = self.tree
        told = f"chain {tree.nodes}" if tree.is_chain else f"tree {tree.nodes}x{tree.depth}"
        return told if self.drafter == DRAFT else f"{told} of {self.drafter}"

    @property
    def drafters(self) -> tuple[str, ...]:
        return (self.drafter,)

    @property
    def most_nodes(self) -> int:
        return self.tree.nodes

    @property
    def shape(self) -> Shape:
        return "chain" if self.tree.is_chain else "tree"

    @property
    def fixed(self) -> Static:
        return self

    def asking(self, drafter: str) -> Self:
        return self.model_copy(update={"drafter": drafter})


class Chain(_Policy):
    """A retrieved chain of ``min(max_tokens, floor(offset + factor * match length))`` tokens, 0 below `min_match`."""

    kind: Literal["chain"] = "chain"
    drafter: str = RETRIEVAL
    min_match: int = Field(ge=1)
    offset: float = Field(default=0.0, allow_inf_nan=False)
    factor: float = Field(ge=0, allow_inf_nan=False)
    max_tokens: int = Field(ge=1)

    def cap(self, match_length: int) -> int:
        """Longest chain for a match of `match_length` tokens."""
        if match_length < self.min_match:
            return 0
        return max(0, min(self.max_tokens, int(self.offset + self.factor * match_length)))

    @property
    def name(self) -> str:
        return f"{self.drafter} {self.max_tokens} ({self.offset:g}+{self.factor:g}m, m>={self.min_match})"

    @property
    def drafters(self) -> tuple[str, ...]:
        return (self.drafter,)

    @property
    def most_nodes(self) -> int:
        return self.max_tokens

    @property
    def shape(self) -> Shape:
        return "chain"

    @property
    def retrieved(self) -> Chain:
        return self

    @property
    def in_words(self) -> str:
        return (
            f"Retrieval offers min({self.max_tokens}, {self.offset:g} + {self.factor:g} x match length) tokens where "
            f"the match is at least {self.min_match} long."
        )


class Union(_Policy):
    """A static tree and a retrieved chain in one trie; equal tokens are one node."""

    kind: Literal["union"] = "union"
    static: Static
    chain: Chain
    skip_at_match: int | None = Field(
        default=None, description="the static tree is not drafted on a row whose match is at least this long"
    )

    @property
    def name(self) -> str:
        return f"{self.static.name} + {self.chain.name}"

    @property
    def drafters(self) -> tuple[str, ...]:
        return (*self.static.drafters, *self.chain.drafters)

    @property
    def most_nodes(self) -> int:
        return self.static.most_nodes + self.chain.most_nodes

    @property
    def shape(self) -> Shape:
        return "tree"

    @property
    def fixed(self) -> Static:
        return self.static

    def asking(self, drafter: str) -> Self:
        return self.model_copy(update={"static": self.static.asking(drafter)})

    @property
    def retrieved(self) -> Chain:
        return self.chain

    @property
    def in_words(self) -> str:
        if self.skip_at_match is None:
            return self.chain.in_words
        return f"{self.chain.in_words[:-1]}; the draft model rests where it is at least {self.skip_at_match} long."


class SourceMap(Frozen):
    """Monotone map from the raw score of tokens offered so to acceptance; linear between its points."""

    offer: Literal["retrieval unasked", "retrieval", "draft", "both"]
    score: tuple[float, ...] = Field(min_length=1, description="ascending, in [0, 1]")
    acceptance: tuple[float, ...] = Field(min_length=1, description="at each score: ascending, in [0, 1]")

    @model_validator(mode="after")
    def _monotone(self) -> Self:
        rises = all(
            list(values) == sorted(values) and values[0] >= 0 and values[-1] <= 1
            for values in (self.score, self.acceptance)
        )
        require(
            rises and len(self.score) == len(self.acceptance),
            "a map must have as many scores as acceptances, both ascending in [0, 1]",
            got=f"{len(self.score)} scores, {len(self.acceptance)} acceptances",
            fix="Take the maps of `fit_offers`.",
        )
        return self


class Grown(_Policy):
    """One tree of a neural draft, retrieval, or both, grown anew at every step in order of calibrated path probability.

    Retrieval is queried at the root, at the draft's nodes and at its own; the draft at the root and, level by level,
    at the likeliest nodes, whoever offered them. `asked`, where it is given, says instead at which ranks.
    """

    kind: Literal["grown"] = "grown"
    drafter: str | None = Field(default=DRAFT, description="who is asked in forwards; nobody when None")
    retrieval: str | None = Field(default=RETRIEVAL, description="who is queried at every node; nobody when None")
    nodes: int = Field(ge=1, le=512, description="most nodes a row")
    price: float = Field(default=0.0, ge=0, le=1, description="path probability that a node must pass")
    share: float | None = Field(
        default=None,
        gt=0,
        description="nodes a row that a batch may verify in the mean: its likeliest, whatever row they are on",
    )
    levels: int = Field(default=0, ge=0, description="most draft forwards after the one that takes in emitted tokens")
    width: int = Field(default=8, ge=1, description="most nodes a row in a draft forward")
    draft_price: float = Field(default=0.0, ge=0, le=1, description="path probability below which no node is drafted")
    candidates: int = Field(default=8, ge=1, le=64, description="tokens of the draft's law that are offered")
    skip_draft_at: float | None = Field(
        default=None, description="the draft rests in a step where retrieval alone is this sure of every row's token"
    )
    trust: float = Field(default=0.5, gt=0, description="weight of retrieval's evidence where the draft was asked")
    maps: tuple[SourceMap, ...] = Field(default=(), description="a source without one is taken at its word")
    asked: Static | None = Field(default=None, description="ranks at which the draft is asked")

    @model_validator(mode="after")
    def _has_sources(self) -> Self:
        require(
            bool(self.drafters),
            "a grown tree must have a source: `retrieval`, `drafter`, or both",
            got="neither",
            fix="To draft nothing, take `Off()`.",
        )
        require(
            self.asked is None or self.asked.drafter == self.drafter,
            "`asked` must be a tree of `drafter`",
            got=f"{self.asked.drafter if self.asked else ''!r}, asked of {self.drafter!r}",
            fix="Give both the same drafter, or leave `asked` out.",
        )
        highest = max(self.asked.ranks) if self.asked else 0
        require(
            highest < self.candidates,
            "the ranks of `asked` must be among the `candidates`",
            got=f"rank {highest}",
            fix="Offer more candidates, or take a narrower tree.",
        )
        return self

    @property
    def asks(self) -> str | None:
        return self.drafter

    def asking(self, drafter: str) -> Self:
        asked = None if self.asked is None else self.asked.asking(drafter)
        return self if self.drafter is None else self.model_copy(update={"drafter": drafter, "asked": asked})

    @property
    def rests(self) -> bool:
        """Whether the draft is left out of steps in which retrieval is sure."""
        return len(self.drafters) == 2 and self.skip_draft_at is not None

    @property
    def name(self) -> str:
        told = [f"price {self.price:g}"] if self.share is None else [f"price {self.price:g}, {self.share:g} a row"]
        if self.drafter is not None:
            asked = f"{self.drafter} {self.levels}x{self.width}"
            told.append(asked + (f" from {self.draft_price:g}" if self.draft_price > 0 else ""))
        if self.rests:
            told.append(f"rests at {self.skip_draft_at:g}")
        head = "retrieved tree" if self.drafter is None else "grown tree"
        grown = f"{head} {self.nodes} ({', '.join(told)})"
        return grown if self.asked is None else f"{self.asked.name} + {grown}"

    @property
    def drafters(self) -> tuple[str, ...]:
        return tuple(name for name in (self.drafter, self.retrieval) if name is not None)

    @property
    def most_nodes(self) -> int:
        asked = self.levels * (self.width + 1) if self.asked is None else self.asked.most_nodes
        return max(self.nodes, asked)

    @property
    def shape(self) -> Shape:
        return "tree"

    @property
    def fixed(self) -> Static | None:
        return self.asked

    @property
    def in_words(self) -> str:
        sources = [
            told
            for name, told in ((self.retrieval, "retrieval"), (self.drafter, "the draft model"))
            if name is not None
        ]
        said = f"Grown anew at every step from {' and '.join(sources)}: at most {self.nodes} nodes"
        said += f", each on a path of probability above {self.price:g}"
        return said + (
            f"; the draft model rests where retrieval is {self.skip_draft_at:g} sure." if self.rests else "."
        )

    @property
    def asked_widths(self) -> NDArray[np.float64]:
        if self.drafter is None:
            return np.empty(0)
        if self.asked is not None:
            return self.asked.inner_widths()
        return np.array([1.0, *[float(self.width)] * self.levels])


Policy = Annotated[Off | Static | Chain | Union | Grown, Field(discriminator="kind")]
"""Any of them."""


def policy_of(tree: TokenTree, chain: Chain | None = None, skip: int | None = None, drafter: str = DRAFT) -> Policy:
    """Off, the tree, the chain, or both in one trie: whatever the parts given make.

    Examples
    --------
    >>> policy_of(TokenTree.chain(3)).name, policy_of(TokenTree.empty()).name
    ('chain 3', 'off')
    """
    if tree.nodes == 0:
        return Off() if chain is None else chain
    static = Static.of(tree, drafter)
    return static if chain is None else Union(static=static, chain=chain, skip_at_match=skip)
