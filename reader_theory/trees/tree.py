"""The token tree: which tokens hang below which, from the last committed token down, in the order they are verified."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from importlib import import_module
from typing import Any, final

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from reader_theory.errors import NotATreeError, require

__all__ = ["TokenTree"]

Ints = NDArray[np.int32]


@final
class TokenTree:
    """A tree of N drafted nodes below node 0, the root: the last committed token.

    Every array has one entry a node, the root's first, so that no index is ever shifted; ``len(tree)`` is N + 1 and
    ``tree.nodes`` N. Trees are values: they are never changed, and equal trees are one key of a dictionary.

    Parameters
    ----------
    parents : (N + 1,) int32, ``parents[0] == -1``, ``0 <= parents[i] < i``
        Parents come before their children, so that one pass in order visits every path.
    ranks : (N + 1,) int32, >= 0, distinct among siblings of one source, 0 at the root, optional
        Which candidate of its source each node is, 0 the most likely; in order among siblings when left out.
    tokens : (N + 1,) int64, optional
        Token of each node, where they are known.
    sources : str or sequence of N + 1 str, optional
        Name of the drafter that offered each node, one for all or one a node; the root's is empty.

    Raises
    ------
    NotATreeError
        When a parent does not come before its child, or two siblings share a rank and a source.

    Examples
    --------
    >>> tree = TokenTree(parents=[-1, 0, 0, 1])
    >>> len(tree), tree.nodes, tree.depth, tree.depths.tolist(), tree.ranks.tolist()
    (4, 3, 2, [0, 1, 1, 2], [0, 0, 1, 0])
    """

    parents: Ints
    tokens: NDArray[np.int64] | None

    def __init__(
        self,
        parents: ArrayLike,
        ranks: ArrayLike | None = None,
        tokens: ArrayLike | None = None,
        sources: str | Iterable[str] = "draft",
    ) -> None:
        known = self.__dict__
        known["parents"] = _frozen(parents, np.int32)
        known["tokens"] = None if tokens is None else _frozen(tokens, np.int64)
        if ranks is not None:
            known["ranks"] = _frozen(ranks, np.int32)
        known["_offered_by"] = sources if isinstance(sources, str) else tuple(sources)
        _check(self)

    @classmethod
    def trusted(
        cls,
        parents: Ints,
        ranks: Ints | None = None,
        tokens: NDArray[np.int64] | None = None,
        sources: str | tuple[str, ...] = "draft",
    ) -> TokenTree:
        """The tree of arrays that are known to make one: neither checked nor copied, and read-only from now on."""
        tree = object.__new__(cls)
        known = tree.__dict__
        known["parents"], known["tokens"], known["_offered_by"] = parents, tokens, sources
        parents.setflags(write=False)
        if ranks is not None:
            ranks.setflags(write=False)
            known["ranks"] = ranks
        if tokens is not None:
            tokens.setflags(write=False)
        return tree

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a TokenTree is never changed: make another with another `{name}`")

    @cached_property
    def ranks(self) -> Ints:
        """(N + 1,) int32: which candidate of its source each node is."""
        seen, ranks = [0] * len(self), [0]
        parents: list[int] = self.parents.tolist()
        for parent in parents[1:]:
            ranks.append(seen[parent])
            seen[parent] += 1
        return _frozen(ranks, np.int32)

    @cached_property
    def sources(self) -> tuple[str, ...]:
        """Name of the drafter that offered each node; empty at the root."""
        given: str | tuple[str, ...] = self.__dict__["_offered_by"]
        return ("", *(given,) * self.nodes) if isinstance(given, str) else given

    @property
    def nodes(self) -> int:
        """N, drafted nodes."""
        return len(self.parents) - 1

    def __len__(self) -> int:
        return len(self.parents)

    def __repr__(self) -> str:
        tokens = "" if self.tokens is None else f", tokens={self.tokens.tolist()}"
        return f"TokenTree(parents={self.parents.tolist()}, ranks={self.ranks.tolist()}{tokens})"

    @property
    def _value(self) -> tuple[Any, ...]:
        tokens = None if self.tokens is None else self.tokens.tobytes()
        return self.parents.tobytes(), self.ranks.tobytes(), tokens, self.sources

    def __eq__(self, other: object) -> bool:
        return self._value == other._value if isinstance(other, TokenTree) else NotImplemented

    @cached_property
    def _hash(self) -> int:
        return hash(self._value)

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def depths(self) -> Ints:
        """(N + 1,) int32: depth of each node, 0 for the root."""
        depths = [0]
        parents: list[int] = self.parents.tolist()
        for parent in parents[1:]:
            depths.append(depths[parent] + 1)
        return _frozen(depths, np.int32)

    @property
    def depth(self) -> int:
        """Depth of the deepest node; 0 for the root alone."""
        return int(self.depths.max())

    @property
    def level_widths(self) -> Ints:
        """(D,) int32: nodes at depth 1, 2, ..., D."""
        return np.bincount(self.depths)[1:].astype(np.int32)

    @property
    def is_chain(self) -> bool:
        """Whether no node has a sibling."""
        return np.array_equal(self.parents, np.arange(-1, self.nodes))

    @cached_property
    def _below(self) -> list[list[int]]:
        below: list[list[int]] = [[] for _ in range(len(self))]
        parents: list[int] = self.parents.tolist()
        for node, parent in enumerate(parents[1:], start=1):
            below[parent].append(node)
        return below

    def children(self, node: int = 0) -> list[int]:
        """Children of `node`, in order; of the root when left out."""
        return [*self._below[node]]

    @cached_property
    def inner(self) -> tuple[int, ...]:
        """Nodes that have children, in order."""
        return tuple(node for node, below in enumerate(self._below) if below)

    def path(self, node: int) -> list[int]:
        """Nodes from the root down to `node`, both included: those that `node` attends to."""
        path = [node]
        while (node := int(self.parents[node])) >= 0:
            path.append(node)
        return path[::-1]

    def by_level(self) -> TokenTree:
        """The same tree with its nodes in order of depth, then of their parents in that order, then of rank."""
        keys: list[tuple[int, ...]] = self.rank_paths()
        order = sorted(range(len(self)), key=lambda node: (len(keys[node]), keys[node], self.sources[node]))
        place = np.empty(len(self), dtype=np.int32)
        place[order] = np.arange(len(self))
        return self._taken(np.array(order), place)

    def prune(self, keep: ArrayLike | None = None, *, nodes: int | None = None, depth: int | None = None) -> TokenTree:
        """The tree of some nodes only, in the same order and with the same ranks.

        Parameters
        ----------
        keep : (N + 1,) bool or indices of nodes, optional
            What to keep; the root may be left out of indices.
        nodes : int, optional
            Keep the first so many drafted nodes.
        depth : int, optional
            Keep nodes down to this depth.

        Raises
        ------
        NotATreeError
            When a node would lose its parent.
        """
        kept = np.ones(len(self), dtype=np.bool_)
        if keep is not None:
            kept[:] = False
            kept[np.asarray(keep, dtype=None if np.size(keep) else np.intp)] = True
            kept[0] = True
            orphans = np.flatnonzero(kept & ~kept[self.parents])
            require(
                orphans[orphans > 0].size == 0,
                "`keep` must hold the parent of every node that it holds",
                got=f"nodes {orphans[orphans > 0][:5].tolist()} without their parents",
                fix="Keep whole paths from the root.",
                error=NotATreeError,
            )
        if nodes is not None:
            kept[max(nodes, 0) + 1 :] = False
        if depth is not None:
            kept &= self.depths <= depth
        if kept.all():
            return self
        return self._taken(np.flatnonzero(kept), np.cumsum(kept, dtype=np.int32) - 1)

    def _taken(self, order: NDArray[np.intp], place: Ints) -> TokenTree:
        """The nodes `order`, whose places in the new tree are `place`."""
        parents = place[self.parents[order]]
        parents[0] = -1
        given: str | tuple[str, ...] = self.__dict__["_offered_by"]
        sources = given if isinstance(given, str) else tuple([given[int(node)] for node in order])
        tokens = None if self.tokens is None else self.tokens[order]
        return TokenTree.trusted(parents, self.ranks[order], tokens, sources)

    @cached_property
    def _by_token(self) -> dict[tuple[int, int], int]:
        assert self.tokens is not None, "only a tree of known tokens can be followed"
        keys = zip(self.parents.tolist(), self.tokens.tolist(), strict=True)
        return {key: node for node, key in reversed(list(enumerate(keys)))}

    def follow(self, pick: Callable[[list[int]], int]) -> tuple[list[int], list[int]]:
        """Walk down from the root along tokens that are chosen one after the other.

        Parameters
        ----------
        pick : callable
            The token after a path of nodes, the root first; called once a node on the path, in order.

        Returns
        -------
        path : list of int
            Nodes on the path, the root first: what a cache must keep.
        emitted : list of int
            Tokens chosen: those of the path below the root, and the one where it leaves the tree.

        Examples
        --------
        >>> tree = TokenTree([-1, 0, 0, 2], tokens=[5, 7, 8, 9])
        >>> tree.follow(lambda path: {0: 8, 2: 9, 3: 1}[path[-1]])
        ([0, 2, 3], [8, 9, 1])
        """
        following = self._by_token
        path, emitted = [0], list[int]()
        while True:
            emitted.append(pick(path))
            node = following.get((path[-1], emitted[-1]))
            if node is None:
                return path, emitted
            path.append(node)

    @classmethod
    def chain(cls, length: int, source: str = "draft") -> TokenTree:
        """Rank-0 chain of `length` nodes."""
        return cls(np.arange(-1, length), np.zeros(length + 1, dtype=np.int32), sources=source)

    @classmethod
    def empty(cls) -> TokenTree:
        """The root alone, no draft at all: one token a step."""
        return cls([-1], [0])

    @classmethod
    def from_rank_paths(cls, paths: Iterable[Sequence[int]]) -> TokenTree:
        """Tree by level from rank paths such as ``[(0,), (1,), (0, 0)]``, each prefix among them or implied."""
        wanted = {tuple(path[: i + 1]) for path in paths for i in range(len(path))}
        ordered = sorted(wanted, key=lambda path: (len(path), path))
        place = {path: node for node, path in enumerate(ordered, start=1)}
        parents = [-1, *(place.get(path[:-1], 0) for path in ordered)]
        return cls(parents, [0, *(path[-1] for path in ordered)])

    def rank_paths(self) -> list[tuple[int, ...]]:
        """One rank path a node, in node order; the root's is empty."""
        paths: list[tuple[int, ...]] = [()]
        parents: list[int] = self.parents.tolist()
        ranks: list[int] = self.ranks.tolist()
        for parent, rank in zip(parents[1:], ranks[1:], strict=True):
            paths.append((*paths[parent], rank))
        return paths

    def to_networkx(self) -> Any:
        """A `networkx.DiGraph` whose nodes have `rank`, `source` and `depth`."""
        graph: Any = import_module("networkx").DiGraph()
        for node, parent in enumerate(self.parents.tolist()):
            graph.add_node(node, rank=int(self.ranks[node]), source=self.sources[node], depth=int(self.depths[node]))
            if node:
                graph.add_edge(parent, node)
        return graph


def _frozen(values: ArrayLike, dtype: DTypeLike) -> NDArray[Any]:
    array = np.array(values, dtype=dtype).reshape(-1)
    array.setflags(write=False)
    return array


def _check(tree: TokenTree) -> None:
    parents, given = tree.parents, tree.__dict__["_offered_by"]
    n, ranks = len(parents), tree.__dict__.get("ranks")
    entries = {"ranks": ranks, "tokens": tree.tokens, "sources": None if isinstance(given, str) else given}
    lengths = {name: len(entry) for name, entry in entries.items() if entry is not None}
    require(
        n > 0 and set(lengths.values()) <= {n},
        "`parents`, `ranks`, `tokens` and `sources` must have one entry a node, the root's first",
        got=f"{n} parents, {lengths}",
        fix="Give each node its parent, its rank and its source; the root is node 0, its parent -1.",
        error=NotATreeError,
    )
    low = np.zeros(n, dtype=np.int32)
    low[0] = -1
    bad = np.flatnonzero((parents >= np.arange(n)) | (parents < low))
    require(
        bad.size == 0,
        "`parents` must come before their children: 0 <= parents[i] < i, and -1 for the root, node 0",
        got=f"parents {parents[bad[:5]].tolist()} at nodes {bad[:5].tolist()}",
        fix="Order the nodes by depth below node 0, the last committed token. A cycle can never be so ordered.",
        error=NotATreeError,
    )
    if ranks is not None:
        _check_ranks(tree, ranks)


def _check_ranks(tree: TokenTree, ranks: Ints) -> None:
    bad = np.flatnonzero(ranks < 0)
    require(
        bad.size == 0 and ranks[0] == 0,
        "`ranks` must be >= 0, and 0 at the root",
        got=f"ranks {ranks[bad[:5]].tolist()} at nodes {bad[:5].tolist()}, {ranks[0]} at the root",
        fix="Count candidates from 0, the most likely.",
        error=NotATreeError,
    )
    keys = set(zip(tree.parents.tolist(), ranks.tolist(), tree.sources, strict=True))
    require(
        len(keys) == len(tree),
        "siblings must differ in rank or source",
        got=f"{len(tree) - len(keys)} repeated (parent, rank, source)",
        fix="Merge duplicates before building the tree.",
        error=NotATreeError,
    )
