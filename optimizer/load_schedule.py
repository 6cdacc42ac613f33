"""From AcceptanceFit and Cost to a ServingSchedule: the best tree at every batch and context, and where a rate settles.

Trees of the neural draft, each cell certified; retrieval and grown trees where a plan's replay finds them faster.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from optimizer.cost import Memory, Objective, level_seconds
from optimizer.limits import limits_met
from optimizer.load_sources import Sourced, sourced_cells
from optimizer.plan import LONGEST, Study
from optimizer.planner import solve_schedule
from optimizer.schedule import Schedule, ScheduleProblem
from reader_theory.cost.terms import StepConditions
from reader_theory.documents import Candidate, Cost, Stamp, Trace, policy_of
from reader_theory.documents.fit import AcceptanceFit, RankTableFit
from reader_theory.documents.policy import DRAFT
from reader_theory.documents.schedule import OperatingPoint, ScheduleCell, ServingSchedule
from reader_theory.errors import require
from reader_theory.estimate import Estimate
from reader_theory.serving.load import fixed_point_load, steps_of_request
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
        Of a target with a neural draft; the trace gives the lengths of requests where none are given.
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
        If there is no neural draft to plan for, or a number is not positive.
    """
    positive = [rate_per_s, *(x for x in (slo_s, output_tokens, prompt_tokens, kv_tokens) if x is not None)]
    require(
        all(np.isfinite(x) and x > 0 for x in positive),
        "`rate_per_s`, `slo_s`, `output_tokens`, `prompt_tokens` and `kv_tokens` must be finite and above 0",
        got=positive,
        fix="Rates are requests a second, targets seconds a token.",
    )
    rows = tuple(sorted(set(batches or cost.target_forward.batch)))
    columns = tuple(sorted(set(contexts or cost.target_forward.context)))
    chosen = list(workloads or [each.workload for each in fit.workloads])
    lengths = [(p.prompt_tokens, p.output_tokens) for p in trace.prompts if p.workload in chosen]
    prompt, output = np.mean(lengths, axis=0).tolist() if lengths else (1.0, 1.0)
    prompt, output = prompt_tokens or prompt, output_tokens or output
    cells: list[ScheduleCell] = []
    points: list[OperatingPoint] = []
    solver = ""
    for name in chosen:
        table = fit.workload(name).ranks()
        problem = schedule_problem(
            table, cost, batches=rows, contexts=columns, max_nodes=max_nodes, max_depth=max_depth, slo_s=slo_s,
            kv_tokens=kv_tokens,
        )  # fmt: skip
        assert table is not None, "schedule_problem refuses a workload without a draft"
        found = solve_schedule(problem)
        others = sourced_cells(Study(fit, cost, trace, name, max_nodes, max_depth), found)
        solver = found.solver + (" and replay" if others else "")
        cells += [
            _cell(name, table, cost, found, b, c, others.get((b, c)))
            for c in range(len(columns))
            for b in range(len(rows))
        ]
        prefill_s = float(cost.model().parts(StepConditions(context=0, tokens=prompt))["target"])
        points += [_point(name, found, others, c, rate_per_s, slo_s, output, prefill_s) for c in range(len(columns))]
    return ServingSchedule(
        stamp=Stamp.now(), target=cost.target, draft=cost.draft or DRAFT, device=cost.device, dtype=cost.dtype,
        temperature=fit.temperature, fit=fit.fingerprint(), cost=cost.fingerprint(), rate_per_s=rate_per_s,
        slo_s=slo_s, output_tokens=output, prompt_tokens=prompt, kv_tokens=kv_tokens, solver=solver,
        cells=tuple(cells), points=tuple(points),
    )  # fmt: skip


def schedule_problem(
    table: RankTableFit | None,
    cost: Cost,
    *,
    batches: tuple[int, ...],
    contexts: tuple[int, ...],
    max_nodes: int,
    max_depth: int,
    slo_s: float | None = None,
    kv_tokens: int | None = None,
) -> ScheduleProblem:
    """The problem that a fitted table and a measured cost pose.

    Drafting is charged by level for one node and by node for the others, at the steepest slope of the measured draft
    forward, so that a step is never cheaper than its level widths make it.
    """
    drafted = DRAFT in cost.drafters
    require(
        table is not None and drafted,
        "a schedule must have a neural draft, in the fit and in the cost",
        got=f"a fit {'with' if table else 'without'} a draft, a cost {'with' if drafted else 'without'}",
        fix="Record and calibrate with --draft, or plan retrieval by `reader plan --batch ...` without --rate.",
    )
    assert table is not None
    acceptance = table.table().within(max_depth)
    rows, columns = np.array(batches)[:, None], np.array(contexts)[None, :]
    widths, verify_s = level_seconds(cost.model(), cost.model((DRAFT,)), DRAFT, rows, columns, max_nodes)
    one, nodes = widths[..., 1:2], np.arange(max_nodes + 1)
    secant = (widths[..., 2:] - one) / np.arange(1, widths.shape[-1] - 1, dtype=np.float64)
    verify_s = verify_s + np.maximum(secant.max(axis=-1, keepdims=True), 0.0) * nodes
    return ScheduleProblem(
        (acceptance,), batches, tuple(float(c) for c in contexts), verify_s, one * np.arange(acceptance.depth + 1),
        None if kv_tokens is None else Memory(float(kv_tokens), 1.0),
        objective=Objective() if slo_s is None else Objective("goodput", latency_target_s=slo_s),
    )  # fmt: skip


def _cell(
    workload: str, table: RankTableFit, cost: Cost, found: Schedule, b: int, c: int, other: Sourced | None
) -> ScheduleCell:
    batch, context = found.problem.batches[b], found.problem.contexts[c]
    fits, off = bool(found.nodes[b, c] >= 0), float(found.off_value[b, c])
    chosen: dict[str, Any]
    if other is not None:
        rate = batch * other.tokens_per_step.value / other.step_s
        step = StepConditions(batch=batch, context=context, tokens=other.policy.most_nodes + 1)
        chosen = dict(
            policy=other.policy, tokens_per_step=other.tokens_per_step, step_s=other.step_s, price=other.price,
            nodes_per_step=other.nodes, binding=other.binding,
        )  # fmt: skip
    else:
        tree, rate = found.tree(b, c) if fits else TokenTree.empty(), float(found.value[b, c]) if fits else 0.0
        step = StepConditions.of_levels(tree.level_widths.tolist(), batch=batch, context=context)
        chosen = dict(policy=None, tokens_per_step=None, step_s=None, price=0.0)
        if fits:
            chosen = dict(
                policy=policy_of(tree), tokens_per_step=_tokens(table, tree, found, b, c),
                step_s=float(found.step_s[b, c]), price=float(found.price[b, c]),
                binding=_binding(table, found, tree, b, c),
            )  # fmt: skip
    return ScheduleCell(
        workload=workload, context=int(context), batch=batch, tokens_per_s=rate,
        speed_up=rate / off if rate > 0 and off > 0 else None, gap=float(found.gap[b, c]),
        candidates=_chains(found, b, c), extrapolated=cost.beyond(step), **chosen,
    )  # fmt: skip


def _binding(table: RankTableFit, found: Schedule, tree: TokenTree, b: int, c: int) -> tuple[str, ...]:
    problem = found.problem
    met = limits_met(policy_of(tree), {DRAFT: len(table.value)}, problem.nodes, problem.depth, LONGEST)
    full = 0 < tree.nodes == int(problem.most_nodes()[b, c]) < problem.nodes
    return (*met, "memory") if full else met


def _chains(found: Schedule, b: int, c: int) -> tuple[Candidate, ...]:
    """Off and every chain that memory and the target allow: what engines without trees run instead."""
    problem = found.problem
    table = problem.acceptance_at(c).conditionals
    room = int(problem.most_nodes()[b, c])
    weighed: list[Candidate] = []
    for length in range(min(problem.depth, problem.nodes, room) + 1):
        tokens = 1.0 + float(np.cumprod(table[:length, 0]).sum())
        step_s = float(problem.draft_s[b, c, length] + problem.verify_s[b, c, length])
        if problem.objective.allows(tokens, step_s):
            chain = policy_of(TokenTree.chain(length))
            rate = problem.batches[b] * tokens / step_s
            weighed.append(Candidate(policy=chain, tokens_per_step=tokens, tokens_per_s=rate))
    return tuple(weighed)


def _tokens(table: RankTableFit, tree: TokenTree, found: Schedule, b: int, c: int) -> Estimate:
    """Tokens a step, between the tree's under all lower and under all upper ends of the fitted table."""
    low, high = (table.table(end).tokens_per_step(tree) for end in ("low", "high"))
    value = float(found.tokens_per_step[b, c])
    return Estimate(value=value, low=min(low, value), high=max(high, value), origin="predicted")


def _point(
    workload: str, found: Schedule, others: dict[tuple[int, int], Sourced], c: int, rate: float, slo_s: float | None,
    output: float, prefill_s: float,
) -> OperatingPoint:  # fmt: skip
    problem = found.problem
    batches = np.array(problem.batches, dtype=np.float64)
    nodes, tokens, seconds = (each[:, c].copy() for each in (found.nodes, found.tokens_per_step, found.step_s))
    paths = [problem.draft_s[:, c, max(int(d), 0)] + problem.verify_s[:, c, max(int(n), 0)]
             for d, n in zip(found.depth[:, c], nodes, strict=True)]  # fmt: skip
    for (b, at), other in others.items():
        if at == c:
            nodes[b], tokens[b], seconds[b] = 1, other.tokens_per_step.value, other.step_s
            paths[b] = other.by_batch
    left = max(1 - rate * prefill_s, 0.0)
    capacity = [
        _capacity(b, t, s, output, prefill_s) if n >= 0 else 0.0
        for b, n, t, s in zip(batches.tolist(), nodes.tolist(), tokens.tolist(), seconds.tolist(), strict=True)
    ]
    plain_s = problem.verify_s[:, c, 0]
    allowed = np.ones(len(batches), dtype=bool) if slo_s is None else plain_s <= slo_s
    plain = [
        _capacity(b, 1.0, s, output, prefill_s) if fine else 0.0
        for b, s, fine in zip(batches.tolist(), plain_s.tolist(), allowed.tolist(), strict=True)
    ]
    drafting = np.flatnonzero(nodes > 0)
    last = int(drafting[-1]) if drafting.size else -1
    quiet = [i for i in range(last + 1, len(batches)) if nodes[i] == 0]
    unmet = OperatingPoint(
        workload=workload,
        context=int(problem.contexts[c]),
        sustained=False,
        batch=None,
        running=None,
        latency_s=None,
        seconds_per_token=None,
        capacity_per_s=max(capacity),
        off_capacity_per_s=max(plain),
        off_from_batch=int(batches[quiet[0]]) if quiet else None,
        stops_paying_per_s=(capacity[last] if last >= 0 else 0.0) if quiet else None,
    )
    for b in range(len(batches)):
        if capacity[b] < rate:
            continue
        by_batch = paths[b]
        load = fixed_point_load(
            rate, lambda x, y=by_batch: float(np.interp(x, batches, y)), output_tokens=output,
            tokens_per_step=float(tokens[b]), prefill_s=prefill_s, largest_batch=float(batches[-1]),
        )  # fmt: skip
        if not load.stable:
            continue
        step = float(np.interp(min(load.batch, batches[-1]), batches, by_batch))
        gap = step / float(tokens[b]) / left
        if slo_s is None or gap <= slo_s:
            met = {"sustained": True, "batch": int(batches[b]), "running": load.batch}
            return unmet.model_copy(update={**met, "latency_s": load.latency_s, "seconds_per_token": gap})
    return unmet


def _capacity(batch: float, tokens: float, step_s: float, output: float, prefill_s: float) -> float:
    """Largest rate of a full batch: its requests in the time of their steps and of one another's prefills."""
    return batch / (steps_of_request(output, tokens) * step_s + batch * prefill_s)
