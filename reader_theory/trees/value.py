"""What a tree is worth: tokens a step as the sum of path probabilities."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from reader_theory.errors import require
from reader_theory.trees.tree import ROOT, DraftTree

__all__ = ["path_probability", "tokens_per_step"]

_SLACK = 1e-9


def path_probability(tree: DraftTree, conditional: NDArray[np.float64]) -> NDArray[np.float64]:
    r"""Probability that every token on the path to each node is emitted.

    .. math:: P(v) = \prod_{u \preceq v} \Pr(u \mid \text{parent of } u \text{ emitted})

    Parameters
    ----------
    tree : DraftTree
        N nodes.
    conditional : (N,) float64, in [0, 1]
        Probability that a node's token is next, given that its parent's path was emitted.

    Returns
    -------
    (N,) float64
        Never grows from a node to its child.

    Raises
    ------
    InvalidInputError
        If a conditional is missing, NaN, or outside [0, 1].

    Examples
    --------
    >>> path_probability(DraftTree([-1, -1, 0], [0, 1, 0]), np.array([0.5, 0.2, 0.5])).tolist()
    [0.5, 0.2, 0.25]
    """
    conditional = np.asarray(conditional, dtype=np.float64)
    inside = (conditional >= -_SLACK) & (conditional <= 1 + _SLACK)
    require(
        conditional.shape == (len(tree),) and bool(inside.all()),
        "`conditional` must hold one probability in [0, 1] a node",
        got=f"shape {conditional.shape} for {len(tree)} nodes, outside at {np.flatnonzero(~inside)[:5].tolist()}",
        fix="Pass what an acceptance model's `conditional(tree)` returns.",
    )
    path = conditional.copy()
    for level in range(2, tree.depth + 1):
        nodes = np.flatnonzero(tree.depths == level)
        path[nodes] *= path[tree.parents[nodes]]
    return path


def tokens_per_step(path_probability: NDArray[np.float64]) -> float:
    r"""Expected tokens a step, :math:`\tau = 1 + \sum_v P(v)`; the 1 is the correction or bonus token.

    Examples
    --------
    >>> tokens_per_step(np.array([0.5, 0.25]))
    1.75
    """
    return 1.0 + float(np.sum(path_probability))


def siblings_sum(tree: DraftTree, conditional: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N + 1,) float64: the children's conditionals summed, by parent; the root's children come first."""
    return np.asarray(np.bincount(tree.parents - ROOT, conditional, len(tree) + 1), dtype=np.float64)
