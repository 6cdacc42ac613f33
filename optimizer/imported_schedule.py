"""From counted acceptance and a Cost to a ServingSchedule: a chain for each batch and context; where a rate settles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from optimizer.imported_plan import ImportedStudy, drafter_counted
from optimizer.operating_point import Demand, Served, check_demand, operating_point
from reader_theory.cost.terms import StepConditions
from reader_theory.documents import Cost, Stamp
from reader_theory.documents.imported import ImportedAcceptance
from reader_theory.documents.serving_schedule import OperatingPoint, ScheduleCell, ServingSchedule
from reader_theory.errors import InvalidInputError

__all__ = ["schedule_imported", "settled_batch"]

OUTPUT = 256.0
"""Output tokens of a request where nobody says."""


def schedule_imported(
    told: ImportedAcceptance,
    cost: Cost,
    *,
    rate_per_s: float,
    slo_s: float | None = None,
    batches: Sequence[int] | None = None,
    contexts: Sequence[int] | None = None,
    drafter: str | None = None,
    max_depth: int = 8,
    output_tokens: float | None = None,
    prompt_tokens: float | None = None,
    kv_tokens: int | None = None,
) -> ServingSchedule:
    """Choose the length of the counted chain, or nothing, for every batch and context; find where the rate settles.

    Parameters
    ----------
    told, cost : documents
    rate_per_s : float
        Requests a second.
    slo_s : float, optional
        Most seconds a token of one request; cells that cannot keep it are infeasible.
    batches, contexts : sequences of int, optional
        The grid; what the cost tells when None.
    drafter : str, optional
        Name in the cost of what was counted.
    output_tokens, prompt_tokens : float, optional
        Of a request: `OUTPUT`, and the context less half of it, when None.
    kv_tokens : int, optional
        Capacity of the cache, instead of what the cost says.

    Raises
    ------
    InvalidInputError
        If a number is not positive and finite, or the cost does not price the drafter.
    """
    check_demand(rate_per_s, slo_s=slo_s, output_tokens=output_tokens, prompt_tokens=prompt_tokens, kv_tokens=kv_tokens)
    named = drafter_counted(cost, drafter)
    held = cost if kv_tokens is None else cost.model_copy(update={"kv_tokens": {"off": kv_tokens, named: kv_tokens}})
    study = ImportedStudy(told, held, named, max_depth)
    rows = sorted(set(batches or held.target_forward.batch))
    columns = sorted(set(contexts or held.target_forward.context))
    output = output_tokens or OUTPUT
    grid = {(b, c): _cell(study, b, c, slo_s) for c in columns for b in rows}
    points: list[OperatingPoint] = []
    for c in columns:
        demand = _demand(study, rate_per_s, c, output, prompt_tokens, slo_s)
        lengths = [_length(study, grid[b, c]) for b in rows]
        served = [None if k is None else _served(study, k, b, c, rows[-1]) for k, b in zip(lengths, rows, strict=True)]
        plain = [_served(study, 0, b, c, rows[-1]) for b in rows]
        points.append(operating_point(study.workload, c, rows, served, plain, demand))
    return ServingSchedule(
        stamp=Stamp.now(), target=held.target, device=held.device,
        drafters={name: each.model for name, each in held.drafters.items()},
        dtype=held.dtype, temperature=0.0, fit=told.fingerprint(), cost=cost.fingerprint(), rate_per_s=rate_per_s,
        slo_s=slo_s, output_tokens=output, prompt_tokens=prompt_tokens or max(columns[0] - output / 2, 1.0),
        kv_tokens=held.kv_tokens.get(named), solver="every chain, by counted acceptance",
        cells=tuple(grid.values()), points=tuple(points),
    )  # fmt: skip


def settled_batch(
    study: ImportedStudy, rate_per_s: float, context: float, output_tokens: float, *, most: int = 512
) -> float:
    """Requests that run at once at a rate, each batch drafting what is best there.

    Raises
    ------
    InvalidInputError
        If the rate is not positive, or above what any batch serves.
    """
    check_demand(rate_per_s)
    demand = _demand(study, rate_per_s, context, output_tokens)
    capacity = 0.0
    batch = 1
    while batch <= most:
        length = study.choice(batch, context)[0]
        load = _served(study, length, batch, context, batch).load(demand)
        capacity = max(capacity, rate_per_s / load.utilisation)
        if load.stable and load.batch <= batch:
            return load.batch
        batch *= 2
    raise InvalidInputError(
        "the rate must be below what is served",
        got=f"{rate_per_s:g} requests a second; at most {capacity:.3g}",
        fix="Plan for a lower rate, shorter outputs or more cards.",
    )


def _demand(
    study: ImportedStudy, rate: float, context: float, output: float, prompt: float | None = None,
    slo_s: float | None = None,
) -> Demand:  # fmt: skip
    tokens = prompt or max(context - output / 2, 1.0)
    prefill_s = float(study.cost.model().parts(StepConditions(context=0, tokens=tokens))["target"])
    return Demand(rate, output, prefill_s, slo_s)


def _served(study: ImportedStudy, length: int, batch: int, context: float, largest: int) -> Served:
    """How a batch is served by drafts of one length, in a column whose largest batch is given."""

    def seconds(rows: float) -> float:
        return sum(study.terms_at(length, rows, context).values())

    return Served(
        length > 0, study.lengths[length].tokens, sum(study.terms(length, batch, context).values()),
        study.running(length, batch, context), min(largest, max(study.running(length, largest, context), 1.0)), seconds,
    )  # fmt: skip


def _cell(study: ImportedStudy, batch: int, context: int, slo_s: float | None) -> ScheduleCell:
    length, weighed = study.choice(batch, context)
    by_length = {k: study.rate(k, batch, context) for k in range(len(study.lengths))}
    allowed = [k for k in by_length if by_length[k] > 0 and (slo_s is None or _gap(study, k, batch, context) <= slo_s)]
    length = length if length in allowed else max(allowed, key=lambda k: by_length[k], default=-1)
    off = by_length[0] if 0 in allowed else 0.0
    empty: dict[str, Any] = {"workload": study.workload, "context": context, "batch": batch, "gap": 0.0}
    if length < 0:
        return ScheduleCell(
            **empty, policy=None, tokens_per_step=None, step_s=None, tokens_per_s=0.0, speed_up=None, price=0.0
        )
    entry = study.entry(batch, context, length=length)
    names = [study.policy(k) for k in allowed]
    return ScheduleCell(
        **empty, policy=entry.policy, tokens_per_step=entry.prediction.tokens_per_step,
        step_s=entry.prediction.step_s.value, tokens_per_s=by_length[length],
        speed_up=by_length[length] / off if off > 0 else None, price=entry.price,
        nodes_per_step=entry.prediction.nodes_per_step, binding=entry.binding, extrapolated=entry.extrapolated,
        candidates=tuple(each for each in weighed if each.policy in names),
    )  # fmt: skip


def _gap(study: ImportedStudy, length: int, batch: int, context: float) -> float:
    """Seconds a token of one request."""
    return sum(study.terms(length, batch, context).values()) / study.lengths[length].tokens


def _length(study: ImportedStudy, cell: ScheduleCell) -> int | None:
    return next((k for k in range(len(study.lengths)) if study.policy(k) == cell.policy), None)
