"""Recorded: what grown policies did on a trace, as results of a replay.

Prefer it for trees that are grown anew at every step, which ranks on the true path cannot replay; `replay` for all
others. Exact for rules that follow the target's own tokens, on the prompts that were recorded.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from reader_theory.acceptance.replay import ReplayResult
from reader_theory.documents.arrays import Columns
from reader_theory.documents.policy import Grown
from reader_theory.documents.trace import Trace
from reader_theory.errors import require

__all__ = ["recorded_grown"]


def recorded_grown(trace: Trace, workload: str) -> list[tuple[Grown, ReplayResult]]:
    """Each grown policy of a trace, with the maps of `workload`, and what it did; none where none was recorded.

    Parameters
    ----------
    trace : Trace
    workload : str
        One that the trace recorded.

    Returns
    -------
    list of (Grown, ReplayResult)
        Over the prompts with more than one output token, in the trace's order: the first comes from the prefill.

    Raises
    ------
    InvalidInputError
        If the record has no steps on some of these prompts.
    """
    prompts = [i for i, p in enumerate(trace.prompts) if p.workload == workload and p.output_tokens > 1]
    found: list[tuple[Grown, ReplayResult]] = []
    for record in trace.grown.values():
        steps = _sorted(record.columns)
        for number, policy in enumerate(record.policies):
            mine = (steps["policy"] == number) & np.isin(steps["prompt"], prompts)
            result = _result({name: column[mine] for name, column in steps.items()}, np.array(prompts, dtype=np.int32))
            found.append((policy.model_copy(update={"maps": record.maps.get(workload, ())}), result))
    return found


def _sorted(columns: Columns) -> Columns:
    order = np.lexsort((columns["position"], columns["prompt"], columns["policy"]))
    return {name: column[order] for name, column in columns.items()}


def _result(steps: Columns, prompts: NDArray[np.int32]) -> ReplayResult:
    """Sums by prompt of one policy's steps, which are in order."""
    place = np.searchsorted(prompts, steps["prompt"])
    count = np.bincount(place, minlength=len(prompts))
    require(
        len(prompts) > 0 and bool((count > 0).all()),
        "a grown record must have steps of every policy on every prompt of its trace",
        got=f"none on prompts {prompts[count == 0][:5].tolist()}",
        fix="Record the trace again.",
    )
    nodes, emitted, forwards = steps["nodes"], steps["emitted"], steps["forwards"]
    widest = int(forwards.max(initial=0))
    return ReplayResult(
        prompts=prompts,
        steps=count,
        tokens=_summed(place, emitted, len(prompts)),
        drafted_steps=_summed(place, forwards[:, 0] > 0, len(prompts)),
        retrieval_steps=count,
        verified_nodes=_summed(place, nodes, len(prompts)),
        nodes_histogram=_counted(place, nodes, len(prompts)),
        accepted_histogram=_counted(place, emitted - 1, len(prompts)),
        forwards_histogram=np.stack([np.bincount(each, minlength=widest + 1) for each in forwards.T]),
    )


def _summed(place: NDArray[np.intp], values: NDArray[np.generic], prompts: int) -> NDArray[np.int64]:
    return np.bincount(place, values.astype(np.float64), prompts).round().astype(np.int64)


def _counted(place: NDArray[np.intp], values: NDArray[np.int32], prompts: int) -> NDArray[np.int32]:
    """(prompts, M + 1): how often each prompt has 0, 1, ..., M."""
    table = np.zeros((prompts, int(values.max(initial=0)) + 1), dtype=np.int32)
    np.add.at(table, (place, values), 1)
    return table
