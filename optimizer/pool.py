"""Pool: what a search of one workload may choose from, within limits that give way until they do not bind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from optimizer.limits import limits_met
from optimizer.policies import neural_trees, retrieved_chains
from optimizer.search import Space
from reader_theory.acceptance.paths import RankPaths
from reader_theory.acceptance.rank_table import RankTable
from reader_theory.acceptance.statistics import rows_of
from reader_theory.documents import Chain, Cost, Policy, Static, Trace
from reader_theory.errors import require
from reader_theory.trees.tree import TokenTree

__all__ = ["Limits", "Pool", "limits_of"]

NODES, DEPTH = 32, 8
"""Limits that a search begins with where nobody asks for others."""
SIZES = (*range(1, 13), 14, 16, 18, 20, 24, 28, 32, 40, 48, 56, 64, 80, 96, 128, 160, 192, 256, 320, 384, 512)
DEPTHS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 48, 64)
BELOW = (None, 1, 3, 6)
"""Match lengths below which a step's rows count for a tree: of all, and of those where retrieval has less to say."""
FEWEST = 20


@dataclass(frozen=True)
class Limits:
    """How large trees may be now, and how large at most: names of what sets the end say which limit binds."""

    nodes: int
    depth: int
    most_nodes: int
    most_depth: int
    nodes_end: str
    depth_end: str

    def wider(self, policy: Policy) -> Limits:
        """Twice the limits of which `policy` takes more than half, as far as they may go: costs have steps."""
        tree = policy.tree
        nodes = min(2 * self.nodes, self.most_nodes) if 2 * tree.nodes > self.nodes else self.nodes
        depth = min(2 * self.depth, self.most_depth) if 2 * tree.depth > self.depth else self.depth
        return replace(self, nodes=nodes, depth=depth)

    def names(self, policy: Policy, longest: int, recorded: Mapping[str, int]) -> tuple[str, ...]:
        """Names of the limits that `policy` stops at, by what sets them.

        Parameters
        ----------
        longest : int
            Of its chain.
        recorded : mapping from drafter to int
            Depths of those whose ranks were recorded depth by depth.
        """
        met = limits_met(policy, recorded, _largest(self.nodes), self.depth, longest)
        own = {"max_nodes": self.nodes_end, "max_depth": self.depth_end}
        own |= {} if policy.asks in recorded else {"depth of acceptance": self.depth_end}
        return tuple(own.get(name, name) for name in met)


def limits_of(cost: Cost, trace: Trace, workload: str, max_nodes: int | None, max_depth: int | None) -> Limits:
    """The limits that are asked for; left out, as many tokens as the cost measured and as deep as the outputs go."""
    for name, value in (("max_nodes", max_nodes), ("max_depth", max_depth)):
        require(
            value is None or value >= 1,
            f"`{name}` must be >= 1",
            got=value,
            fix="Leave it out to search as far as was measured.",
        )
    longest = max(p.output_tokens for p in trace.prompts if p.workload == workload)
    measured = max(cost.target_forward.tokens) - 1
    nodes = min(max(measured, NODES), SIZES[-1]) if max_nodes is None else max_nodes
    depth = max(min(longest - 1, DEPTHS[-1]), 1) if max_depth is None else max_depth
    return Limits(
        nodes=min(NODES, nodes) if max_nodes is None else nodes,
        depth=min(DEPTH, depth) if max_depth is None else depth,
        most_nodes=nodes,
        most_depth=depth,
        nodes_end="tokens measured in the cost" if max_nodes is None else "max_nodes",
        depth_end="length of the outputs" if max_depth is None else "max_depth",
    )


class Pool:
    """Trees of each drafter by rank, and rules for chains of each look-up, of one workload.

    Parameters
    ----------
    ranks : dict from drafter to RankTable
        What was fitted.
    lookups : sequence of str
        Drafters that offered chains here.
    """

    def __init__(
        self, trace: Trace, workload: str, ranks: Mapping[str, RankTable], lookups: tuple[str, ...], limits: Limits
    ) -> None:
        self.ranks, self.limits = ranks, limits
        rows = rows_of(trace, workload)
        self.longest = {name: max(int(np.max(rows.column(f"{name}_offered"))), 1) for name in lookups}
        self.chains: list[Chain] = [c for name in lookups for c in retrieved_chains(self.longest[name], name)]
        self._paths = {name: RankPaths(rows, name, trace.drafters[name].candidates) for name in ranks}
        match = np.max([rows.column(f"{name}_match") for name in lookups], axis=0) if lookups else None
        self._starts = [
            np.arange(len(rows.rows)) if below is None or match is None else np.flatnonzero(match < below)
            for below in (BELOW if match is not None else BELOW[:1])
        ]
        self.family: dict[str, list[Static]] = {}
        self._trees: dict[Static, None] = {}
        self._made: set[tuple[int, int]] = set()
        self.widen(limits)

    def widen(self, limits: Limits) -> None:
        """Take in the trees of these limits."""
        self.limits = limits
        if (limits.nodes, limits.depth) in self._made:
            return
        self._made.add((limits.nodes, limits.depth))
        for name, table in self.ranks.items():
            fitted = [Static.of(tree, name) for tree in neural_trees(table, limits.nodes, limits.depth)]
            self.family.setdefault(name, fitted)
            counted = (Static.of(tree, name) for tree in self._counted(name, limits))
            self._trees |= dict.fromkeys([*fitted, *counted])

    def add(self, tree: Static) -> None:
        """Take in one more."""
        if tree not in self.family[tree.drafter]:
            self.family[tree.drafter].append(tree)
        self._trees[tree] = None

    @property
    def space(self) -> Space:
        """What a search may choose from now."""
        within = [
            tree
            for tree in self._trees
            if tree.tree.nodes <= self.limits.nodes and tree.tree.depth <= self.limits.depth
        ]
        return Space(tuple(within), tuple(self.chains), max(self.longest.values(), default=1))

    def binding(self, policy: Policy) -> tuple[str, ...]:
        """Limits that `policy` stops at."""
        chain = policy.retrieved
        longest = policy.most_nodes + 1 if chain is None else self.longest[chain.drafter]
        recorded = {name: each.depth for name, each in self._paths.items() if each.depth is not None}
        return self.limits.names(policy, longest, recorded)

    def _counted(self, name: str, limits: Limits) -> list[TokenTree]:
        """Best trees of every size and depth by the counts of paths, and all chains."""
        deepest = min(limits.depth, limits.nodes, self._paths[name].depth or limits.depth)
        found = [TokenTree.chain(depth) for depth in range(1, deepest + 1)]
        depths = sorted({min(depth, limits.depth) for depth in DEPTHS})
        for starts in self._starts:
            for depth in depths if len(starts) >= FEWEST else ():
                whole = self._paths[name].best_first(starts, limits.nodes, depth)
                sizes = {size for size in SIZES if size <= whole.nodes}
                found += [whole.prune(nodes=size).by_level() for size in sorted(sizes)]
        return found


def _largest(nodes: int) -> int:
    """The largest size that is tried within `nodes`."""
    return max(size for size in SIZES if size <= nodes)
