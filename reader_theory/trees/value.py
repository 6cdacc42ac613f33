"""What a tree is worth: tokens a step as the sum of path probabilities."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from reader_theory.errors import require
from reader_theory.trees.tree import TokenTree

__all__ = ["by_depth_and_rank", "path_probability", "tokens_per_step"]

_SLACK = 1e-9


def path_probability(tree: TokenTree, conditional: NDArray[np.float64]) -> NDArray[np.float64]:
    r"""Probability that every token on the path to each node is emitted.

    .. math:: P(v) = \prod_{u \preceq v} \Pr(u \mid \text{parent of } u \text{ emitted})

    Parameters
    ----------
    tree : TokenTree
        N nodes below the root.
    conditional : (N + 1,) float64, in [0, 1]
        Probability that a node's token is next, given that its parent's path was emitted; 1 at the root.

    Returns
    -------
    (N + 1,) float64
        1 at the root; never grows from a node to its child.

    Raises
    ------
    InvalidInputError
        If a conditional is missing, NaN, or outside [0, 1].

    Examples
    --------
    >>> path_probability(TokenTree([-1, 0, 0, 1]), np.array([1, 0.5, 0.2, 0.5])).tolist()
    [1.0, 0.5, 0.2, 0.25]
    """
    conditional = np.asarray(conditional, dtype=np.float64)
    inside = (conditional >= -_SLACK) & (conditional <= 1 + _SLACK)
    require(
        conditional.shape == (len(tree),) and bool(inside.all()) and conditional[0] == 1,
        "`conditional` must hold one probability in [0, 1] a node, and 1 at the root",
        got=f"shape {conditional.shape} for {len(tree)} nodes, outside at {np.flatnonzero(~inside)[:5].tolist()}",
        fix="Pass what an acceptance model's `conditional(tree)` returns.",
    )
    path = conditional.copy()
    for level in range(1, tree.depth + 1):
        nodes = np.flatnonzero(tree.depths == level)
        path[nodes] *= path[tree.parents[nodes]]
    return path


def tokens_per_step(path_probability: NDArray[np.float64]) -> float:
    r"""Expected tokens a step, :math:`\tau = 1 + \sum_v P(v)`; the 1 is the root's: the correction or bonus token.

    Examples
    --------
    >>> tokens_per_step(np.array([1, 0.5, 0.25]))
    1.75
    """
    return float(np.sum(path_probability))


def by_depth_and_rank(table: NDArray[np.float64], tree: TokenTree) -> NDArray[np.float64]:
    """(N + 1,) float64: the entry of a (D, R) table at each node's depth and rank, and 1 at the root.

    Depths and ranks beyond the last have 0.
    """
    depths, ranks = table.shape
    found = np.pad(table, ((0, 1), (0, 1)))[np.minimum(tree.depths - 1, depths), np.minimum(tree.ranks, ranks)]
    found[0] = 1.0
    return found


def siblings_sum(tree: TokenTree, conditional: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N + 1,) float64: the children's entries summed, by parent."""
    return np.asarray(np.bincount(tree.parents[1:], conditional[1:], len(tree)), dtype=np.float64)
