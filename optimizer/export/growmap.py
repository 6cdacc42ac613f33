"""Growmap: the explicit tree of Sequoia and UMbreLLa, the root among its nodes.

Format: ``roots`` (nodes a level), ``branches`` (children each), ``Successors`` (which), ``mask`` (row: a node and its
ancestors), ``depth``, ``size``; UMbreLLa reads it as JSON, Sequoia as a torch file of the same with two tensors.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib import import_module
from typing import Any

import numpy as np

from optimizer.export.base import EXPORTERS, Exporter, ExportOptions, Settled
from optimizer.export.settle import Family
from reader_theory.documents.policy import Policy
from reader_theory.errors import InvalidInputError, require
from reader_theory.trees.tree import TokenTree

__all__ = ["Growmap", "growmap_of", "growmap_tensors", "tree_of_growmap"]


@EXPORTERS.register
class Growmap(Exporter):
    """Growmap of the plan's entry for `batch`, as UMbreLLa reads it; `growmap_tensors` makes Sequoia's of it."""

    name = "growmap"
    one_entry = True

    def families(self, policies: Iterable[Policy], options: ExportOptions) -> Mapping[str, Family]:
        """What is run: one family."""
        return {"tree": _runs}

    def write(self, settled: Settled, options: ExportOptions) -> dict[str, Any]:
        """The tree with its root."""
        return growmap_of(settled.policies[0].tree)


def growmap_of(tree: TokenTree) -> dict[str, Any]:
    """Growmap of a tree in which the children of each node are its ranks 0, 1, ... without gaps."""
    levels, place = _levels(tree)
    successors = [[place[child] for child in _children(tree, node)] for level in levels for node in level]
    parents = {place[child]: place[node] for level in levels for node in level for child in _children(tree, node)}
    mask = np.eye(len(tree), dtype=np.int64)
    for node in range(1, len(tree)):
        mask[node] |= mask[parents[node]]
    return {
        "roots": [[place[node] for node in level] for level in levels],
        "branches": [[len(_children(tree, node)) for node in level] for level in levels],
        "Successors": successors,
        "mask": mask.tolist(),
        "depth": [depth for depth, level in enumerate(levels) for _ in level],
        "size": len(tree),
    }


def tree_of_growmap(growmap: dict[str, Any]) -> TokenTree:
    """The draft tree of a growmap, from its ``Successors``.

    Raises
    ------
    InvalidInputError
        If ``Successors`` is not one list a node that names every node but the root once, parents first.
    """
    successors: list[list[int]] = growmap["Successors"]
    found = {int(child): (node, rank) for node, kids in enumerate(successors) for rank, child in enumerate(kids)}
    require(
        sorted(found) == list(range(1, len(successors))) and all(node < child for child, (node, _) in found.items()),
        "`Successors` must name every node but the root once, after its parent",
        got=f"{len(successors)} nodes, named {sorted(found)[:10]}",
        fix="Pass a growmap as Sequoia's tree search or `Growmap` writes it.",
        error=InvalidInputError,
    )
    found[0] = -1, 0
    return TokenTree(*zip(*(found[node] for node in range(len(successors))), strict=True))


def growmap_tensors(growmap: dict[str, Any]) -> dict[str, Any]:
    """The growmap with ``mask`` and ``depth`` as int64 tensors, which Sequoia reads after `torch.save`."""
    torch: Any = import_module("torch")
    return growmap | {name: torch.tensor(growmap[name], dtype=torch.int64) for name in ("mask", "depth")}


def _children(tree: TokenTree, node: int) -> list[int]:
    return sorted(tree.children(node), key=lambda child: int(tree.ranks[child]))


def _levels(tree: TokenTree) -> tuple[list[list[int]], dict[int, int]]:
    """Nodes by depth from the root, each level in order of its parents, and the number that each node gets."""
    levels = [[0]]
    while deeper := [child for node in levels[-1] for child in _children(tree, node)]:
        levels.append(deeper)
    return levels, {node: number for number, node in enumerate(node for level in levels for node in level)}


def _runs(policy: Policy, number: int) -> bool:
    tree = policy.tree
    kids = [[int(tree.ranks[child]) for child in _children(tree, node)] for node in range(len(tree))]
    return policy.retrieved is None and all(ranks == list(range(len(ranks))) for ranks in kids)
