"""Growmaps: the tree format of Sequoia (a pickled dict) and UMbreLLa (the same as JSON), both ways."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import numpy as np

from reader_theory.errors import NotATreeError, UnsupportedByEngineError, require
from reader_theory.trees.masks import ancestor_mask
from reader_theory.trees.tree import ROOT, DraftTree

__all__ = ["Growmap", "from_growmap", "to_growmap"]


class Growmap(TypedDict):
    """Nodes are numbered level by level with the root as 0, and children of one node are consecutive."""

    roots: list[list[int]]
    branches: list[list[int]]
    Successors: list[list[int]]
    mask: list[list[int]]
    depth: list[int]
    size: int


def to_growmap(tree: DraftTree) -> Growmap:
    """Growmap of a tree, in plain lists; its `size` counts the root.

    Raises
    ------
    UnsupportedByEngineError
        If some node's children are not ranks 0, ..., b - 1: a growmap states how many, not which.
    """
    held = [sorted(tree.ranks[tree.children(node)].tolist()) for node in range(ROOT, len(tree))]
    skipping = [node for node, ranks in enumerate(held) if ranks != list(range(len(ranks)))]
    require(
        not skipping,
        "a growmap must have ranks 0, ..., b - 1 below every node",
        got=f"gaps below nodes {skipping[:5]} (0 is the root)",
        fix="Plan with rank-ordered children, or export rank paths, which name each rank.",
        error=UnsupportedByEngineError,
    )
    tree = DraftTree.from_rank_paths(tree.rank_paths())
    successors = [(tree.children(node) + 1).tolist() for node in range(ROOT, len(tree))]
    depth = [0, *tree.depths.tolist()]
    levels = [[node for node, d in enumerate(depth) if d == level] for level in range(tree.depth + 1)]
    return Growmap(
        roots=levels,
        branches=[[len(successors[node]) for node in level] for level in levels],
        Successors=successors,
        mask=ancestor_mask(tree).astype(int).tolist(),
        depth=depth,
        size=len(depth),
    )


def from_growmap(growmap: Mapping[str, Any]) -> DraftTree:
    """Tree of a growmap; lists, arrays and tensors are all read.

    Raises
    ------
    NotATreeError
        If `Successors` is missing, names a node twice or not at all, or disagrees with `size`.
    """
    successors: Sequence[Sequence[int]] = growmap.get("Successors") or []
    size = int(growmap.get("size", len(successors)))
    named = [int(child) for held in successors for child in held]
    require(
        len(successors) == size > 0 and sorted(named) == list(range(1, size)),
        "`Successors` must name every node but the root 0 once",
        got=f"{len(successors)} lists that name {len(set(named))} nodes, size {size}",
        fix="Pass the growmap whole, as Sequoia or UMbreLLa wrote it.",
        error=NotATreeError,
    )
    parents, ranks = np.zeros(size, dtype=np.int32), np.zeros(size, dtype=np.int32)
    for parent, held in enumerate(successors):
        for rank, child in enumerate(held):
            parents[int(child)], ranks[int(child)] = parent - 1, rank
    return DraftTree(parents[1:], ranks[1:])
