"""What a column of a schedule serves at a rate: the first batch that keeps up, and where drafting stops paying."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from reader_theory.documents.schedule import OperatingPoint
from reader_theory.serving.load import LoadPoint

__all__ = ["operating_point"]


def operating_point(
    workload: str,
    context: int,
    batches: Sequence[int],
    drafts: Sequence[bool | None],
    capacity: Sequence[float],
    plain: Sequence[float],
    rate_per_s: float,
    slo_s: float | None,
    served: Callable[[int], tuple[LoadPoint, float]],
) -> OperatingPoint:
    """The point of one workload and context.

    Parameters
    ----------
    batches : rising
    drafts : as many
        Whether each batch drafts; None where nothing fits.
    capacity : as many float
        Requests a second that each can serve, 0 where nothing fits.
    plain : floats
        The same of plain decoding, of the batches where it keeps the target.
    served : callable (place) -> (load, seconds a token)
        How the batch at a place settles at the rate.
    """
    last = max((i for i, drafted in enumerate(drafts) if drafted), default=-1)
    quiet = [batches[i] for i in range(last + 1, len(batches)) if drafts[i] is False]
    unmet = OperatingPoint(
        workload=workload, context=context, sustained=False, batch=None, running=None, latency_s=None,
        seconds_per_token=None, capacity_per_s=max(capacity, default=0.0), off_capacity_per_s=max(plain, default=0.0),
        off_from_batch=quiet[0] if quiet else None,
        stops_paying_per_s=(capacity[last] if last >= 0 else 0.0) if quiet else None,
    )  # fmt: skip
    for i, drafted in enumerate(drafts):
        if drafted is None or capacity[i] < rate_per_s:
            continue
        load, gap = served(i)
        if load.stable and (slo_s is None or gap <= slo_s):
            met = {"sustained": True, "batch": batches[i], "running": load.batch}
            return unmet.model_copy(update={**met, "latency_s": load.latency_s, "seconds_per_token": gap})
    return unmet
