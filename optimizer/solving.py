"""Solving: picks the solver by what the problem is, says which, and lets no answer out without a certificate."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module

from optimizer.certificates import UncertifiedError, certify
from optimizer.cost import LevelCost, TabulatedCost
from optimizer.problem import BatchProblem, JointProblem, Problem, RobustProblem, TreeProblem, ranks_are_free
from optimizer.schedule_problem import Schedule, ScheduleProblem
from optimizer.solution import Solution
from reader_theory.acceptance.rank_table import RankTable
from reader_theory.errors import require
from reader_theory.trees.tree import TokenTree

__all__ = ["Solver", "baselines", "choose", "solve", "solve_schedule"]

Solver = Callable[[Problem], Solution]
NAMES = (
    "exhaustive", "best_first", "dynamic", "levels", "allocation", "memory", "robust", "relaxation",
)  # fmt: skip


def choose(problem: Problem) -> str:
    """Name of the solver for this problem: the fastest that is exact, or that bounds its own gap.

    ========================================  ===============
    one tree, drafting paid by level width    levels (explicit candidates: relaxation)
    one tree, any ranks or ranks that fall    best_first
    one tree, ranks 0..b-1 that may rise      dynamic
    batch of trees                            allocation
    the same with side constraints            relaxation
    batch and tree together under memory      memory
    several workloads                         robust
    ========================================  ===============
    """
    if isinstance(problem, BatchProblem):
        return "allocation" if problem.side is None else "relaxation"
    if isinstance(problem, JointProblem):
        return "memory"
    if isinstance(problem, RobustProblem):
        return "robust"
    free = ranks_are_free(problem.acceptance, problem.rule)
    if isinstance(problem.cost, LevelCost):
        return "levels" if isinstance(problem.acceptance, RankTable) and free else "relaxation"
    return "best_first" if free else "dynamic"


def _run(name: str, problem: Problem) -> Solution:
    """Run a named solver; each loads on first use."""
    if name in ("best_first", "dynamic") and isinstance(problem, TreeProblem):
        return _scan(name, problem)
    return import_module(f"optimizer.solvers.{name}").solve(problem)


def _scan(name: str, problem: TreeProblem) -> Solution:
    from optimizer.solvers import best_first, dynamic, ratio

    nodes, depth = problem.nodes_limit, problem.depth_limit
    if nodes < 0:
        advice = "Not even plain decoding fits the memory: lower the batch or the context."
        return Solution.infeasible(name, advice, problem.batch)
    if name == "best_first" or not isinstance(problem.acceptance, RankTable):
        table = best_first.tokens_table(problem.acceptance, nodes, depth, every_depth=problem.cost.depth is not None)
    else:
        table = dynamic.tokens_table(problem.acceptance, nodes, depth)
    return ratio.solve(problem, table)


def baselines(problem: TreeProblem) -> dict[str, Solution]:
    """The best "chain" and "off", as a user without a planner would choose them; what is not feasible is left out."""
    found: dict[str, Solution] = {}
    for length in range(min(problem.nodes_limit, problem.depth_limit) + 1):
        tree = TokenTree.chain(length)
        name = "chain" if length else "off"
        answer = _evaluate(problem, tree, name)
        if answer is not None and (name not in found or answer.value > found[name].value):
            found[name] = answer
    return found


def _evaluate(problem: TreeProblem, tree: TokenTree, name: str) -> Solution | None:
    acceptance, cost = problem.acceptance, problem.cost
    if isinstance(acceptance, RankTable):
        tokens = float(acceptance.path_probability(tree).sum())
    elif tree.nodes == 0:
        tokens = 1.0
    else:
        return None
    step_s = cost.step_s(tree.nodes, tree.depth) if isinstance(cost, TabulatedCost) else cost.step_s(tree.level_widths)
    if not problem.objective.allows(tokens, step_s):
        return None
    advice = f"Nothing that the solver found beats {name} here."
    return Solution.found(name, (tree,), tree.depth, problem.batch, tokens, step_s, bound=float("inf"), advice=advice)


def solve(problem: Problem, solver: str | Solver | None = None) -> Solution:
    """The best answer to `problem`, with its certificate.

    Parameters
    ----------
    problem : TreeProblem, BatchProblem, JointProblem or RobustProblem
    solver : str or callable, optional
        By name, or your own function from a problem to a `Solution`; chosen by `choose` when left out.

    Returns
    -------
    Solution
        ``solver`` says which was used; ``certificate`` is what the independent check found. A chain or no draft at
        all is returned where it is better.

    Raises
    ------
    UncertifiedError
        If the solver's answer does not stand.

    Examples
    --------
    >>> acceptance = RankTable.stationary([0.6, 0.2], depth=4)
    >>> cost = TabulatedCost([1.0, 1.1, 1.2, 1.9, 2.0])
    >>> solution = solve(TreeProblem(acceptance, cost, max_nodes=4))
    >>> solution.solver, solution.tree.nodes, solution.shape
    ('best_first', 2, 'chain')
    """
    name = choose(problem) if solver is None else solver
    require(
        callable(name) or name in NAMES,
        f"`solver` must be a function or one of {', '.join(NAMES)}",
        got=repr(name),
        fix="Leave it out to let the planner choose.",
    )
    began = time.perf_counter()
    solution = _run(name, problem) if isinstance(name, str) else name(problem)
    if isinstance(problem, TreeProblem):
        plain = baselines(problem) if problem.nodes_limit >= 0 else {}
        solution = max(
            [solution, *plain.values()], key=lambda answer: answer.value * (1 + 1e-12 * (answer is solution))
        )
        solution = solution.counted(**{f"{kind}_tokens_per_s": answer.value for kind, answer in plain.items()})
    certificate = certify(problem, solution)
    if not certificate.valid:
        raise UncertifiedError(f"{solution.solver}: " + "; ".join(certificate.violations))
    if isinstance(problem, TreeProblem) and solution.trees:
        solution = replace(solution, binding=problem.binding(solution.tree))
        if isinstance(law := problem.acceptance, RankTable):
            beyond = max(solution.tree.depth - law.depth + law.extrapolated, 0)
            solution = solution.counted(extrapolated_depth=beyond)
    return solution.certified(certificate).counted(seconds=time.perf_counter() - began)


def solve_schedule(problem: ScheduleProblem) -> Schedule:
    """The best tree for every batch and context of a grid, each cell certified.

    Raises
    ------
    UncertifiedError
        If a cell does not stand its certificate.
    """
    from optimizer.solvers import cells

    return cells.solve(problem)
