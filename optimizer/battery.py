"""What the word "solver" means, as a battery that anyone can run on theirs.

>>> from optimizer import solve
>>> check_solver(solve, kinds=("joint",), trials=3)
3
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from optimizer.acceptance import ForestAcceptance
from optimizer.certificates import certify
from optimizer.cost import LevelCost, Memory, Objective, TabulatedCost
from optimizer.problem import BatchProblem, JointProblem, Problem, RobustProblem, Rule, TreeProblem
from optimizer.solution import Status
from optimizer.solving import Solver
from reader_theory.acceptance.rank_table import RankTable
from reader_theory.errors import ReaderTheoryError
from reader_theory.trees.tree import TokenTree

__all__ = ["KINDS", "BatteryError", "check_solver", "instances", "random_problem"]

KINDS = ("tree", "levels", "batch", "joint", "robust")
TOLERANCE = 1e-9


class BatteryError(ReaderTheoryError):
    """A solver broke a rule of the battery; the message has each instance and what was wrong."""


def check_solver(solver: Solver, *, kinds: tuple[str, ...] = KINDS, trials: int = 40, seed: int = 0) -> int:
    """Run `solver` on adversarial and random instances; return how many it passed.

    Each answer must stand its thorough certificate; give "infeasible" exactly when nothing is feasible; lie at or
    below the optimum by exhaustive search, with a bound at or above it; equal it when called optimal; and be the same
    when asked again. Inputs are read-only.

    Parameters
    ----------
    solver : callable (problem) -> Solution
    kinds : tuple of str
        Kinds of problems that the solver takes, out of `KINDS`.
    trials : int
        Random instances of each kind, beside the adversarial ones.
    seed : int

    Raises
    ------
    BatteryError
        With every rule broken, up to ten instances.
    """
    failures: list[str] = []
    count = 0
    for name, problem in instances(kinds, trials, seed):
        count += 1
        failures += [f"{name}: {fault}" for fault in _faults(solver, problem)]
        if len(failures) >= 10:
            break
    if failures:
        raise BatteryError(f"{len(failures)} faults in {count} instances. " + " | ".join(failures))
    return count


def _faults(solver: Solver, problem: Problem) -> list[str]:
    from optimizer.solvers import exhaustive

    answer, again, truth = solver(problem), solver(problem), exhaustive.solve(problem)
    faults = list(certify(problem, answer, thorough=True).violations)
    if (answer.status is Status.INFEASIBLE) != (truth.status is Status.INFEASIBLE):
        return [*faults, f"called {answer.status.value} where exhaustive search is {truth.status.value}"]
    slack = TOLERANCE * max(truth.value, 1e-300)
    if answer.value > truth.value + slack:
        faults.append(f"value {answer.value:.9g} above the optimum {truth.value:.9g}")
    if answer.status is not Status.INFEASIBLE and answer.upper_bound < truth.value - slack:
        faults.append(f"bound {answer.upper_bound:.9g} below the optimum {truth.value:.9g}")
    if answer.status is Status.OPTIMAL and answer.value < truth.value - slack:
        faults.append(f'called "optimal" at {answer.value:.9g}, the optimum is {truth.value:.9g}')
    if (answer.value, answer.trees) != (again.value, again.trees):
        faults.append("another answer when asked again")
    return faults


def instances(kinds: tuple[str, ...] = KINDS, trials: int = 40, seed: int = 0) -> Iterator[tuple[str, Problem]]:
    """Named small problems: adversarial trees first, then `trials` random ones of each kind."""
    if "tree" in kinds:
        yield from _adversarial()
    generator = np.random.default_rng(seed)
    for kind in kinds:
        for i in range(trials):
            yield f"{kind} {i} of seed {seed}", random_problem(kind, generator)


def _adversarial() -> Iterator[tuple[str, TreeProblem]]:
    """Where solvers were seen to fail, or easily would."""
    flat, rising = TabulatedCost(np.linspace(1, 1.4, 8)), [0.05, 0.1, 0.7]
    stairs = TabulatedCost([1.0, 1.5, 1.5, 1.5, 1.52, 2.2, 2.2, 2.2])
    rules: tuple[Rule, ...] = ("any", "first")
    for rule in rules:
        cases = {
            "rising ranks hide the best child": (rising, flat, 5),
            "equal ranks are all ties": ([0.25] * 4, flat, 4),
            "zeros in front": ([0.0, 0.0, 0.9], flat, 5),
            "nothing is ever accepted": ([0.0, 0.0], flat, 5),
            "everything is accepted": ([1.0, 0.0], flat, 7),
            "one rank only": ([0.8], flat, 7),
            "stairs: the first decrease is not the end": ([0.6, 0.3], stairs, 7),
            "cost falls with size": ([0.5, 0.3], TabulatedCost(np.linspace(2, 0.5, 8)), 7),
            "off is best": ([0.1, 0.05], TabulatedCost(np.linspace(1, 9, 8)), 7),
        }
        for name, (ranks, cost, nodes) in cases.items():
            yield f"{name}, {rule}", TreeProblem(RankTable.stationary(ranks, 4), cost, nodes, rule=rule)
        law = RankTable([[0.6, 0.1], [0.0, 0.9], [0.5, 0.4]])
        depths = TabulatedCost(1 + 0.1 * np.arange(4)[:, None] + 0.05 * np.arange(7))
        yield f"a level that rank 0 never survives, {rule}", TreeProblem(law, depths, 6, rule=rule)
        tight = Memory(capacity_bytes=2 * 13.0, kv_bytes_per_token=1.0)
        limits = {"fits exactly 2 nodes": 10.0, "fits plain decoding only": 12.0, "fits nothing": 12.5}
        for name, context in limits.items():
            yield (
                f"memory {name}, {rule}",
                TreeProblem(law, depths, 6, rule=rule, batch=2, context_tokens=context, memory=tight),
            )
        capped = Objective("latency", step_cap_s=1.2)
        yield f"a cap on the step, {rule}", TreeProblem(law, depths, 6, rule=rule, objective=capped)
        late = Objective("goodput", latency_target_s=0.2)
        yield f"a target that cannot be met, {rule}", TreeProblem(law, depths, 6, rule=rule, objective=late)


def random_problem(kind: str, generator: np.random.Generator) -> Problem:
    """A small random problem of one kind: any ranks, zeros and ties, costs of every shape, limits that may bind."""
    if kind == "batch":
        return _random_batch(generator)
    depth, ranks = int(generator.integers(1, 5)), int(generator.integers(1, 4))
    nodes = int(generator.integers(1, 9 if ranks < 3 else 6))
    cost = _random_cost(generator, depth, nodes)
    if kind == "robust":
        laws = tuple(_random_law(generator, depth, ranks) for _ in range(int(generator.integers(1, 4))))
        return RobustProblem(laws, cost, nodes)
    law = _random_law(generator, depth, ranks)
    rule: Rule = "any" if generator.random() < 0.5 else "first"
    if kind == "joint":
        costs = {batch: _random_cost(generator, depth, nodes) for batch in (1, 2, 5)}
        memory = Memory(float(generator.integers(2, 50)), 1.0, 0.5)
        return JointProblem(law, costs, memory, 3.0, nodes, rule=rule)
    if kind == "levels":
        width = int(generator.integers(1, 5))
        draft_s = np.sort(generator.random((depth, width + 1)), axis=1) * 0.3
        return TreeProblem(
            law, LevelCost(draft_s, _stairs(generator, nodes)), nodes, objective=_random_objective(generator)
        )
    return TreeProblem(
        law, cost, nodes, rule=rule, objective=_random_objective(generator), batch=int(generator.integers(1, 4))
    )


def _random_law(generator: np.random.Generator, depth: int, ranks: int) -> RankTable:
    table = generator.dirichlet(np.full(ranks + 1, generator.choice([0.3, 1.0, 5.0])), size=depth)[:, :ranks]
    if generator.random() < 0.3:
        table = -np.sort(-table, axis=1)
    if generator.random() < 0.3:
        table = np.round(table * 5) / 10
    return RankTable(np.tile(table[:1], (depth, 1)) if generator.random() < 0.4 else table)


def _stairs(generator: np.random.Generator, nodes: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    return 1 + np.cumsum((generator.random(nodes + 1) < 0.4) * generator.random(nodes + 1) * 0.5)


def _random_cost(generator: np.random.Generator, depth: int, nodes: int) -> TabulatedCost:
    shape = generator.integers(3)
    if shape == 0:
        return TabulatedCost(_stairs(generator, nodes))
    if shape == 1:
        return TabulatedCost(_stairs(generator, nodes) + 0.1 * generator.random() * np.arange(depth + 1)[:, None])
    return TabulatedCost(generator.random((depth + 1, nodes + 1)) + 0.3)


def _random_objective(generator: np.random.Generator) -> Objective:
    draw = generator.random()
    if draw < 0.2:
        return Objective("latency", step_cap_s=0.8 + generator.random())
    return Objective("goodput", latency_target_s=0.3 + generator.random()) if draw < 0.4 else Objective()


def _random_batch(generator: np.random.Generator) -> BatchProblem:
    requests = tuple(
        _random_forest(generator, int(generator.integers(1, 6))) for _ in range(int(generator.integers(1, 4)))
    )
    nodes, depth = int(generator.integers(1, 9)), max(request.depth for request in requests)
    memory = Memory(len(requests) * 4.0 + int(generator.integers(0, 6)), 1.0) if generator.random() < 0.3 else None
    cost = _random_cost(generator, depth, nodes)
    return BatchProblem(requests, cost, nodes, _random_objective(generator), context_tokens=3.0, memory=memory)


def _random_forest(generator: np.random.Generator, count: int) -> ForestAcceptance:
    parents, path, room = [-1], [1.0], [1.0]
    for i in range(count):
        parent = int(generator.integers(0, i + 1))
        path.append(room[parent] * generator.random() * 0.8)
        room[parent] -= path[-1]
        room.append(path[-1])
        parents.append(parent)
    return ForestAcceptance(TokenTree(parents), path)
