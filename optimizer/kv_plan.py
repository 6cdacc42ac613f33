"""Which cache pays at which load: bytes decide how many requests run together, rows and reads decide a step's seconds.

A cache of fewer bits runs more of the requests that wait, and spends more on reading what each has behind it. Where all
of a load fits anyway, the plain cache is never beaten.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from optimizer.plan import Study
from reader_theory.documents import Cost, CostTable, PlanEntry, Policy, Stamp, Trace
from reader_theory.documents.fit import AcceptanceFit
from reader_theory.documents.kv_caches import KVCaches, MeasuredCache
from reader_theory.documents.kv_plan import KVPlan, KVPoint
from reader_theory.documents.plan import RISK
from reader_theory.errors import require
from reader_theory.memory import KVFormat, rows_admitted

__all__ = ["plan_caches"]

Progress = Callable[[str, int, int], None]


def plan_caches(
    fit: AcceptanceFit,
    cost: Cost,
    trace: Trace,
    caches: KVCaches,
    *,
    kv_bytes: int,
    loads: Sequence[int] = (1, 4, 16, 64),
    names: Iterable[str] | None = None,
    workloads: Sequence[str] | None = None,
    drafters: Sequence[str] | None = None,
    new_tokens: int,
    least_scratch: int = 1,
    risk: float = RISK,
    evaluations: int = 1000,
    seed: int = 0,
    progress: Progress | None = None,
) -> KVPlan:
    """Weigh every cache under every load.

    Parameters
    ----------
    cost : Cost
        Measured with the plain cache; what a cache reads slower was measured by `reader kv fit`.
    kv_bytes : int
        Bytes that keys and values of target and drafts may take.
    loads : sequence of int
        Requests that want to run at once; those that do not fit wait.
    names : iterable of str, optional
        Caches; all of the document when left out.
    least_scratch : int
        Slots of a row beyond its text at least, where a draft keeps keys and values of its own.

    Raises
    ------
    InvalidInputError
        If fit, cost and trace do not belong together, or are not of the plain cache; if a workload or a cache is
        unknown, or a number is not a size or a chance.
    """
    _check(fit, cost, trace, caches)
    require(
        bool(loads) and min(kv_bytes, new_tokens, least_scratch, evaluations, *loads) >= 1 and 0 <= risk <= 1,
        "bytes, loads, tokens, scratch and evaluations must be at least 1, and `risk` lie in [0, 1]",
        got=f"{kv_bytes} bytes, loads {list(loads)}, {new_tokens} tokens, scratch {least_scratch}, risk {risk}, "
        f"{evaluations} evaluations",
        fix="Leave out what is not known; loads are requests that want to run at once.",
    )
    chosen = [caches.cache(name) for name in dict.fromkeys(names or [each.name for each in caches.caches])]
    told = [name for name in (workloads or trace.workloads)]
    served = cost.of(drafters).as_declared({name: each.forwards for name, each in fit.drafters.items()})
    points: list[KVPoint] = []
    for number, workload in enumerate(told):
        fit.workload(workload)
        longest = max(prompt.prompt_tokens for prompt in trace.prompts if prompt.workload == workload) + new_tokens
        found: list[KVPoint] = []
        for place, cache in enumerate(chosen):
            if progress:
                progress("caches", number * len(chosen) + place, len(told) * len(chosen))
            studies = [
                Study(
                    fit, _reading(served, cache), trace, workload, limit, risk=risk, evaluations=evaluations, seed=seed
                )
                for limit in _limits(cache, chosen)
            ]
            formats = [cache.format, *(caches.drafts[name] for name in served.drafters if name in caches.drafts)]
            admitted = _Admission(studies, formats, kv_bytes, longest, least_scratch)
            found += [admitted.point(cache, load) for load in loads]
        points += _compared(found)
    return KVPlan(
        stamp=Stamp.now(seed=seed), target=cost.target, device=cost.device, kv_bytes=kv_bytes, new_tokens=new_tokens,
        fit=fit.fingerprint(), cost=cost.fingerprint(), caches=caches.fingerprint(), points=tuple(points),
        notes=("Acceptance is that of the plain cache's text: what a quantised target writes is drafted as well.",),
    )  # fmt: skip


def _check(fit: AcceptanceFit, cost: Cost, trace: Trace, caches: KVCaches) -> None:
    require(
        fit.trace == trace.fingerprint() and cost.kv == trace.kv == "plain" and cost.target == caches.target,
        "fit, trace, cost and caches must be of one target, recorded and calibrated with the plain cache",
        got=f"a fit of trace {fit.trace}, trace {trace.fingerprint()} of --kv {trace.kv}, a cost of {cost.target!r} "
        f"with --kv {cost.kv}, caches of {caches.target!r}",
        fix="Record, fit and calibrate without --kv, and fit the caches of that target.",
    )
    require(
        cost.dtype == caches.dtype,
        "cost and caches must be of one dtype: it decides the bytes of every token that is kept as it is",
        got=f"a cost in {cost.dtype}, caches in {caches.dtype}",
        fix=f"Fit the caches with `reader kv fit --dtype {cost.dtype}`.",
    )


def _reading(cost: Cost, cache: MeasuredCache) -> Cost:
    """The cost with what a step of the target reads slower."""
    table = cost.target_forward
    more = cache.read_s * np.array(table.batch)[:, None, None] * np.array(table.context)[None, None, :]
    slower = CostTable.model_validate({**table.model_dump(), "seconds": (table.values + more).tolist()})
    return cost.model_copy(update={"target_forward": slower})


def _limits(cache: MeasuredCache, among: Sequence[MeasuredCache]) -> list[int | None]:
    """Largest trees that a cache is searched for: its buffer's, or any; and those of the caches beside it.

    A search among fewer policies may find a better one: no cache is to lose by that.
    """
    reaches = sorted({other.format.window.reach for other in among if other.format.window is not None})
    own = None if cache.format.window is None else cache.format.window.reach
    return [own, *(reach for reach in reaches if own is None or reach < own)]


class _Admission:
    """How many rows a cache lets run, and what the best policy makes of them."""

    def __init__(
        self, studies: Sequence[Study], formats: Sequence[KVFormat], kv_bytes: int, longest: int, least_scratch: int
    ) -> None:
        self.studies, self.formats, self.kv_bytes = studies, formats, kv_bytes
        self.longest, self.least_scratch = longest, least_scratch if len(formats) > 1 else 1
        self._entries: dict[int, PlanEntry] = {}

    def most(self, policy: Policy | None) -> int:
        """Rows that fit under a policy, whose nodes are scratch of every row."""
        scratch = max(self.least_scratch, 1 + (0 if policy is None else policy.most_nodes))
        return rows_admitted(self.formats, self.kv_bytes, self.longest + scratch)

    def entry(self, rows: int) -> PlanEntry:
        """The best policy of so many rows."""
        if rows not in self._entries:
            found = [study.entry(rows) for study in self.studies]
            self._entries[rows] = max(found, key=lambda entry: entry.prediction.tokens_per_s.value)
        return self._entries[rows]

    def point(self, cache: MeasuredCache, load: int) -> KVPoint:
        """What the cache gives under a load: fewer rows where the best policy's own scratch leaves no room for all."""
        rows, entry = min(load, self.most(None)), None
        while rows:
            entry = self.entry(rows)
            fits = min(load, self.most(entry.policy))
            if fits >= rows:
                break
            rows, entry = fits, None
        policy = None if entry is None else entry.policy
        return KVPoint(
            workload=self.studies[0].workload, load=load, cache=cache.name, bits=cache.format.bits,
            most_rows=self.most(policy), rows=rows, policy=policy,
            tokens_per_s=None if entry is None else entry.prediction.tokens_per_s,
            perplexity_ratio=cache.perplexity_ratio, best=False,
        )  # fmt: skip


def _compared(points: Sequence[KVPoint]) -> list[KVPoint]:
    """Points with the best of each load marked."""
    rates = [(point.load, 0.0 if point.tokens_per_s is None else point.tokens_per_s.value) for point in points]
    most = {load: max(rate for other, rate in rates if other == load) for load, _ in rates}
    return [
        point.model_copy(update={"best": rate > 0 and rate == most[load]})
        for point, (load, rate) in zip(points, rates, strict=True)
    ]
