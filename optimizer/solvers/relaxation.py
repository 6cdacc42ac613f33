"""Mixed-integer and linear formulations in cvxpy: side constraints, and an independent bound.

Prefer it for shared budgets and service classes, for explicit candidates under level-width costs, and as a second
opinion on the others; it is orders of magnitude slower than they are. One binary variable a candidate node, one a
choice of (depth, nodes) or of a level's width; HiGHS solves it. Tokens a second by Dinkelbach (1967), so that each
program is linear. `linear_bound` drops integrality and returns what its duals say.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from optimizer.acceptance import Acceptance, ForestAcceptance
from optimizer.cost import LevelCost, TabulatedCost
from optimizer.problem import BatchProblem, RobustProblem, Rule, TreeProblem
from optimizer.solution import Solution
from reader_theory.errors import require
from reader_theory.trees.tree import TokenTree

__all__ = ["LinearBound", "linear_bound", "solve"]

Floats = NDArray[np.float64]
MOST_VARIABLES = 20_000
Formulable = TreeProblem | BatchProblem | RobustProblem


@dataclass(frozen=True)
class LinearBound:
    """Upper bound of the linear relaxation.

    Parameters
    ----------
    value : float, tokens a second
    budget_prices : tuple of float, tokens
        What one more node is worth to each service class; empty without side constraints.
    """

    value: float
    budget_prices: tuple[float, ...]


@dataclass(eq=False)
class _Candidates:
    """Nodes that may be verified, over all requests: what each needs first, where it stands, and what it is worth."""

    needs: list[int]
    levels: list[int]
    owners: list[int]
    paths: list[tuple[int, ...]]
    worth: Floats


def _candidates(problem: Formulable) -> _Candidates:
    forests = problem.requests if isinstance(problem, BatchProblem) else ()
    if isinstance(problem, TreeProblem) and isinstance(problem.acceptance, ForestAcceptance):
        forests = (problem.acceptance,)
    if isinstance(problem, BatchProblem) or forests:
        found = _Candidates([], [], [], [], np.zeros((0, 1)))
        for owner, request in enumerate(forests):
            _add_forest(found, request, owner, problem.depth_limit)
        return found
    laws = problem.workloads if isinstance(problem, RobustProblem) else (problem.acceptance,)
    rule = problem.rule if isinstance(problem, TreeProblem) else "any"
    return _rank_candidates(laws, rule, problem.nodes_limit, problem.depth_limit)


def _add_forest(found: _Candidates, forest: ForestAcceptance, owner: int, depth: int) -> None:
    start = len(found.needs)
    kept = np.flatnonzero(forest.tree.depths <= depth)[1:]
    place = {int(node): start + i for i, node in enumerate(kept)}
    found.needs += [place.get(int(forest.tree.parents[i]), -1) for i in kept]
    found.levels += forest.tree.depths[kept].tolist()
    found.owners += [owner] * len(kept)
    found.paths += [(int(i),) for i in kept]
    found.worth = np.concatenate([found.worth, forest.path_probability[kept, None]])


def _rank_candidates(laws: tuple[Acceptance, ...], rule: Rule, nodes: int, depth: int) -> _Candidates:
    """Rank paths that a tree of `nodes` nodes can reach: a node needs its parent, or under "first" its left sibling."""
    tables = [law.conditionals for law in laws if not isinstance(law, ForestAcceptance)]
    place: dict[tuple[int, ...], int] = {}
    found = _Candidates([], [], [], [], np.zeros((0, len(tables))))
    worth: list[list[float]] = []
    frontier: list[tuple[tuple[int, ...], list[float]]] = [((), [1.0] * len(tables))]
    while frontier:
        path, above = frontier.pop()
        for r in range(tables[0].shape[1]) if len(path) < depth else ():
            child = (*path, r)
            need = sum(child) + len(child) if rule == "first" else len(child)
            if need > nodes:
                break
            place[child] = len(place)
            before = child[:-1] if rule == "any" or r == 0 else (*path, r - 1)
            found.needs.append(place.get(before, -1))
            found.levels.append(len(child))
            found.owners.append(0)
            found.paths.append(child)
            worth.append([a * float(t[len(path), r]) for a, t in zip(above, tables, strict=True)])
            frontier.append((child, worth[-1]))
            require(
                len(place) <= MOST_VARIABLES,
                f"`problem` must have at most {MOST_VARIABLES} candidate nodes for this formulation",
                got=f"{len(place)} and more",
                fix="Lower max_nodes, max_depth or the number of ranks, or let the planner pick a special solver.",
            )
    found.worth = np.array(worth).reshape(-1, len(tables))
    return found


class _Program:
    """max tokens - price * seconds over one candidate set, for one price after another."""

    def __init__(self, problem: Formulable, boolean: bool) -> None:
        import cvxpy as cp

        self.cp: Any = cp
        self.problem, self.found = problem, _candidates(problem)
        count = len(self.found.needs)
        self.x: Any = cp.Variable(max(count, 1), boolean=boolean)
        self.rules: list[Any] = [self.x >= 0, self.x <= 1]
        if count == 0:
            self.rules.append(self.x == 0)
        child = np.flatnonzero(np.array(self.found.needs, dtype=int) >= 0)
        if len(child):
            self.rules.append(self.x[child] <= self.x[np.array(self.found.needs)[child]])
        self.budgets: list[Any] = []
        self.tokens: Any = self._tokens()
        is_levels = isinstance(problem, TreeProblem) and isinstance(problem.cost, LevelCost)
        self.seconds: Any = self._level_seconds(boolean) if is_levels else self._table_seconds(boolean)
        target = np.inf if isinstance(problem, RobustProblem) else problem.objective.latency_target_s
        if np.isfinite(target):
            self.rules.append(self.seconds <= target * self.tokens)
        self.price: Any = cp.Parameter(nonneg=True)
        self.program: Any = cp.Problem(cp.Maximize(self.tokens - self.price * self.seconds), self.rules)

    def _tokens(self) -> Any:
        """Mean tokens a step of a request, the worst scaled workload's for several; adds the classes' rules."""
        problem, worth = self.problem, np.zeros((1, 1)) if len(self.found.needs) == 0 else self.found.worth
        if isinstance(problem, RobustProblem):
            worst: Any = self.cp.Variable()
            for w, scale in enumerate(problem.scales):
                self.rules.append(worst <= scale * (1 + worth[:, w % worth.shape[1]] @ self.x))
            return worst
        if isinstance(problem, BatchProblem) and problem.side is not None:
            self._classes(problem, worth[:, 0])
        share = problem.batch if isinstance(problem, BatchProblem) else 1
        return 1 + worth[:, 0] @ self.x / share

    def _classes(self, problem: BatchProblem, worth: Floats) -> None:
        side = problem.side
        owners = np.array(self.found.owners or [0])
        for k, (most, least) in enumerate(zip(side.max_nodes, side.min_tokens_per_step, strict=True)) if side else ():
            members = np.array([c == k for c in side.classes]) if side else np.zeros(0, dtype=bool)
            mine = members[owners].astype(float)
            self.budgets.append(mine @ self.x <= min(most, len(owners)))
            if members.any():
                self.rules.append(1 + (mine * worth) @ self.x / int(members.sum()) >= least)
        self.rules += self.budgets

    def _table_seconds(self, boolean: bool) -> Any:
        problem, cost = self.problem, self.problem.cost
        assert isinstance(cost, TabulatedCost)
        table = cost.table(problem.depth_limit, problem.nodes_limit)
        z: Any = self.cp.Variable(table.shape, boolean=boolean)
        nodes = problem.nodes_limit
        cap = np.inf if isinstance(problem, RobustProblem) else problem.objective.step_cap_s
        self.rules += [
            z >= 0,
            self.cp.sum(z) == 1,
            self.cp.sum(z, axis=0) @ np.arange(nodes + 1) == self.cp.sum(self.x),
        ]
        if (table > cap).any():
            self.rules.append(self.cp.multiply(z, (table > cap).astype(float)) == 0)
        levels = np.array(self.found.levels or [0])
        for d in range(1, problem.depth_limit + 1):
            if (levels == d).any():
                self.rules.append(self.x[np.flatnonzero(levels == d)] <= self.cp.sum(z[d:]))
        return self.cp.sum(self.cp.multiply(z, table))

    def _level_seconds(self, boolean: bool) -> Any:
        problem = self.problem
        cost = problem.cost
        assert isinstance(cost, LevelCost) and isinstance(problem, TreeProblem)
        width, depth, nodes = cost.width, problem.depth_limit, problem.nodes_limit
        levels = np.array(self.found.levels or [0])
        y: Any = self.cp.Variable((depth, width + 1), boolean=boolean)
        z: Any = self.cp.Variable(nodes + 1, boolean=boolean)
        self.rules += [y >= 0, y[:, 0] == 0, y[0, 2:] == 0, z >= 0, self.cp.sum(z) == 1]
        self.rules.append(np.arange(nodes + 1) @ z == self.cp.sum(self.x))
        for d in range(depth):
            drafted = self.cp.sum(y[d])
            below = (levels == d + 1).astype(float) @ self.x
            self.rules += [drafted <= 1, below <= width * drafted]
            if d:
                here = (levels == d).astype(float) @ self.x
                wide = np.arange(width + 1) @ y[d]
                self.rules += [here >= wide, here <= wide + width * (1 - drafted)]
        seconds = cost.verify_s[: nodes + 1] @ z + self.cp.sum(self.cp.multiply(y, cost.draft_s[:depth]))
        if np.isfinite(problem.objective.step_cap_s):
            self.rules.append(seconds <= problem.objective.step_cap_s)
        return seconds

    def solve_at(self, price: float) -> tuple[float, float] | None:
        """Tokens and seconds of the best point at this price; None when there is none."""
        self.price.value = price
        self.program.solve(solver=self.cp.HIGHS, highs_options={"mip_rel_gap": 0.0, "mip_abs_gap": 1e-12})
        if self.program.status not in ("optimal", "optimal_inaccurate"):
            return None
        return float(self.tokens.value), float(self.seconds.value)

    def maximise(self) -> tuple[float, int]:
        """Largest tokens over seconds, and the programs solved; 0 when nothing is feasible."""
        price = 0.0
        for count in range(1, 41):
            point = self.solve_at(price)
            if point is None:
                return 0.0, count
            rate = point[0] / point[1]
            if rate <= price * (1 + 1e-10):
                return max(rate, price), count
            price = rate
        return price, 40


def linear_bound(problem: Formulable) -> LinearBound:
    """Upper bound on tokens a second of the batch by the linear relaxation, with the prices of class budgets."""
    program = _Program(problem, boolean=False)
    rate, _ = program.maximise()
    return LinearBound(problem.batch * rate, tuple(float(rule.dual_value) for rule in program.budgets))


def solve(problem: Formulable) -> Solution:
    """The optimum by mixed-integer programs; side constraints are kept."""
    if problem.nodes_limit < 0:
        return Solution.infeasible(
            "relaxation", "Not even plain decoding fits the memory: lower the batch.", problem.batch
        )
    program = _Program(problem, boolean=True)
    rate, count = program.maximise()
    if rate <= 0:
        advice = "No choice keeps every limit and promise: raise a budget, or promise a class less."
        return Solution.infeasible("relaxation", advice, problem.batch)
    taken = np.flatnonzero(program.x.value[: len(program.found.needs)] > 0.5)
    trees = _trees(problem, program.found, taken)
    return _solution(problem, trees, program.found.worth[taken], count)


def _trees(problem: Formulable, found: _Candidates, taken: NDArray[np.intp]) -> tuple[TokenTree, ...]:
    if isinstance(problem, BatchProblem):
        requests: tuple[Acceptance, ...] = problem.requests
    else:
        requests = problem.workloads[:1] if isinstance(problem, RobustProblem) else (problem.acceptance,)
    trees: list[TokenTree] = []
    for owner, request in enumerate(requests):
        paths: list[tuple[int, ...]] = [found.paths[i] for i in taken if found.owners[i] == owner]
        if isinstance(request, ForestAcceptance):
            trees.append(request.tree.prune([path[0] for path in paths]))
        else:
            trees.append(TokenTree.from_rank_paths(paths))
    return tuple(trees)


def _solution(problem: Formulable, trees: tuple[TokenTree, ...], worth: Floats, programs: int) -> Solution:
    nodes, deepest = sum(tree.nodes for tree in trees), max(tree.depth for tree in trees)
    sums = 1 + worth.sum(axis=0) / (problem.batch if isinstance(problem, BatchProblem) else 1)
    tokens = float((problem.scales * sums).min()) if isinstance(problem, RobustProblem) else float(sums[0])
    if isinstance(problem.cost, LevelCost):
        depth, step_s = deepest, problem.cost.step_s(trees[0].level_widths)
    else:
        cap = np.inf if isinstance(problem, RobustProblem) else problem.objective.step_cap_s
        row = problem.cost.table(problem.depth_limit, nodes)[deepest:, nodes]
        depth = deepest + int(np.argmin(np.where(row <= cap, row, np.inf)))
        step_s = problem.cost.step_s(nodes, depth)
    return Solution.found("relaxation", trees, depth, problem.batch, tokens, step_s, programs=float(programs))
