"""The policies that a plan chooses from: optimal trees, chains, retrieved chains, both in one trie, and off."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from optimizer.acceptance import RankAcceptance
from optimizer.cost import level_cost
from optimizer.planner import solve
from optimizer.problem import TreeProblem
from optimizer.solution import Certificate
from optimizer.solvers.best_first import best_first_order
from reader_theory.documents import Chain, Cost, Off, Policy, Static, Union
from reader_theory.documents.fit import WorkloadFit
from reader_theory.documents.policy import DRAFT
from reader_theory.trees.tree import TokenTree

__all__ = ["certified_tree", "neural_trees", "policy_family", "retrieved_chains"]

SIZES = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 48, 64)
SKIPS = (None, 2, 4, 8, 16)


def neural_trees(fit: WorkloadFit, max_nodes: int, max_depth: int) -> list[TokenTree]:
    """Best trees of every size and depth under the fitted rank x depth table, chains among them; each once.

    Best-first order is optimal here: the fitted table is used as it is, and any ranks may be chosen because drafts
    are deterministic (Tunstall 1967).
    """
    if fit.rank_depth is None:
        return []
    table = np.asarray(fit.rank_depth.value, dtype=np.float64)
    acceptance = RankAcceptance(table / np.maximum(table.sum(axis=1, keepdims=True), 1.0))
    deepest = min(max_depth, acceptance.depth)
    found: dict[TokenTree, None] = {}
    for depth in range(1, deepest + 1):
        found.setdefault(TokenTree.chain(depth))
        whole, _ = best_first_order(acceptance, max_nodes, depth)
        for size in (s for s in SIZES if s <= len(whole)):
            found.setdefault(whole.prune(nodes=size).by_level())
    return list(found)


def certified_tree(
    fit: WorkloadFit, cost: Cost, batch: int, context: float, max_nodes: int, max_depth: int
) -> tuple[TokenTree, Certificate] | None:
    """The best neural tree under the fitted table and the cost of each level's width, with its certificate.

    None where there is no draft to plan for.
    """
    if fit.rank_depth is None or DRAFT not in cost.drafters:
        return None
    table = np.asarray(fit.rank_depth.value, dtype=np.float64)[:max_depth]
    problem = TreeProblem(
        RankAcceptance(table / np.maximum(table.sum(axis=1, keepdims=True), 1.0)),
        level_cost(
            cost.model(), cost.model((DRAFT,)), DRAFT, batch=batch, context=context, nodes=max_nodes, depth=len(table)
        ),
        max_nodes,
        max_depth=len(table),
        batch=batch,
    )
    solution = solve(problem)
    assert solution.certificate is not None, "the planner certifies every answer"
    return solution.tree, solution.certificate


def retrieved_chains(max_tokens: int) -> list[Chain]:
    """Chains whose length grows with the match: from cautious (long matches only) to eager."""
    grid: list[Chain] = []
    for min_match in (1, 2, 3, 4, 6, 8):
        for offset, factor in ((0.0, 0.5), (0.0, 1.0), (0.0, 2.0), (1.0, 0.0), (2.0, 0.0), (4.0, 0.0), (8.0, 0.0)):
            for longest in (4, 8, 16, 24):
                if longest <= max_tokens and longest >= offset + factor * min_match:
                    grid.append(Chain(min_match=min_match, offset=offset, factor=factor, max_tokens=longest))
    return _distinct(grid)


def policy_family(trees: Iterable[TokenTree], chains: Iterable[Chain]) -> list[Policy]:
    """Off, every tree, every retrieved chain, and their unions, with or without the draft on long matches."""
    retrieved, static = list(chains), [Static.of(tree) for tree in trees]
    unions = [
        Union(static=tree, chain=chain, skip_at_match=skip) for tree in static for chain in retrieved for skip in SKIPS
    ]
    return [Off(), *static, *retrieved, *unions]


def _distinct(grid: list[Chain]) -> list[Chain]:
    """One of each behaviour: two rules with equal caps at every match length are one."""
    seen: dict[tuple[int, ...], Chain] = {}
    for chain in grid:
        seen.setdefault(tuple(chain.cap(m) for m in range(33)), chain)
    return list(seen.values())
