"""Every tree there is: the oracle that the other solvers are measured against.

For small cases only: some thousands of trees at 8 nodes of 2 ranks. It shares nothing with the other solvers, and
reads the problem word by word. No cleverness, on purpose.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence

from optimizer.acceptance import Acceptance, ForestAcceptance
from optimizer.cost import LevelCost, Objective
from optimizer.problem import BatchProblem, Problem, RobustProblem, Rule, TreeProblem
from optimizer.solution import Solution
from reader_theory.trees.tree import TokenTree

__all__ = ["solve", "trees"]

Path = tuple[int, ...]
Nodes = tuple[Path, ...]
Tries = Iterator[tuple[tuple[Nodes, ...], float, Iterable[tuple[int, float]]]]


def trees(acceptance: Acceptance, nodes: int, depth: int, rule: Rule = "any") -> Iterator[TokenTree]:
    """Every tree of at most `nodes` nodes and `depth` levels that the rule allows, the empty one first."""
    follow, starts = _followers(acceptance, depth, rule)
    for chosen in _closed_sets(follow, starts, nodes):
        yield _tree(acceptance, chosen)


def _followers(acceptance: Acceptance, depth: int, rule: Rule) -> tuple[Callable[[Path], list[Path]], list[Path]]:
    """What each node makes available, and what is available from the start; a node is its rank path or its index."""
    if isinstance(acceptance, ForestAcceptance):
        forest = acceptance.tree

        def below(node: int) -> list[Path]:
            return [(child,) for child in forest.children(node) if forest.depths[child] <= depth]

        return lambda path: below(path[0]), below(0)
    ranks = acceptance.conditionals.shape[1]
    if rule == "any":
        return lambda path: [(*path, r) for r in range(ranks)] if len(path) < depth else [], [
            (r,) for r in range(ranks)
        ]

    def sibling_then_child(path: Path) -> list[Path]:
        sibling = [(*path[:-1], path[-1] + 1)] if path[-1] + 1 < ranks else []
        return sibling + ([(*path, 0)] if len(path) < depth else [])

    return sibling_then_child, [(0,)]


def _closed_sets(follow: Callable[[Path], list[Path]], starts: list[Path], limit: int) -> Iterator[tuple[Path, ...]]:
    """Each set once: a set is grown only by what stands behind its last choice."""
    stack: list[tuple[tuple[Path, ...], list[Path]]] = [((), starts)]
    while stack:
        chosen, available = stack.pop()
        yield chosen
        if len(chosen) < limit:
            for i, path in enumerate(available):
                stack.append(((*chosen, path), available[i + 1 :] + follow(path)))


def _tree(acceptance: Acceptance, chosen: tuple[Path, ...]) -> TokenTree:
    if isinstance(acceptance, ForestAcceptance):
        return acceptance.tree.prune([path[0] for path in chosen])
    return TokenTree.from_rank_paths(chosen)


def _gains(acceptance: Acceptance) -> Callable[[tuple[Path, ...]], float]:
    """Tokens a step of a set of nodes; each path's probability is worked out once."""
    known: dict[Path, float] = {}

    def gain(path: Path) -> float:
        if path not in known:
            if isinstance(acceptance, ForestAcceptance):
                known[path] = float(acceptance.path_probability[path[0]])
            else:
                known[path] = math.prod(float(acceptance.conditionals[d, r]) for d, r in enumerate(path))
        return known[path]

    return lambda chosen: 1 + sum(map(gain, chosen))


def _widths(acceptance: Acceptance, chosen: tuple[Path, ...]) -> list[int]:
    """Nodes at depth 1, 2, ... of a set of nodes."""
    forest = acceptance.tree.depths if isinstance(acceptance, ForestAcceptance) else None
    depths = [len(path) if forest is None else int(forest[path[0]]) for path in chosen]
    return [depths.count(d) for d in range(1, max(depths, default=0) + 1)]


def _best(problem: TreeProblem | BatchProblem | RobustProblem, owners: Sequence[Acceptance], tried: Tries) -> Solution:
    """The fastest of what is tried: nodes of each owner, tokens a step, and depths with the seconds of each."""
    objective = Objective() if isinstance(problem, RobustProblem) else problem.objective
    best: tuple[float, tuple[Nodes, ...], int, float, float] | None = None
    count = 0
    for chosen, tokens, steps in tried:
        count += 1
        for depth, step_s in steps:
            rate = problem.batch * tokens / step_s
            if objective.allows(tokens, step_s) and (best is None or rate > best[0]):
                best = rate, chosen, depth, tokens, step_s
    if best is None:
        return Solution.infeasible("exhaustive", "No tree meets the limits.", problem.batch)
    _, chosen, depth, tokens, step_s = best
    trees = tuple(_tree(owner, nodes) for owner, nodes in zip(owners, chosen, strict=True))
    answer = Solution.found("exhaustive", trees, depth, problem.batch, tokens, step_s)
    return answer.counted(trees=float(count))


def _single(problem: TreeProblem) -> Tries:
    gains = _gains(problem.acceptance)
    if problem.nodes_limit >= 0:
        follow, starts = _followers(problem.acceptance, problem.depth_limit, problem.rule)
        for chosen in _closed_sets(follow, starts, problem.nodes_limit):
            yield (chosen,), gains(chosen), _steps(problem, _widths(problem.acceptance, chosen))


def _steps(problem: TreeProblem, widths: list[int]) -> Iterator[tuple[int, float]]:
    """Depths that may be drafted for a tree of these level widths, with the seconds of each."""
    if isinstance(problem.cost, LevelCost):
        if max(widths, default=0) <= problem.cost.width:
            yield len(widths), problem.cost.step_s(widths)
        return
    for depth in range(len(widths), problem.depth_limit + 1):
        yield depth, problem.cost.step_s(sum(widths), depth)


def _batch(problem: BatchProblem) -> Tries:
    limit = problem.nodes_limit
    options = [
        [(chosen, gains(chosen)) for chosen in _closed_sets(*_followers(request, problem.depth_limit, "any"), limit)]
        for request in problem.requests
        for gains in [_gains(request)]
    ]
    for picks in itertools.product(*options) if limit >= 0 else ():
        chosen, nodes = tuple(nodes for nodes, _ in picks), sum(len(nodes) for nodes, _ in picks)
        kept = nodes <= limit and _promises_kept(problem, [(len(nodes), tokens) for nodes, tokens in picks])
        deepest = max(len(_widths(*pair)) for pair in zip(problem.requests, chosen, strict=True)) if kept else 0
        depths = range(deepest, problem.depth_limit + 1) if kept else ()
        mean = sum(tokens for _, tokens in picks) / problem.batch
        yield chosen, mean, [(depth, problem.cost.step_s(nodes, depth)) for depth in depths]


def _promises_kept(problem: BatchProblem, picks: list[tuple[int, float]]) -> bool:
    side = problem.side
    if side is None:
        return True
    for k, (most, least) in enumerate(zip(side.max_nodes, side.min_tokens_per_step, strict=True)):
        mine = [pick for pick, cls in zip(picks, side.classes, strict=True) if cls == k]
        if sum(n for n, _ in mine) > most or (mine and sum(t for _, t in mine) / len(mine) < least - 1e-9):
            return False
    return True


def _robust(problem: RobustProblem) -> Tries:
    each = [_gains(workload) for workload in problem.workloads]
    follow, starts = _followers(problem.workloads[0], problem.depth_limit, "any")
    for chosen in _closed_sets(follow, starts, problem.nodes_limit):
        worst = min(float(scale) * gains(chosen) for scale, gains in zip(problem.scales, each, strict=True))
        depths = range(max(map(len, chosen), default=0), problem.depth_limit + 1)
        yield (chosen,), worst, [(depth, problem.cost.step_s(len(chosen), depth)) for depth in depths]


def solve(problem: Problem) -> Solution:
    """The best answer among all, by trying all. The price is not known to it and is left at 0."""
    if isinstance(problem, TreeProblem):
        return _best(problem, [problem.acceptance], _single(problem))
    if isinstance(problem, BatchProblem):
        return _best(problem, problem.requests, _batch(problem))
    if isinstance(problem, RobustProblem):
        return _best(problem, problem.workloads[:1], _robust(problem))
    return max((solve(problem.at_batch(batch)) for batch in problem.costs), key=lambda answer: answer.value)
