"""What a column of a schedule serves at a rate: the first batch that keeps up, and where drafting stops paying."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf, isfinite
from typing import NamedTuple

from reader_theory.documents.serving_schedule import OperatingPoint
from reader_theory.errors import require
from reader_theory.serving.load import LoadPoint, fixed_point_load, steps_of_request

__all__ = ["Demand", "Served", "check_demand", "operating_point"]


def check_demand(rate_per_s: float, **others: float | None) -> None:
    """Raise InvalidInputError unless the rate and each of the others that is given is finite and above 0."""
    given = {"rate_per_s": rate_per_s, **{name: each for name, each in others.items() if each is not None}}
    require(
        all(isfinite(each) and each > 0 for each in given.values()),
        f"{', '.join(f'`{name}`' for name in ('rate_per_s', *others))} must be finite and above 0",
        got=given,
        fix="Rates are requests a second, targets seconds a token.",
    )


class Demand(NamedTuple):
    """What is asked of an engine.

    Attributes
    ----------
    rate_per_s : float
        Requests a second.
    output_tokens : float
        Of a request.
    prefill_s : float
        Seconds of one prompt's forward.
    slo_s : float, optional
        Most seconds a token of one request.
    """

    rate_per_s: float
    output_tokens: float
    prefill_s: float
    slo_s: float | None = None


class Served(NamedTuple):
    """How one batch of a column is served by its policy.

    Attributes
    ----------
    drafts : bool
    tokens_per_step : float
    step_s : float
        Seconds of a step of a full batch.
    rows : float
        Requests of a full batch; fewer than the batch where memory ends first.
    largest_batch : float
        Most requests that run at once when the rate settles.
    seconds : callable
        Seconds of a step, by requests.
    """

    drafts: bool
    tokens_per_step: float
    step_s: float
    rows: float
    largest_batch: float
    seconds: Callable[[float], float]

    def keeps(self, demand: Demand) -> bool:
        """Whether a full batch keeps the target."""
        return demand.slo_s is None or self.step_s / self.tokens_per_step <= demand.slo_s

    def capacity(self, demand: Demand) -> float:
        """Largest rate of a full batch: its requests in the time of their steps and of one another's prefills."""
        if self.rows < 1:
            return 0.0
        steps = steps_of_request(demand.output_tokens, self.tokens_per_step)
        return self.rows / (steps * self.step_s + self.rows * demand.prefill_s)

    def load(self, demand: Demand) -> LoadPoint:
        """Where the rate settles."""
        return fixed_point_load(
            demand.rate_per_s, self.seconds, output_tokens=demand.output_tokens, tokens_per_step=self.tokens_per_step,
            prefill_s=demand.prefill_s, largest_batch=self.largest_batch,
        )  # fmt: skip

    def seconds_per_token(self, load: LoadPoint, demand: Demand) -> float:
        """Of one request at `load`, prefills of others between; infinite where the rate never settles."""
        if not load.stable:
            return inf
        return self.seconds(load.batch) / self.tokens_per_step / (1 - demand.rate_per_s * demand.prefill_s)


def operating_point(
    workload: str,
    context: int,
    batches: Sequence[int],
    served: Sequence[Served | None],
    plain: Sequence[Served],
    demand: Demand,
) -> OperatingPoint:
    """The point of one workload and context.

    Parameters
    ----------
    batches : rising
    served : as many
        How each batch is served; None where nothing fits.
    plain : the same of plain decoding
    demand : Demand
    """
    drafts = [None if each is None else each.drafts for each in served]
    capacity = [0.0 if each is None else each.capacity(demand) for each in served]
    off = [each.capacity(demand) for each in plain if each.keeps(demand)]
    last = max((i for i, drafted in enumerate(drafts) if drafted), default=-1)
    quiet = [batches[i] for i in range(last + 1, len(batches)) if drafts[i] is False]
    unmet = OperatingPoint(
        workload=workload, context=context, sustained=False, batch=None, running=None, latency_s=None,
        seconds_per_token=None, capacity_per_s=max(capacity, default=0.0), off_capacity_per_s=max(off, default=0.0),
        off_from_batch=quiet[0] if quiet else None,
        stops_paying_per_s=(capacity[last] if last >= 0 else 0.0) if quiet else None,
    )  # fmt: skip
    for batch, each, most in zip(batches, served, capacity, strict=True):
        if each is None or most < demand.rate_per_s:
            continue
        load = each.load(demand)
        gap = each.seconds_per_token(load, demand)
        if load.stable and (demand.slo_s is None or gap <= demand.slo_s):
            met = {"sustained": True, "batch": batch, "running": load.batch}
            return unmet.model_copy(update={**met, "latency_s": load.latency_s, "seconds_per_token": gap})
    return unmet
