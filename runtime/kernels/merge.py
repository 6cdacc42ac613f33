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
    tokens: Array, parents: Array, probability: Array, budgets: Array, nodes: int, price: float = 0.0
) -> Merged:
    """Merge equal siblings, then keep the likeliest nodes above the price, within each row's budget.

    A merged node has the largest probability that a source gives it, but never more than its parent; of equal ones
    the earlier candidate wins. So the nodes kept are closed under parents, and stand in the order of the candidates.

    Parameters
    ----------
    tokens : (B, M + 1) int64
        The root, each row's last committed token; then candidates of all sources, one after the other. -1 marks one
        that is not there (nor then its children).
    parents : (B, M + 1) int64, ``0 <= parents[b, i] < i``, -1 for the root
        Candidate that each hangs from.
    probability : (B, M + 1) float64 in [0, 1]
        Estimate that every token on the path is emitted; the root's is not read.
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
    sizes.take("tokens", tokens, ("B", "M + 1"))
    sizes.take("parents", parents, ("B", "M + 1"))
    sizes.take("probability", probability, ("B", "M + 1"), ("float64",))
    sizes.take("budgets", budgets, ("B",))
    require(
        sizes["M + 1"] >= 1,
        "`tokens` must have a column for the root",
        got="no column",
        fix="Put each row's last committed token before the candidates.",
    )
    require(
        nodes >= 0 and price >= 0,
        "`nodes` and `price` must be >= 0",
        got=f"{nodes} and {price}",
        fix="A price of 0 keeps all that is possible.",
    )
    batch, width = sizes["B"], nodes + 1
    out = Merged(
        empty_like_of(tokens, (batch, width)),
        empty_like_of(tokens, (batch, width)),
        empty_like_of(tokens, (batch, width), "float64"),
        empty_like_of(tokens, (batch,)),
    )
    place = empty_like_of(tokens, (batch, 3, sizes["M + 1"]))
    chance = empty_like_of(tokens, (batch, sizes["M + 1"]), "float64")
    if on_gpu(tokens, parents, probability, budgets):
        from runtime.kernels.gpu import merge as gpu

        gpu.merge_candidates(tokens, parents, probability, budgets, float(price), place, chance, *out)
        return out
    from runtime.kernels.cpu import merge as cpu

    given = [host(x) for x in (tokens, parents, probability, budgets)]
    bad = cpu.merge_candidates(*[*given, float(price), *map(host, (place, chance, *out))])
    require(
        bad < 0,
        "`parents` must come before their candidates: 0 <= parents[b, i] < i, and -1 for the root",
        got=f"row {bad} breaks this",
        fix="Order the candidates of each source by depth.",
        error=NotATreeError,
    )
    return out
