"""Target only: a child is accepted when the target draws its token.

Prefer it for trees that retrieval or top-k built; it needs no draft law.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from reader_theory.rules.laws import as_laws
from reader_theory.trees import TokenTree

__all__ = ["acceptance_probability", "expected_tokens", "path_probabilities"]


def acceptance_probability(target: ArrayLike, tokens: Sequence[int]) -> Any:
    """Probability that one of the distinct `tokens` is drawn: their mass under the target.

    Examples
    --------
    >>> float(acceptance_probability([0.5, 0.25, 0.25], [0, 2]))
    0.75
    """
    return as_laws(target, "target")[list(tokens)].sum()


def path_probabilities(tree: TokenTree, tokens: Sequence[int], target: ArrayLike) -> NDArray[Any]:
    """(N + 1,) probability that each node is accepted: the product of the target's probabilities along its path.

    Parameters
    ----------
    tree : TokenTree of N nodes
    tokens : sequence of N + 1 int
        Token of each node, distinct among siblings; that of the root is not read.
    target : (N + 1, V), each row sums to 1
        Law after each node.
    """
    laws = as_laws(target, "target")
    reached: list[Any] = [1]
    for node, parent in enumerate(tree.parents.tolist()[1:], start=1):
        reached.append(reached[parent] * laws[parent, tokens[node]])
    return np.array(reached, dtype=laws.dtype)


def expected_tokens(tree: TokenTree, tokens: Sequence[int], target: ArrayLike) -> Any:
    """Tokens a step, the sum of the path probabilities; exact for laws of fractions."""
    return path_probabilities(tree, tokens, target).sum()
