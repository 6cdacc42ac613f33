"""Medusa and EAGLE-1 choices: the tree as a list of rank paths, the root left out.

Format: ``medusa_choices`` of Medusa, ``choices`` of EAGLE-1, ``eagle_choices`` of TensorRT. Limits: ``medusa.json``.
"""

from __future__ import annotations

from collections.abc import Sequence

from optimizer.export.formats import engine_format
from optimizer.export.settle import Family, settle
from reader_theory.documents.plan import Plan
from reader_theory.documents.policy import Policy
from reader_theory.trees.tree import TokenTree

__all__ = ["export_medusa", "families", "tree_of_choices"]


def export_medusa(plan: Plan, workload: str, batch: int, *, nearest: bool = False) -> list[list[int]]:
    """The tree of the plan's entry for `batch`, shortest paths first and then in order of rank.

    Parameters
    ----------
    plan : Plan
    workload : str
    batch : int
    nearest : bool
        Export the nearest static tree where the plan's policy is none.

    Returns
    -------
    list of list of int
        One path of ranks a node; empty when the plan drafts nothing.

    Raises
    ------
    UnsupportedByEngineError
        If the policy has retrieval, is deeper than the heads or ranks beyond their top k, and `nearest` is false.
    """
    alone = plan.model_copy(update={"entries": (plan.entry(workload, batch),)})
    _, (choice,) = settle(alone, workload, engine_format("medusa"), families(alone, workload), nearest=nearest)
    paths = choice.policy.tree.rank_paths()[1:]
    return [list(path) for path in sorted(paths, key=lambda path: (len(path), path))]


def tree_of_choices(choices: Sequence[Sequence[int]]) -> TokenTree:
    """The draft tree of Medusa or EAGLE-1 choices.

    Examples
    --------
    >>> tree_of_choices([[0], [1], [0, 0]]).parents.tolist()
    [-1, 0, 0, 1]
    """
    return TokenTree.from_rank_paths(choices)


def families(plan: Plan, workload: str) -> dict[str, Family]:
    """What is run: one family."""
    return {"tree": _runs}


def _runs(policy: Policy, number: int) -> bool:
    limits = engine_format("medusa").limits
    tree = policy.tree
    within = tree.depth <= limits["heads"] and int(tree.ranks.max(initial=0)) < limits["topk"]
    return policy.retrieved is None and within
