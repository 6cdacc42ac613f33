"""A batch of token trees in one layout: what drafters propose, what the target forwards, and what kernels read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from reader_theory.trees.tree import TokenTree

__all__ = ["TokenTrees"]

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class TokenTrees:
    """One tree a row, padded to the widest; node 0 of each row is its last committed token.

    Light enough for every step of an engine: nothing is checked or copied, and ``trees.arrays`` are the arguments of
    the kernels, whose doors check what they are handed. ``len(trees)`` is B; ``trees[row]`` is a `TokenTree`.

    Parameters
    ----------
    tokens : (B, Q) int64
        Token of each node; 0 where padded.
    parents : (B, Q) int64
        Parent of each node, before it in its row; -1 for node 0, and where padded.
    counts : (B,) int64, in [1, Q]
        Nodes of each row, the root included.
    sources : (B, Q) int64, optional
        Which of `names` offered each node; 0 for the root and where padded.
    names : tuple of str
        Names of the drafters that `sources` tell apart, the root's empty one first. Without `sources`, the second
        offered every node.

    Examples
    --------
    >>> trees = TokenTrees.of([[5, 7, 8], [6]], [[-1, 0, 0], [-1]])
    >>> trees.counts.tolist(), trees.parents.tolist(), trees[0].tokens.tolist()
    ([3, 1], [[-1, 0, 0], [-1, -1, -1]], [5, 7, 8])
    """

    tokens: Ints
    parents: Ints
    counts: Ints
    sources: NDArray[np.int64] | None = None
    names: tuple[str, ...] = ("", "draft")

    @classmethod
    def of(
        cls, tokens: Sequence[Sequence[int]], parents: Sequence[Sequence[int]], names: tuple[str, ...] = ("", "draft")
    ) -> TokenTrees:
        """Trees from each row's tokens and parents, ragged lists that have node 0."""
        counts = [len(row) for row in tokens]
        most = max(counts)
        padded = [[*row, *[0] * (most - count)] for row, count in zip(tokens, counts, strict=True)]
        above = [[*row, *[-1] * (most - count)] for row, count in zip(parents, counts, strict=True)]
        return cls(*(np.array(each, dtype=np.int64) for each in (padded, above, counts)), names=names)

    @classmethod
    def stack(cls, trees: Iterable[TokenTree]) -> TokenTrees:
        """Trees of known tokens, one a row."""
        rows: list[tuple[TokenTree, list[int]]]
        rows = [(tree, [] if tree.tokens is None else tree.tokens.tolist()) for tree in trees]
        assert all(len(tree) == len(tokens) for tree, tokens in rows), "a batch holds trees of known tokens"
        made = cls.of([tokens for _, tokens in rows], [tree.parents.tolist() for tree, _ in rows])
        number = {"": 0}
        for tree, _ in rows:
            for name in tree.sources:
                number.setdefault(name, len(number))
        sources = np.zeros(made.tokens.shape, dtype=np.int64)
        for row, (tree, _) in zip(sources, rows, strict=True):
            row[: len(tree)] = [number[name] for name in tree.sources]
        return replace(made, sources=sources, names=tuple(number))

    @classmethod
    def roots(cls, tokens: ArrayLike) -> TokenTrees:
        """Rows without a draft: the last committed token of each, (B,) int."""
        column = np.array(tokens, dtype=np.int64).reshape(-1, 1)
        return cls(column, np.full_like(column, -1), np.ones(len(column), dtype=np.int64))

    @classmethod
    def alike(cls, tree: TokenTree, tokens: Ints) -> TokenTrees:
        """Rows of one shape; `tokens` (B, N + 1) has the root of each row first."""
        rows = len(tokens)
        parents = np.tile(tree.parents.astype(np.int64), (rows, 1))
        return cls(tokens, parents, np.full(rows, len(tree), dtype=np.int64))

    @property
    def arrays(self) -> tuple[Ints, Ints, Ints]:
        """Tokens, parents and counts: the arguments of forwards and kernels, in their order."""
        return self.tokens, self.parents, self.counts

    @property
    def depths(self) -> Ints:
        """(B, Q) int64: depth of each node; 0 for roots and where padded."""
        above, depths = self.parents, (self.parents >= 0).astype(np.int64)
        while (inside := above >= 0).any():  # `depths` counts the steps up to `above`, and both reach twice as far next
            held = np.maximum(above, 0)
            depths += inside * np.take_along_axis(depths, held, axis=1)
            above = np.where(inside, np.take_along_axis(above, held, axis=1), -1)
        return depths

    def __len__(self) -> int:
        return len(self.counts)

    def __getitem__(self, row: int) -> TokenTree:
        count = int(self.counts[row])
        if self.sources is None:
            source: str | tuple[str, ...] = self.names[1]
        else:
            source = tuple([self.names[number] for number in map(int, self.sources[row, :count])])
        tokens = self.tokens[row, :count].copy()
        return TokenTree.trusted(self.parents[row, :count].astype(np.int32), None, tokens, source)

    def __iter__(self) -> Iterator[TokenTree]:
        return (self[row] for row in range(len(self)))

    def prune(self, nodes: ArrayLike | None = None, depth: ArrayLike | None = None) -> TokenTrees:
        """The first drafted nodes of each row, and none deeper than a depth; the same trees where all stay.

        Parameters
        ----------
        nodes, depth : (B,) or scalar int, optional
            Most drafted nodes of each row, and how deep they may be.
        """
        place = np.arange(self.tokens.shape[1], dtype=np.int64)
        held: NDArray[np.bool_] = place < self.counts[:, None]
        kept = held
        if nodes is not None:
            kept = kept & (place <= _column(nodes))
        if depth is not None and bool((_column(depth) < self.counts[:, None] - 1).any()):
            kept = kept & (self.depths <= _column(depth))
        return self.keep(kept)

    def keep(self, kept: NDArray[np.bool_]) -> TokenTrees:
        """Some nodes of each row, every one with its parent, in the same order; the same trees where all stay.

        Parameters
        ----------
        kept : (B, Q) bool, True at node 0 of each row, False where padded
        """
        held: NDArray[np.bool_] = np.arange(self.tokens.shape[1], dtype=np.int64) < self.counts[:, None]
        if np.array_equal(kept, held):
            return self
        counts = np.count_nonzero(kept, axis=1)
        order = np.argsort(~kept, axis=1, kind="stable")[:, : int(counts.max())]
        fresh = np.take_along_axis(np.cumsum(kept, axis=1) - 1, np.maximum(self.parents, 0), axis=1)
        above = np.where(self.parents >= 0, fresh, -1)
        sources = None if self.sources is None else _taken(self.sources, kept, order, 0)
        return TokenTrees(
            _taken(self.tokens, kept, order, 0), _taken(above, kept, order, -1), counts, sources, self.names
        )


def _column(limit: ArrayLike) -> Ints:
    return np.maximum(np.asarray(limit, dtype=np.int64), 0).reshape(-1, 1)


def _taken(values: Ints, kept: NDArray[np.bool_], order: NDArray[np.intp], padding: int) -> Ints:
    return np.take_along_axis(np.where(kept, values, padding), order, axis=1)
