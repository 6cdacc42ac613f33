"""Drafting that is paid by level width: which widths, level by level, are best.

Prefer it where the draft's forward over w nodes costs more than over one. For given widths the widest beam is best (a
set of nodes with larger probabilities has children with larger probabilities, rank by rank), so only widths are
searched. An exact dynamic program over (level, width, nodes), in which a level may use the best nodes of the level
above whatever was chosen higher up, bounds what any prefix of widths can still become; best-first search over
prefixes under that bound ends at the optimum, mostly after a handful of prefixes. Tokens a second by Dinkelbach
(1967).
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from optimizer.compiled import compiled
from optimizer.cost import LevelCost
from optimizer.problem import TreeProblem, ranks_are_free
from optimizer.solution import Solution
from reader_theory.acceptance.rank_table import RankTable
from reader_theory.errors import InvalidInputError
from reader_theory.trees.tree import TokenTree

__all__ = ["solve"]

Floats = NDArray[np.float64]
MOST_PREFIXES = 200_000


@compiled
def _to_go(worth: Floats, draft_s: Floats, verify_s: Floats, price: float, go: Floats) -> None:
    """``go[d, v, n]``: most surplus to come below level d of width v with n nodes so far, less verification."""
    depth, width, nodes = worth.shape[0], worth.shape[1] - 1, go.shape[2] - 1
    for n in range(nodes + 1):
        go[depth, :, n] = -price * verify_s[n]
    for d in range(depth - 1, -1, -1):
        for v in range(width + 1):
            for n in range(nodes + 1):
                best = -price * verify_s[n]
                for w in range(1, min(width, nodes - n) + 1 if v > 0 else 1):
                    surplus = worth[d, v, w] - price * draft_s[d, v] + go[d + 1, w, n + w]
                    best = surplus if surplus > best else best
                go[d, v, n] = best


@dataclass(frozen=True, eq=False)
class _Prefix:
    """Widths of the first levels, with the nodes that the beam keeps on the last of them."""

    widths: tuple[int, ...]
    path: Floats
    tokens: float
    draft_s: float
    nodes: int


class _Search:
    """Largest tokens - price * seconds over width profiles, for one price after another."""

    def __init__(self, problem: TreeProblem, acceptance: RankTable, cost: LevelCost) -> None:
        self.cost, self.cap_s = cost, problem.objective.step_cap_s
        self.nodes, self.depth = problem.nodes_limit, problem.depth_limit
        self.width = max(1, min(cost.width, self.nodes))
        self.ranks = acceptance.conditionals
        self.worth = self._worth()
        self.expanded = 0

    def _worth(self) -> Floats:
        """(D, W + 1, W + 1): sum of the w best children of the v best nodes there can be on a level."""
        worth = np.full((self.depth, self.width + 1, self.width + 1), -np.inf)
        beam = np.ones(1)
        for d in range(self.depth):
            for v in range(1, len(beam) + 1):
                best = self._beam(beam[:v], d)
                worth[d, v, 1 : len(best) + 1] = np.cumsum(best)
            beam = self._beam(beam, d)
        return worth

    def _beam(self, path: Floats, d: int) -> Floats:
        return -np.sort(-np.multiply.outer(path, self.ranks[d]).ravel())[: self.width]

    def best(self, price: float) -> tuple[_Prefix | None, float]:
        """The best profile that keeps the cap (None if none does), and a bound on the surplus of all."""
        go = np.empty((self.depth + 1, self.width + 1, self.nodes + 1))
        _to_go(self.worth, self.cost.draft_s[: self.depth, : self.width + 1], self.cost.verify_s, price, go)
        root = _Prefix((), np.ones(1), 1.0, 0.0, 0)
        heap: list[tuple[float, int, bool, _Prefix]] = [(-1.0 - float(go[0, 1, 0]), 0, False, root)]
        pushed = 0
        while heap:
            bound, _, whole, prefix = heapq.heappop(heap)
            if whole:
                return prefix, -bound
            self.expanded += 1
            if self.expanded > MOST_PREFIXES:
                return None, -bound
            for surplus, complete, longer in self._longer(prefix, go, price):
                pushed += 1
                heapq.heappush(heap, (-surplus, pushed, complete, longer))
        return None, -np.inf

    def _longer(self, prefix: _Prefix, go: Floats, price: float) -> list[tuple[float, bool, _Prefix]]:
        """The prefix as it stands, if it keeps the cap, and every prefix with one more level."""
        seconds = prefix.draft_s + float(self.cost.verify_s[prefix.nodes])
        found = [(prefix.tokens - price * seconds, True, prefix)] if seconds <= self.cap_s else []
        d = len(prefix.widths)
        if d == self.depth:
            return found
        beam = self._beam(prefix.path, d)[: self.nodes - prefix.nodes]
        gained = prefix.tokens + np.cumsum(beam)
        draft_s = prefix.draft_s + float(self.cost.draft_s[d, len(prefix.path)])
        for w, tokens in enumerate(gained.tolist(), start=1):
            nodes = prefix.nodes + w
            surplus = tokens - price * draft_s + float(go[d + 1, w, nodes])
            found.append((surplus, False, _Prefix((*prefix.widths, w), beam[:w], tokens, draft_s, nodes)))
        return found


def solve(problem: TreeProblem) -> Solution:
    """The best level widths and the beam that fills them.

    Parameters
    ----------
    problem : TreeProblem
        With a `LevelCost` and a `RankTable` under rule "any", or whose ranks never rise.
    """
    acceptance, cost = problem.acceptance, problem.cost
    free = ranks_are_free(acceptance, problem.rule)
    if not (isinstance(acceptance, RankTable) and isinstance(cost, LevelCost) and free):
        raise InvalidInputError(
            '`problem` must pair a LevelCost with a RankTable under rule "any" or with falling ranks',
            got=f"{type(cost).__name__}, {type(acceptance).__name__}, rule {problem.rule!r}",
            fix='Use solver "relaxation" for what else there is.',
        )
    if problem.nodes_limit < 0:
        return Solution.infeasible("levels", "Not even plain decoding fits the memory: lower the batch.", problem.batch)
    search = _Search(problem, acceptance, cost)
    return _dinkelbach(problem, search)


def _dinkelbach(problem: TreeProblem, search: _Search) -> Solution:
    price, best, bound, iterations = 0.0, None, np.inf, 0
    while True:
        iterations += 1
        found, surplus = search.best(price)
        if found is None:
            cheapest = float(search.cost.verify_s[: search.nodes + 1].min())
            bound = price + max(0.0, surplus) / cheapest if surplus > -np.inf else bound
            break
        seconds = found.draft_s + float(search.cost.verify_s[found.nodes])
        rate = found.tokens / seconds
        if best is not None and rate <= price * (1 + 1e-13):
            bound = price
            break
        best, price = found, rate
    if best is None:
        return Solution.infeasible("levels", "No step keeps within the cap: raise it.", problem.batch)
    return _solution(problem, search, best, bound, iterations)


def _solution(problem: TreeProblem, search: _Search, best: _Prefix, bound: float, iterations: int) -> Solution:
    seconds = best.draft_s + float(search.cost.verify_s[best.nodes])
    rate = best.tokens / seconds
    if not problem.objective.allows(best.tokens, seconds):
        return Solution.infeasible(
            "levels", "No tree meets the latency target: raise it, or lower the batch.", problem.batch
        )
    ahead = search.cost.verify_s[best.nodes + 1 : search.nodes + 1] - search.cost.verify_s[best.nodes]
    slope = float((ahead / np.arange(1, len(ahead) + 1)).min(initial=np.inf))
    optimal = bound <= rate * (1 + 1e-12)
    return Solution.found(
        "levels", (_beam_tree(search.ranks, best.widths),), len(best.widths), problem.batch, best.tokens, seconds,
        value=problem.batch * rate, bound=None if optimal else problem.batch * bound,
        price=min(1.0, max(0.0, rate * slope)),
        advice="" if optimal else "The search was cut short; the gap says by how much it may miss.",
        prefixes=float(search.expanded), iterations=float(iterations),
    )  # fmt: skip


def _beam_tree(ranks: Floats, widths: tuple[int, ...]) -> TokenTree:
    parents, chosen = [-1], [0]
    path, names = np.ones(1), np.zeros(1, dtype=np.intp)
    for d, width in enumerate(widths):
        family = np.multiply.outer(path, ranks[d]).ravel()
        order = np.argsort(-family, kind="stable")[:width]
        parents += names[order // ranks.shape[1]].tolist()
        chosen += (order % ranks.shape[1]).tolist()
        names = np.arange(len(parents) - len(order), len(parents))
        path = family[order]
    return TokenTree(parents, chosen)
