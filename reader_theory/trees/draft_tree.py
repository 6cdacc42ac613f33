"""The draft tree: which tokens hang below which, in the order they are verified."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from reader_theory.errors import NotATreeError, require

__all__ = ["ROOT", "DraftTree"]

ROOT = -1
"""Parent of a node that hangs off the last committed token."""

IntArray = NDArray[np.int32]


def _frozen_ints(values: ArrayLike) -> IntArray:
    array = np.array(values, dtype=np.int32).reshape(-1)
    array.setflags(write=False)
    return array


@dataclass(frozen=True, eq=False)
class DraftTree:
    """A draft tree of N nodes; the root (the last committed token) is not among them.

    Parameters
    ----------
    parents : (N,) int32, ``parents[i] < i``, `ROOT` for a child of the root
        Parents come before their children, so that one pass in order visits every path.
    ranks : (N,) int32, >= 0, distinct among siblings
        Which candidate of its source each node is, 0 the most likely.
    sources : tuple of str, length N, optional
        Name of the drafter that offered each node; ``"draft"`` throughout when left out.

    Raises
    ------
    NotATreeError
        When a parent does not come before its child, or two siblings share a rank and a source.

    Examples
    --------
    >>> tree = DraftTree(parents=[-1, -1, 0], ranks=[0, 1, 0])
    >>> len(tree), tree.depth, tree.depths.tolist()
    (3, 2, [1, 1, 2])
    """

    parents: IntArray
    ranks: IntArray
    sources: tuple[str, ...] = field(default=())

    def __init__(self, parents: ArrayLike, ranks: ArrayLike, sources: Iterable[str] = ()) -> None:
        object.__setattr__(self, "parents", _frozen_ints(parents))
        object.__setattr__(self, "ranks", _frozen_ints(ranks))
        object.__setattr__(self, "sources", tuple(sources) or ("draft",) * len(self.parents))
        self._check()

    def _check(self) -> None:
        n = len(self.parents)
        same_length = len(self.ranks) == n == len(self.sources)
        require(
            same_length,
            "`parents`, `ranks` and `sources` must have one entry a node",
            got=f"{n}, {len(self.ranks)} and {len(self.sources)} entries",
            fix="Give each node its parent, its rank and its source.",
            error=NotATreeError,
        )
        order = np.arange(n)
        bad = np.flatnonzero((self.parents >= order) | (self.parents < ROOT))
        require(
            bad.size == 0,
            "`parents` must come before their children: -1 <= parents[i] < i",
            got=f"parents {self.parents[bad[:5]].tolist()} at nodes {bad[:5].tolist()}",
            fix="Order the nodes by depth; use -1 for a child of the root. A cycle can never be so ordered.",
            error=NotATreeError,
        )
        negative = np.flatnonzero(self.ranks < 0)
        require(
            negative.size == 0,
            "`ranks` must be >= 0",
            got=f"ranks {self.ranks[negative[:5]].tolist()} at nodes {negative[:5].tolist()}",
            fix="Count candidates from 0, the most likely.",
            error=NotATreeError,
        )
        keys = list(zip(self.parents.tolist(), self.ranks.tolist(), self.sources, strict=True))
        require(
            len(set(keys)) == n,
            "siblings must differ in rank or source",
            got=f"{n - len(set(keys))} repeated (parent, rank, source)",
            fix="Merge duplicates before building the tree.",
            error=NotATreeError,
        )

    def __len__(self) -> int:
        return len(self.parents)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, DraftTree):
            return NotImplemented
        same = np.array_equal(self.parents, other.parents) and np.array_equal(self.ranks, other.ranks)
        return same and self.sources == other.sources

    def __hash__(self) -> int:
        return hash((self.parents.tobytes(), self.ranks.tobytes(), self.sources))

    @cached_property
    def depths(self) -> IntArray:
        """(N,) int32: depth of each node, 1 for a child of the root."""
        depths = np.zeros(len(self), dtype=np.int32)
        for node, parent in enumerate(self.parents.tolist()):
            depths[node] = 1 if parent == ROOT else depths[parent] + 1
        depths.setflags(write=False)
        return depths

    @property
    def depth(self) -> int:
        """Depth of the deepest node; 0 for the empty tree."""
        return int(self.depths.max(initial=0))

    @property
    def level_widths(self) -> IntArray:
        """(D,) int32: nodes at depth 1, 2, ..., D."""
        return np.bincount(self.depths, minlength=1)[1:].astype(np.int32)

    @property
    def is_chain(self) -> bool:
        """Whether no node has a sibling."""
        return np.array_equal(self.parents, np.arange(len(self)) - 1)

    def children(self, node: int = ROOT) -> IntArray:
        """Children of `node`, in order; of the root when left out."""
        return np.flatnonzero(self.parents == node).astype(np.int32)

    def path(self, node: int) -> list[int]:
        """Nodes from the root's child down to `node`, both included."""
        path: list[int] = []
        while node != ROOT:
            path.append(node)
            node = int(self.parents[node])
        return path[::-1]

    def by_level(self) -> DraftTree:
        """The same tree with its nodes in order of depth, then of their parents in that order, then of rank."""
        keys: dict[int, tuple[int, ...]] = {ROOT: ()}
        for node, parent in enumerate(self.parents.tolist()):
            keys[node] = (*keys[parent], int(self.ranks[node]))
        order = sorted(range(len(self)), key=lambda node: (len(keys[node]), keys[node], self.sources[node]))
        place = {ROOT: ROOT} | {node: i for i, node in enumerate(order)}
        parents = [place[int(self.parents[node])] for node in order]
        return DraftTree(parents, self.ranks[order], [self.sources[node] for node in order])

    @classmethod
    def chain(cls, length: int, source: str = "draft") -> DraftTree:
        """Rank-0 chain of `length` nodes."""
        return cls(np.arange(length) - 1, np.zeros(length, dtype=np.int32), (source,) * length)

    @classmethod
    def empty(cls) -> DraftTree:
        """No draft at all: one token a step."""
        return cls([], [])

    @classmethod
    def from_rank_paths(cls, paths: Iterable[Sequence[int]]) -> DraftTree:
        """Tree from rank paths such as ``[(0,), (1,), (0, 0)]``, each prefix among them or implied.

        The format of Medusa's and EAGLE-1's choices.
        """
        wanted = {tuple(path[: i + 1]) for path in paths for i in range(len(path))}
        ordered = sorted(wanted, key=lambda path: (len(path), path))
        place = {path: i for i, path in enumerate(ordered)}
        return cls([place.get(path[:-1], ROOT) for path in ordered], [path[-1] for path in ordered])

    def rank_paths(self) -> list[tuple[int, ...]]:
        """One rank path a node, in node order."""
        paths: list[tuple[int, ...]] = []
        for node in range(len(self)):
            parent = int(self.parents[node])
            above = paths[parent] if parent != ROOT else ()
            paths.append((*above, int(self.ranks[node])))
        return paths

    def to_networkx(self) -> Any:
        """A `networkx.DiGraph` with the root as node -1, and `rank`, `source`, `depth` on the others."""
        nx: Any = import_module("networkx")
        graph = nx.DiGraph()
        graph.add_node(ROOT)
        for node, parent in enumerate(self.parents.tolist()):
            graph.add_node(node, rank=int(self.ranks[node]), source=self.sources[node], depth=int(self.depths[node]))
            graph.add_edge(parent, node)
        return graph
