"""Which limits of the search a chosen policy stops at: a wider one may gain, so a plan says so."""

from __future__ import annotations

from collections.abc import Mapping

from reader_theory.documents import Policy

__all__ = ["limits_met"]


def limits_met(
    policy: Policy, known_depth: Mapping[str, int], max_nodes: int, max_depth: int, longest: int
) -> tuple[str, ...]:
    """Names of the limits that `policy` stops at.

    Parameters
    ----------
    policy : Policy
    known_depth : mapping from drafter to int
        Depths that its acceptance was counted to.
    max_nodes, max_depth : int
        Largest neural tree.
    longest : int
        Longest retrieved chain that was weighed.
    """
    tree, known = policy.tree, known_depth.get(policy.asks or "", max_depth)
    retrieved = policy.retrieved
    met = {
        "max_nodes": tree.nodes >= max_nodes,
        "max_depth": tree.nodes > 0 and tree.depth == max_depth < known,
        "depth of acceptance": tree.nodes > 0 and tree.depth == known <= max_depth,
        "longest retrieved chain": retrieved is not None and retrieved.max_tokens >= longest,
    }
    return tuple(name for name, stops in met.items() if stops)
