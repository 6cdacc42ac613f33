"""Who sees whom: ancestor masks, dense and bit-packed, and positions."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from reader_theory.errors import NotATreeError, require
from reader_theory.trees.tree import ROOT, DraftTree

__all__ = ["ancestor_mask", "pack_mask", "packed_ancestors", "positions", "tree_parents", "unpack_mask"]

_WORD = np.dtype("<u8")
_BITS = 64


def ancestor_mask(tree: DraftTree, *, root: bool = True) -> NDArray[np.bool_]:
    """Which nodes each node attends to: itself and its ancestors.

    Parameters
    ----------
    tree : DraftTree
        N nodes.
    root : bool
        Whether the last committed token is row and column 0, and node i is i + 1.

    Returns
    -------
    (N + 1, N + 1) or (N, N) bool
        Row i, column j: j is i or an ancestor of i.

    Examples
    --------
    >>> ancestor_mask(DraftTree([-1, -1, 0], [0, 1, 0]), root=False).astype(int).tolist()
    [[1, 0, 0], [0, 1, 0], [1, 0, 1]]
    """
    return unpack_mask(packed_ancestors(tree, root=root), len(tree) + root)


def packed_ancestors(tree: DraftTree, *, root: bool = True) -> NDArray[np.uint64]:
    """`ancestor_mask` in bits, made without the dense mask: (n, ceil(n / 64)) uint64, bit j % 64 of word j // 64.

    One pass a level, n / 64 words a node.
    """
    n = len(tree) + root
    packed = np.zeros((n, max(-(-n // _BITS), 1)), dtype=_WORD)
    node = np.arange(n)
    packed[node, node // _BITS] = np.left_shift(np.uint64(1), (node % _BITS).astype(_WORD))
    for level in range(1 if root else 2, tree.depth + 1):
        rows = np.flatnonzero(tree.depths == level)
        packed[rows + root] |= packed[tree.parents[rows] + root]
    return packed


def pack_mask(mask: NDArray[np.bool_]) -> NDArray[np.uint64]:
    """Dense (R, n) bool to bits: (R, ceil(n / 64)) uint64, bit j % 64 of word j // 64, spare bits 0."""
    rows, columns = mask.shape
    padded = np.zeros((rows, max(-(-columns // _BITS), 1) * _BITS), dtype=np.bool_)
    padded[:, :columns] = mask
    return np.packbits(padded, axis=1, bitorder="little").view(_WORD)


def unpack_mask(packed: NDArray[np.uint64], columns: int) -> NDArray[np.bool_]:
    """Bits back to dense: (R, W) uint64 to (R, columns) bool."""
    octets = np.ascontiguousarray(packed, dtype=_WORD).view(np.uint8)
    return np.unpackbits(octets, axis=1, count=columns, bitorder="little").view(np.bool_)


def positions(tree: DraftTree, *, first: int = 0) -> NDArray[np.int32]:
    """(N + 1,) int32: position of the root, `first`, then of each node, its depth further."""
    return np.concatenate(([0], tree.depths)).astype(np.int32) + np.int32(first)


def tree_parents(mask: NDArray[np.bool_]) -> NDArray[np.int32]:
    """(N,) int32: parents of the nodes of a mask without the root; the inverse of `ancestor_mask`.

    Raises
    ------
    NotATreeError
        If the mask is not that of a forest whose nodes come after their parents.
    """
    mask = np.asarray(mask, dtype=np.bool_)
    n = len(mask)
    before = np.tril(mask, -1) if mask.shape == (n, n) else mask
    last = n - 1 - np.argmax(before[:, ::-1], axis=1) if n else np.zeros(0, dtype=np.intp)
    parents = np.where(before.any(axis=1), last, ROOT).astype(np.int32)
    tree = DraftTree(parents, np.arange(n)) if mask.shape == (n, n) else None
    require(
        tree is not None and bool(np.array_equal(ancestor_mask(tree, root=False), mask)),
        "`mask` must let every node see itself and its ancestors only",
        got=f"shape {mask.shape}",
        fix="Pass a square mask whose row i holds i and the row of its parent.",
        error=NotATreeError,
    )
    return parents
