"""From counted acceptance and a Cost to a ServingSchedule: a chain for each batch and context; where a rate settles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from optimizer.imported_plan import ImportedStudy, drafter_counted
from optimizer.operating_point import operating_point
from reader_theory.cost.terms import StepConditions
from reader_theory.documents import Cost, Stamp
from reader_theory.documents.imported import ImportedAcceptance
from reader_theory.documents.schedule import OperatingPoint, ScheduleCell, ServingSchedule
from reader_theory.errors import InvalidInputError, require
from reader_theory.serving.load import LoadPoint, fixed_point_load, steps_of_request

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
    given = (slo_s, output_tokens, prompt_tokens, kv_tokens)
    positive = [rate_per_s, *(x for x in given if x is not None)]
    require(
        all(np.isfinite(x) and x > 0 for x in positive),
        "`rate_per_s`, `slo_s`, `output_tokens`, `prompt_tokens` and `kv_tokens` must be finite and above 0",
        got=positive,
        fix="Rates are requests a second, targets seconds a token.",
    )
    named = drafter_counted(cost, drafter)
    held = cost if kv_tokens is None else cost.model_copy(update={"kv_tokens": {"off": kv_tokens, named: kv_tokens}})
    study = ImportedStudy(told, held, named, max_depth)
    rows = sorted(set(batches or held.target_forward.batch))
    columns = sorted(set(contexts or held.target_forward.context))
    output = output_tokens or OUTPUT
    grid = {(b, c): _cell(study, b, c, slo_s) for c in columns for b in rows}
    points = [
        _point(study, [grid[b, c] for b in rows], c, rate_per_s, slo_s, output, prompt_tokens) for c in columns
    ]  # fmt: skip
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
    require(
        np.isfinite(rate_per_s) and rate_per_s > 0,
        "the rate must be finite and above 0",
        got=rate_per_s,
        fix="Give requests a second.",
    )
    capacity = 0.0
    batch = 1
    while batch <= most:
        length = study.choice(batch, context)[0]
        load = _load(study, length, context, rate_per_s, output_tokens, None, float(batch))
        capacity = max(capacity, rate_per_s / load.utilisation)
        if load.stable and load.batch <= batch:
            return load.batch
        batch *= 2
    raise InvalidInputError(
        "the rate must be below what is served",
        got=f"{rate_per_s:g} requests a second; at most {capacity:.3g}",
        fix="Plan for a lower rate, shorter outputs or more cards.",
    )


def _load(
    study: ImportedStudy, length: int, context: float, rate: float, output: float, prompt: float | None, largest: float
) -> LoadPoint:
    return fixed_point_load(
        rate, lambda rows: sum(study.terms_at(length, rows, context).values()), output_tokens=output,
        tokens_per_step=study.lengths[length].tokens, prefill_s=_prefill_s(study, context, output, prompt),
        largest_batch=min(largest, max(study.running(length, round(largest), context), 1.0)),
    )  # fmt: skip


def _prefill_s(study: ImportedStudy, context: float, output: float, prompt: float | None) -> float:
    tokens = prompt or max(context - output / 2, 1.0)
    return float(study.cost.model().parts(StepConditions(context=0, tokens=tokens))["target"])


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


def _point(
    study: ImportedStudy, cells: Sequence[ScheduleCell], context: int, rate: float, slo_s: float | None, output: float,
    prompt: float | None,
) -> OperatingPoint:  # fmt: skip
    prefill_s = _prefill_s(study, context, output, prompt)

    def capacity(length: int, batch: int) -> float:
        rows, each = study.running(length, batch, context), study.lengths[length]
        step_s = sum(study.terms(length, batch, context).values())
        return rows / (steps_of_request(output, each.tokens) * step_s + rows * prefill_s) if rows >= 1 else 0.0

    lengths = [None if cell.policy is None else _length(study, cell) for cell in cells]

    def served(place: int) -> tuple[LoadPoint, float]:
        length = lengths[place]
        assert length is not None, "a batch where nothing fits serves nobody"
        load = _load(study, length, context, rate, output, prompt, float(cells[-1].batch))
        if not load.stable:
            return load, np.inf
        step_s = sum(study.terms_at(length, load.batch, context).values())
        return load, step_s / study.lengths[length].tokens / max(1 - rate * prefill_s, 1e-9)

    return operating_point(
        study.workload, context, [cell.batch for cell in cells], [None if k is None else k > 0 for k in lengths],
        [0.0 if k is None else capacity(k, cell.batch) for k, cell in zip(lengths, cells, strict=True)],
        [capacity(0, c.batch) for c in cells if slo_s is None or _gap(study, 0, c.batch, context) <= slo_s],
        rate, slo_s, served,
    )  # fmt: skip


def _length(study: ImportedStudy, cell: ScheduleCell) -> int:
    return next(k for k in range(len(study.lengths)) if study.policy(k) == cell.policy)
