"""What a drafter is: whoever offers, for each row of a batch, a tree of tokens that the target then verifies.

It keeps what it needs of each row by itself: a request `join`s a row with its prompt, the row is `extend`ed by what the
target emits, and `move`s when another leaves. `check_drafter` says what these words mean, on any drafter.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import lru_cache
from inspect import signature
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from reader_theory.documents.forwards import DraftForwards
from reader_theory.errors import require
from reader_theory.registry import Registry
from reader_theory.rules.draft_law import DraftLaw, Scheme
from reader_theory.trees import TokenTrees
from runtime.cache.rows import RowCache
from runtime.models.base import LanguageModel

__all__ = ["DRAFTERS", "Drafter", "NoDrafter", "Proposal", "Row", "gathered", "roots_alone"]

DRAFTERS: Registry[type[Drafter]] = Registry("drafter")
"""Classes of drafters."""

Ints = NDArray[np.int64]


class Row(Protocol):
    """What a drafter may ask of the request in a row."""

    output: list[int]
    steps: int
    streams: Callable[..., NDArray[np.float64]]

    @property
    def length(self) -> int:
        """Tokens of prompt and output."""
        ...

    @property
    def room(self) -> int:
        """Tokens that it may still emit."""
        ...

    @property
    def text(self) -> list[int]:
        """Prompt and output."""
        ...

    @property
    def scheme(self) -> Scheme:
        """How its rule wants drafts drawn; ``deterministic`` where any will do."""
        ...

    @property
    def reads_prefix(self) -> bool:
        """Whether its law reads the tokens before."""
        ...

    @property
    def constrained(self) -> bool:
        """Whether its output must lie in a language: drafts are then taken from its `law`."""
        ...

    def lies_within(self, tokens: Sequence[int]) -> bool:
        """Whether what it emitted so far, with `tokens` behind it, may be emitted."""
        ...

    def law(self, logits: Any, prefixes: Sequence[Sequence[int]] | None) -> Any:
        """(n, V) laws that it samples from, of (n, V) logits; the logits themselves where it takes the likeliest."""
        ...


class Proposal(NamedTuple):
    """What a drafter offers in a step.

    Attributes
    ----------
    trees : TokenTrees
        With the names of who offered their nodes.
    laws : sequence of B (DraftLaw or None), optional
        The law of rows whose drafts were drawn; None where a tree is a function of the prefix.
    forwards : tuple of (B,) int64
        Tokens of each row in each forward of a model that it took; empty where none was asked.
    matches : (B,) int64, optional
        How sure it is of each row: tokens of context that what it offers is based on.
    """

    trees: TokenTrees
    laws: Sequence[DraftLaw | None] | None = None
    forwards: tuple[Ints, ...] = ()
    matches: Ints | None = None


class Drafter(ABC):
    """Whoever offers trees.

    Attributes
    ----------
    name : str
        Of the class in the registry; of the drafter in its engine and in policies once `open` has given it one.
    term : str
        Term of a step's cost that its seconds belong to.
    takes : DraftForwards
        Forwards of a model that a tree takes: what plans charge for it.
    features : tuple of int
        Layers of the target whose hidden states `join` and `extend` are handed; none for most.
    prefill_s : float
        Seconds spent so far on taking in prompts.
    """

    name: ClassVar[str] | str
    term: ClassVar[str] = "draft"
    takes: DraftForwards = DraftForwards(kind="lookup")
    features: tuple[int, ...] = ()
    prefill_s: float = 0.0

    @classmethod
    def load(cls, source: str) -> Drafter:
        """A new one from `source`, as the command line names it in ``--draft NAME=CLASS:SOURCE``.

        Raises
        ------
        InvalidInputError
            Unless the class overrides this: by itself it takes nothing.
        """
        wanted = [each for each in signature(cls).parameters.values() if each.default is each.empty]
        require(
            not source and not wanted,
            f"a {cls.name} drafter must be one that can be made from what `--draft` names",
            got=f"{source!r}, for {', '.join(str(each) for each in wanted) or 'no arguments'}",
            fix="Give the class a `load` of its own, or hand it to the engine from Python.",
        )
        return cls()

    def open(self, name: str, rows: int, slots: int) -> None:
        """Have room for `rows` rows of `slots` tokens, scratch included."""
        self.name = name

    @property
    def model(self) -> LanguageModel | None:
        """The model that it runs, if any: its vocabulary must be the target's."""
        return None

    @property
    def cache(self) -> RowCache | None:
        """The cache of that model."""
        return None

    def serve(self, tenant: str) -> None:
        """The request that joins next is of this tenant; of no matter to most."""
        return None

    def learn(self, tenant: str, output: list[int]) -> None:
        """A request of this tenant has come to its end with this output; of no matter to most."""
        return None

    @abstractmethod
    def join(self, row: int, tokens: Ints, hidden: Any = None) -> None:
        """A request takes `row` with these n tokens; `hidden` (n, layers, H) of each, as `features` asks."""

    @abstractmethod
    def extend(self, row: int, tokens: list[int], hidden: Any = None) -> None:
        """The target emitted n `tokens` in `row`; `hidden` (n, layers, H) of the token before each."""

    def again(self, row: int, tokens: Ints) -> None:
        """Take in a row's tokens anew: what was made of them may be spoilt. The target's hidden states are not."""
        self.join(row, tokens)

    @abstractmethod
    def move(self, source: int, target: int) -> None:
        """Row `source` takes the place of row `target`."""

    @abstractmethod
    def propose(self, policy: Any, rows: Sequence[Row], spare: Sequence[int]) -> Proposal:
        """Trees for rows 0 .. B - 1 by a policy that names this drafter.

        Parameters
        ----------
        spare : sequence of B int
            Nodes that each row has slots for; a row without any gets none.
        """


class NoDrafter(Drafter):
    """Offers nothing: plain decoding."""

    name = "none"

    def join(self, row: int, tokens: Ints, hidden: Any = None) -> None:
        pass

    def extend(self, row: int, tokens: list[int], hidden: Any = None) -> None:
        pass

    def move(self, source: int, target: int) -> None:
        pass

    def propose(self, policy: Any, rows: Sequence[Row], spare: Sequence[int]) -> Proposal:
        return roots_alone(rows)


DRAFTERS.register(NoDrafter)


@lru_cache(maxsize=256)
def _alone(rows: int) -> tuple[Ints, Ints]:
    return np.full((rows, 1), -1), np.ones(rows, dtype=np.int64)


def roots_alone(rows: Sequence[Row], matches: Ints | None = None) -> Proposal:
    """Trees without a draft."""
    tokens = np.array([[row.output[-1]] for row in rows], dtype=np.int64)
    return Proposal(TokenTrees(tokens, *_alone(len(rows))), matches=matches)


def gathered(
    rows: Sequence[Row], tokens: Sequence[Any], parents: Sequence[Any] | None = None, name: str = "draft"
) -> TokenTrees:
    """Trees of each row's drafted tokens and their parents, of which 0 is the root; chains without parents."""
    counts = np.array([1 + len(part) for part in tokens], dtype=np.int64)
    held = np.zeros((len(counts), int(counts.max())), dtype=np.int64)
    above = np.full(held.shape, -1, dtype=np.int64)
    for number, (row, part) in enumerate(zip(rows, tokens, strict=True)):
        held[number, 0] = row.output[-1]
        if (count := len(part)) > 0:
            held[number, 1 : count + 1] = part
            above[number, 1 : count + 1] = _chain(count) if parents is None else parents[number]
    return TokenTrees(held, above, counts, names=("", name))


@lru_cache(maxsize=256)
def _chain(nodes: int) -> Ints:
    return np.arange(nodes)
