"""Medusa and EAGLE-1 choices: the tree as a list of rank paths, the root left out.

Format: ``medusa_choices`` of Medusa, ``choices`` of EAGLE-1, ``eagle_choices`` of TensorRT. Limits: ``medusa.json``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from optimizer.export.base import EXPORTERS, Exporter, ExportOptions, Settled
from optimizer.export.settle import Family
from reader_theory.documents.policy import Policy
from reader_theory.trees.tree import TokenTree

__all__ = ["Medusa", "tree_of_choices"]


@EXPORTERS.register
class Medusa(Exporter):
    """The tree of the plan's entry for `batch`, shortest paths first and then in order of rank; empty for off."""

    name = "medusa"
    one_entry = True

    def families(self, policies: Iterable[Policy], options: ExportOptions) -> Mapping[str, Family]:
        """What is run: one family."""
        return {"tree": self._runs}

    def write(self, settled: Settled, options: ExportOptions) -> list[list[int]]:
        """One path of ranks a node."""
        paths = settled.policies[0].tree.rank_paths()[1:]
        return [list(path) for path in sorted(paths, key=lambda path: (len(path), path))]

    def _runs(self, policy: Policy, number: int) -> bool:
        limits, tree = self.format.limits, policy.tree
        within = tree.depth <= limits["heads"] and int(tree.ranks.max(initial=0)) < limits["topk"]
        return policy.retrieved is None and within


def tree_of_choices(choices: Sequence[Sequence[int]]) -> TokenTree:
    """The draft tree of Medusa or EAGLE-1 choices.

    Examples
    --------
    >>> tree_of_choices([[0], [1], [0, 0]]).parents.tolist()
    [-1, 0, 0, 1]
    """
    return TokenTree.from_rank_paths(choices)
