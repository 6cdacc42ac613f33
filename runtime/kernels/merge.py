"""Door: merge what several sources offer into one trie a row, and keep what is worth its price."""

from __future__ import annotations

from typing import Any, NamedTuple

from reader_theory.errors import NotATreeError, require
from runtime.kernels._door import Array, Sizes, empty_like_of, host, on_gpu

__all__ = ["Merged", "merge_candidates"]


class Merged(NamedTuple):
    """One trie a row; node 0 is the root.

    Attributes
    ----------
    tokens : (B, N + 1) int64
        Token of each node, that of the root in column 0; 0 beyond `counts`.
    parents : (B, N + 1) int64
        -1 for the root and beyond `counts`.
    probability : (B, N + 1) float64
        Of the path to each node, 1 for the root; 0 beyond `counts`.
    counts : (B,) int64
        Nodes of each row, the root included.
    """

    tokens: Any
    parents: Any
    probability: Any
    counts: Any


def merge_candidates(
    root: Array, tokens: Array, parents: Array, probability: Array, budgets: Array, nodes: int, price: float = 0.0
) -> Merged:
    """Merge equal siblings, then keep the likeliest nodes above the price, within each row's budget.

    A merged node has the largest probability that a source gives it, but never more than its parent; of equal ones
    the earlier candidate wins. So the nodes kept are closed under parents, and stand in the order of the candidates.

    Parameters
    ----------
    root : (B,) int64
        Last committed token of each row.
    tokens : (B, M) int64
        Candidates of all sources, one after the other; -1 marks one that is not there (nor then its children).
    parents : (B, M) int64, ``-1 <= parents[b, i] < i``
        Candidate that each hangs from, -1 for the root.
    probability : (B, M) float64 in [0, 1]
        Estimate that every token on the path is emitted.
    budgets : (B,) int64
        Most nodes to keep in each row, the root not counted; at most `nodes` are.
    nodes : int, >= 0
        N, columns of the result less one.
    price : float
        A path probability must lie above it.

    Raises
    ------
    InvalidInputError
        On a wrong shape or dtype.
    NotATreeError
        On the CPU, when a parent does not come before its candidate.
    """
    sizes = Sizes()
    sizes.take("root", root, ("B",))
    sizes.take("tokens", tokens, ("B", "M"))
    sizes.take("parents", parents, ("B", "M"))
    sizes.take("probability", probability, ("B", "M"), ("float64",))
    sizes.take("budgets", budgets, ("B",))
    require(
        nodes >= 0 and price >= 0,
        "`nodes` and `price` must be >= 0",
        got=f"{nodes} and {price}",
        fix="A price of 0 keeps all that is possible.",
    )
    batch, width = sizes["B"], nodes + 1
    out = Merged(
        empty_like_of(root, (batch, width)),
        empty_like_of(root, (batch, width)),
        empty_like_of(root, (batch, width), "float64"),
        empty_like_of(root, (batch,)),
    )
    place = empty_like_of(root, (batch, 3, sizes["M"]))
    chance = empty_like_of(root, (batch, sizes["M"]), "float64")
    if on_gpu(root, tokens, parents, probability, budgets):
        from runtime.kernels.gpu import merge as gpu

        gpu.merge_candidates(root, tokens, parents, probability, budgets, float(price), place, chance, *out)
        return out
    from runtime.kernels.cpu import merge as cpu

    given = [host(x) for x in (root, tokens, parents, probability, budgets)]
    bad = cpu.merge_candidates(*[*given, float(price), *map(host, (place, chance, *out))])
    require(
        bad < 0,
        "`parents` must come before their candidates: -1 <= parents[b, i] < i",
        got=f"row {bad} breaks this",
        fix="Order the candidates of each source by depth.",
        error=NotATreeError,
    )
    return out
