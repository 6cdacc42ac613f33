"""What every tree solver hands to the scan over sizes and depths: the best value of each, and the tree behind it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reader_theory.trees.tree import TokenTree

__all__ = ["TokensTable", "stationary_fill"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class TokensTable:
    """Most tokens a step for every depth limit and number of nodes.

    Parameters
    ----------
    values : (D + 1, N + 1) float64
        ``values[d, n]``: best tokens a step of a tree of exactly n nodes, none deeper than d; -inf where there is none.
    build : callable (depth, nodes) -> TokenTree
        The tree that attains it.
    solver : str
    work : float
        Nodes expanded, or sums compared.
    """

    values: Floats
    build: Callable[[int, int], TokenTree]
    solver: str
    work: float


def stationary_fill(values: Floats, done: int) -> None:
    """Repeat row `done` in all deeper rows: where more depth changes nothing, no deeper limit does."""
    values[done + 1 :] = values[done]
