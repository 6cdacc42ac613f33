"""The policies that a plan chooses from: optimal trees, chains, retrieved chains, both in one trie, and off."""

from __future__ import annotations

from collections.abc import Iterable

from optimizer.cost import level_cost
from optimizer.problem import TreeProblem
from optimizer.solution import Certificate
from optimizer.solvers.best_first import best_first_order
from optimizer.solving import solve
from reader_theory.acceptance.rank_table import RankTable
from reader_theory.documents import Chain, Cost, Static, Union
from reader_theory.documents.policy import RETRIEVAL
from reader_theory.trees.tree import TokenTree

__all__ = ["certified_tree", "neural_trees", "retrieved_chains", "unions_of"]

SIZES = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 48, 64)
SKIPS = (None, 2, 4, 8, 16)


def neural_trees(table: RankTable, max_nodes: int, max_depth: int) -> list[TokenTree]:
    """Best trees of every size and depth under a drafter's table of ranks by depth, chains among them; each once.

    Best-first order is optimal here: the fitted table is used as it is, and any ranks may be chosen because drafts
    are deterministic (Tunstall 1967).
    """
    found: dict[TokenTree, None] = {}
    for depth in range(1, min(max_depth, max_nodes, table.depth) + 1):
        found.setdefault(TokenTree.chain(depth))
        whole, _ = best_first_order(table, max_nodes, depth)
        for size in (s for s in SIZES if s <= len(whole)):
            found.setdefault(whole.prune(nodes=size).by_level())
    return list(found)


def certified_tree(
    table: RankTable, cost: Cost, drafter: str, batch: int, context: float, max_nodes: int, max_depth: int
) -> tuple[TokenTree, Certificate]:
    """The best tree of a drafter under its table and the cost of each level's width, with its certificate."""
    known = table.within(max_depth)
    problem = TreeProblem(
        known,
        level_cost(
            cost.model(),
            cost.model((drafter,)),
            drafter,
            cost.forwards_of(drafter),
            batch=batch,
            context=context,
            nodes=max_nodes,
            depth=known.depth,
        ),
        max_nodes,
        max_depth=known.depth,
        batch=batch,
    )
    solution = solve(problem)
    assert solution.certificate is not None, "the planner certifies every answer"
    return solution.tree, solution.certificate


def retrieved_chains(max_tokens: int, drafter: str = RETRIEVAL) -> list[Chain]:
    """Chains whose length grows with the match: from cautious (long matches only) to eager."""
    grid: list[Chain] = []
    for min_match in (1, 2, 3, 4, 6, 8):
        for offset, factor in ((0.0, 0.5), (0.0, 1.0), (0.0, 2.0), (1.0, 0.0), (2.0, 0.0), (4.0, 0.0), (8.0, 0.0)):
            for longest in (4, 8, 16, 24):
                if longest <= max_tokens and longest >= offset + factor * min_match:
                    grid.append(
                        Chain(drafter=drafter, min_match=min_match, offset=offset, factor=factor, max_tokens=longest)
                    )
    return _distinct(grid)


def unions_of(static: Iterable[Static], chains: Iterable[Chain]) -> list[Union]:
    """Every tree with every retrieved chain, with or without the draft on long matches."""
    retrieved = list(chains)
    return [
        Union(static=tree, chain=chain, skip_at_match=skip) for tree in static for chain in retrieved for skip in SKIPS
    ]


def _distinct(grid: list[Chain]) -> list[Chain]:
    """One of each behaviour: two rules with equal caps at every match length are one."""
    seen: dict[tuple[int, ...], Chain] = {}
    for chain in grid:
        seen.setdefault(tuple(chain.cap(m) for m in range(33)), chain)
    return list(seen.values())
