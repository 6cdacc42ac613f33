"""Target only: a child is accepted when the target draws its token.

Prefer it for trees that retrieval or top-k built; it needs no draft law.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from reader_theory.rules.laws import as_laws
from reader_theory.trees import ROOT, DraftTree

__all__ = ["acceptance_probability", "expected_tokens", "path_probabilities"]


def acceptance_probability(target: ArrayLike, tokens: Sequence[int]) -> Any:
    """Probability that one of the distinct `tokens` is drawn: their mass under the target.

    Examples
    --------
    >>> float(acceptance_probability([0.5, 0.25, 0.25], [0, 2]))
    0.75
    """
    return as_laws(target, "target")[list(tokens)].sum()


def path_probabilities(tree: DraftTree, tokens: Sequence[int], target: ArrayLike) -> NDArray[Any]:
    """(N,) probability that each node is accepted: the product of the target's probabilities along its path.

    Parameters
    ----------
    tree : DraftTree of N nodes
    tokens : sequence of N int
        Token of each node, distinct among siblings.
    target : (N + 1, V), each row sums to 1
        Law at the root (row 0) and after each node (row node + 1).
    """
    laws = as_laws(target, "target")
    reached: dict[int, Any] = {ROOT: 1}
    for node, parent in enumerate(tree.parents.tolist()):
        reached[node] = reached[parent] * laws[parent + 1, tokens[node]]
    return np.array([reached[node] for node in range(len(tree))], dtype=laws.dtype)


def expected_tokens(tree: DraftTree, tokens: Sequence[int], target: ArrayLike) -> Any:
    """Tokens a step, 1 + sum of the path probabilities; exact for laws of fractions."""
    return 1 + path_probabilities(tree, tokens, target).sum()
