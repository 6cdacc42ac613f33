"""From AcceptanceFit and Cost to a ServingSchedule: the best tree at every batch and context, and where a rate settles.

Trees of every drafter with ranks, each cell certified, and the fastest of them; retrieval and grown trees where a
plan's replay finds them faster still.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from optimizer.cost import Memory, Objective, level_seconds
from optimizer.limits import limits_met
from optimizer.operating_point import Demand, Served, check_demand, operating_point
from optimizer.plan import LONGEST, Study
from optimizer.schedule_problem import Schedule, ScheduleProblem
from optimizer.schedule_sources import Sourced, sourced_cells
from optimizer.solving import solve_schedule
from reader_theory.cost.terms import Forwards, StepConditions
from reader_theory.documents import Candidate, Cost, Stamp, Trace, policy_of
from reader_theory.documents.fit import AcceptanceFit, RankTableFit, WorkloadFit
from reader_theory.documents.serving_schedule import OperatingPoint, ScheduleCell, ServingSchedule
from reader_theory.errors import require
from reader_theory.estimate import Estimate
from reader_theory.trees.tree import TokenTree

__all__ = ["schedule_problem", "serving_schedule"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int_]


def serving_schedule(
    fit: AcceptanceFit,
    cost: Cost,
    trace: Trace,
    *,
    rate_per_s: float,
    slo_s: float | None = None,
    batches: Sequence[int] | None = None,
    contexts: Sequence[int] | None = None,
    workloads: Sequence[str] | None = None,
    max_nodes: int = 32,
    max_depth: int = 8,
    output_tokens: float | None = None,
    prompt_tokens: float | None = None,
    kv_tokens: int | None = None,
) -> ServingSchedule:
    """Choose a tree, a chain, another source or nothing for every batch and context, and find where the rate settles.

    Parameters
    ----------
    fit, cost, trace : documents
        Of a target with a drafter that has ranks; the trace gives the lengths of requests where none are given.
    rate_per_s : float
        Requests a second.
    slo_s : float, optional
        Most seconds a token of one request; cells that cannot keep it are infeasible.
    batches, contexts : sequences of int, optional
        The grid; what the cost was measured at when None.
    kv_tokens : int, optional
        Capacity of the cache, which caps batch and nodes.

    Raises
    ------
    InvalidInputError
        If there is no drafter with ranks to plan for, or a number is not positive.
    """
    check_demand(rate_per_s, slo_s=slo_s, output_tokens=output_tokens, prompt_tokens=prompt_tokens, kv_tokens=kv_tokens)
    rows = tuple(sorted(set(batches or cost.target_forward.batch)))
    columns = tuple(sorted(set(contexts or cost.target_forward.context)))
    chosen = list(workloads or [each.workload for each in fit.workloads])
    lengths = [(p.prompt_tokens, p.output_tokens) for p in trace.prompts if p.workload in chosen]
    prompt, output = np.mean(lengths, axis=0).tolist() if lengths else (1.0, 1.0)
    prompt, output = prompt_tokens or prompt, output_tokens or output
    served = cost.as_declared({name: each.forwards for name, each in fit.drafters.items()})
    limits: dict[str, Any] = dict(
        batches=rows, contexts=columns, max_nodes=max_nodes, max_depth=max_depth, slo_s=slo_s, kv_tokens=kv_tokens
    )
    cells: list[ScheduleCell] = []
    points: list[OperatingPoint] = []
    solver = ""
    for name in chosen:
        drafters = [
            _Solved(drafter, table, solve_schedule(schedule_problem(table, served, drafter, **limits)))
            for drafter, table in _ranked(fit.workload(name), served).items()
        ]
        found = [[_Choices(drafters, b, c) for c in range(len(columns))] for b in range(len(rows))]
        others = sourced_cells(
            Study(fit, served, trace, name, max_nodes, max_depth), drafters[0].found.problem,
            np.array([[each.value for each in row] for row in found]),
        )  # fmt: skip
        solver = drafters[0].found.solver + (" and replay" if others else "")
        cells += [
            _cell(name, served, found[b][c], others.get((b, c))) for c in range(len(columns)) for b in range(len(rows))
        ]
        prefill_s = float(served.model().parts(StepConditions(context=0, tokens=prompt))["target"])
        demand = Demand(rate_per_s, output, prefill_s, slo_s)
        for c, context in enumerate(columns):
            picked = [others.get((b, c)) or found[b][c].best for b in range(len(rows))]
            drafting = [None if each is None else _served(each, b, rows) for b, each in zip(rows, picked, strict=True)]
            plain_s = drafters[0].found.problem.verify_s[:, c, 0]
            plain = [_running(False, 1.0, plain_s, b, rows) for b in rows]
            points.append(operating_point(name, context, rows, drafting, plain, demand))
    return ServingSchedule(
        stamp=Stamp.now(), target=cost.target, device=cost.device,
        drafters={name: each.model for name, each in cost.drafters.items()}, dtype=cost.dtype,
        temperature=fit.temperature, fit=fit.fingerprint(), cost=cost.fingerprint(), rate_per_s=rate_per_s,
        slo_s=slo_s, output_tokens=output, prompt_tokens=prompt, kv_tokens=kv_tokens, solver=solver,
        cells=tuple(cells), points=tuple(points),
    )  # fmt: skip


def _ranked(fitted: WorkloadFit, cost: Cost) -> dict[str, RankTableFit]:
    """Tables of the drafters that trees can be planned for, by name."""
    tables = {name: each.rank_depth for name, each in fitted.drafters.items() if each.rank_depth is not None}
    found = {name: table for name, table in tables.items() if name in cost.drafters}
    require(
        bool(found),
        "a schedule must have a drafter with ranks, in the fit and in the cost",
        got=f"drafters with ranks {sorted(tables)} in the fit, {sorted(cost.drafters)} in the cost",
        fix="Record and calibrate with --draft, or plan retrieval by `reader plan --batch ...` without --rate.",
    )
    return found


def schedule_problem(
    table: RankTableFit,
    cost: Cost,
    drafter: str,
    *,
    batches: tuple[int, ...],
    contexts: tuple[int, ...],
    max_nodes: int,
    max_depth: int,
    slo_s: float | None = None,
    kv_tokens: int | None = None,
) -> ScheduleProblem:
    """The problem that a drafter's fitted table and a measured cost pose.

    Drafting is charged by level for one node and by node for the others, at the steepest slope of the drafter's
    measured forward, so that a step is never cheaper than its level widths make it.
    """
    acceptance = table.table().within(max_depth)
    rows, columns = np.array(batches)[:, None], np.array(contexts)[None, :]
    widths, verify_s = level_seconds(
        cost.model(), cost.model((drafter,)), drafter, cost.forwards_of(drafter), batch=rows, context=columns,
        nodes=max_nodes, depth=acceptance.depth,
    )  # fmt: skip
    one, nodes = widths[..., 1:2], np.arange(max_nodes + 1)
    secant = (widths[..., 2:] - one) / np.arange(1, widths.shape[-1] - 1, dtype=np.float64)
    verify_s = verify_s + np.maximum(secant.max(axis=(-2, -1))[..., None], 0.0) * nodes
    draft_s = np.concatenate([np.zeros_like(one[..., 0, :]), np.cumsum(one[..., 0], axis=-1)], axis=-1)
    return ScheduleProblem(
        (acceptance,), batches, tuple(float(c) for c in contexts), verify_s, draft_s,
        None if kv_tokens is None else Memory(float(kv_tokens), 1.0),
        objective=Objective() if slo_s is None else Objective("goodput", latency_target_s=slo_s),
    )  # fmt: skip


class _Solved(NamedTuple):
    """The schedule of one drafter's trees."""

    drafter: str
    table: RankTableFit
    found: Schedule

    def at(self, b: int, c: int) -> Sourced | None:
        """What it drafts in a cell; None where nothing fits memory and target."""
        found, problem = self.found, self.found.problem
        if found.nodes[b, c] < 0:
            return None
        tree = found.tree(b, c)
        by_batch = problem.draft_s[:, c, int(found.depth[b, c])] + problem.verify_s[:, c, tree.nodes]
        return Sourced(
            policy_of(tree, drafter=self.drafter), _tokens(self.table, tree, found, b, c), float(found.step_s[b, c]),
            float(found.price[b, c]), float(tree.nodes), self._binding(tree, b, c), by_batch,
        )  # fmt: skip

    def _binding(self, tree: TokenTree, b: int, c: int) -> tuple[str, ...]:
        """Limits that the tree stops at."""
        problem, policy = self.found.problem, policy_of(tree, drafter=self.drafter)
        met = limits_met(policy, {self.drafter: len(self.table.value)}, problem.nodes, problem.depth, LONGEST)
        full = 0 < tree.nodes == int(problem.most_nodes()[b, c]) < problem.nodes
        return (*met, "memory") if full else met


class _Choices:
    """What every drafter offers in one cell, and the best of them."""

    def __init__(self, drafters: Sequence[_Solved], b: int, c: int) -> None:
        self.b, self.c = b, c
        self.drafters = drafters
        self.solved = max(drafters, key=lambda solved: float(solved.found.value[b, c]))
        self.best = self.solved.at(b, c)
        self.value = float(self.solved.found.value[b, c])
        problem = self.solved.found.problem
        self.batch, self.context = problem.batches[b], problem.contexts[c]

    @property
    def alternatives(self) -> dict[str, Candidate]:
        """By drafter, and off: the best tree that it has here, a chain where its trees lose to plain decoding."""
        found: dict[str, Candidate] = {}
        for solved in self.drafters:
            tree, chains = solved.at(self.b, self.c), _chains(solved, self.b, self.c)
            drafting = [each for each in chains if each.policy.drafters]
            if tree is not None and tree.policy.drafters:
                drafting = [self.candidate(tree)]
            if drafting:
                found[solved.drafter] = max(drafting, key=lambda each: each.tokens_per_s)
            if len(chains) > 0 and chains[0].policy.shape == "off":
                found["off"] = chains[0]
        return found

    def candidate(self, each: Sourced) -> Candidate:
        """As documents say it."""
        tokens = each.tokens_per_step.value
        return Candidate(policy=each.policy, tokens_per_step=tokens, tokens_per_s=self.batch * tokens / each.step_s)


def _cell(workload: str, cost: Cost, choices: _Choices, other: Sourced | None) -> ScheduleCell:
    found, b, c = choices.solved.found, choices.b, choices.c
    off, picked = float(found.off_value[b, c]), other or choices.best
    chosen: dict[str, Any] = dict(policy=None, tokens_per_step=None, step_s=None, price=0.0)
    told, rate, policy = choices.alternatives, 0.0, None
    if picked is not None:
        rate, policy = choices.candidate(picked).tokens_per_s, picked.policy
        chosen = dict(
            policy=policy, tokens_per_step=picked.tokens_per_step, step_s=picked.step_s, price=picked.price,
            nodes_per_step=picked.nodes, binding=picked.binding,
        )  # fmt: skip
        told |= {name: choices.candidate(picked) for name in policy.drafters if other is not None and name not in told}
    asked = {} if policy is None or policy.asks is None else {
        policy.asks: Forwards(cost.forwards_of(policy.asks).sizes(policy.asked_widths))
    }  # fmt: skip
    step = StepConditions(
        batch=choices.batch, context=choices.context, tokens=1 + (policy.most_nodes if policy else 0), forwards=asked
    )
    return ScheduleCell(
        workload=workload, context=int(choices.context), batch=choices.batch, tokens_per_s=rate,
        speed_up=rate / off if rate > 0 and off > 0 else None, gap=float(found.gap[b, c]),
        candidates=_chains(choices.solved, b, c), alternatives=told, extrapolated=cost.beyond(step), **chosen,
    )  # fmt: skip


def _chains(solved: _Solved, b: int, c: int) -> tuple[Candidate, ...]:
    """Off and every chain that memory and the target allow: what engines without trees run instead."""
    problem = solved.found.problem
    table = problem.acceptance_at(c).conditionals
    room = int(problem.most_nodes()[b, c])
    weighed: list[Candidate] = []
    for length in range(min(problem.depth, problem.nodes, room) + 1):
        accepted = np.cumprod(table[:length, 0])
        tokens = 1.0 + float(accepted.sum())
        step_s = float(problem.draft_s[b, c, length] + problem.verify_s[b, c, length])
        if problem.objective.allows(tokens, step_s):
            chain = policy_of(TokenTree.chain(length), drafter=solved.drafter)
            rate = problem.batches[b] * tokens / step_s
            weighed.append(
                Candidate(
                    policy=chain, tokens_per_step=tokens, tokens_per_s=rate, accepted=tuple(accepted.tolist())
                )
            )  # fmt: skip
    return tuple(weighed)


def _tokens(table: RankTableFit, tree: TokenTree, found: Schedule, b: int, c: int) -> Estimate:
    """Tokens a step, between the tree's under all lower and under all upper ends of the fitted table."""
    low, high = (table.table(end).tokens_per_step(tree) for end in ("low", "high"))
    value = float(found.tokens_per_step[b, c])
    return Estimate(value=value, low=min(low, value), high=max(high, value), origin="predicted")


def _served(each: Sourced, batch: int, batches: tuple[int, ...]) -> Served:
    return _running(bool(each.policy.drafters), each.tokens_per_step.value, each.by_batch, batch, batches)


def _running(drafts: bool, tokens: float, step_s: Floats, batch: int, batches: tuple[int, ...]) -> Served:
    """How a batch is served by a policy whose steps take `step_s` (B,) at every batch, those between by line."""

    def seconds(rows: float) -> float:
        return float(np.interp(rows, batches, step_s))

    return Served(drafts, tokens, seconds(batch), batch, batches[-1], seconds)
