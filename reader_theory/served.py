"""Validate from what another engine's benchmark measured: a Plan beside runs of vLLM or llama.cpp.

Prefer `validate` where this package's engine ran the plan: a RunRecord tells every term, a benchmark only the whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from reader_theory.documents import Comparison, Plan, PlanEntry, Policy, Stamp, Validation
from reader_theory.errors import require
from reader_theory.estimate import Estimate

__all__ = ["ServedRun", "validate_served"]

_SAME_LENGTH = 0.02
"""Share by which the mean draft may differ from the planned one without a note."""


@dataclass(frozen=True)
class ServedRun:
    """One benchmark of a server.

    Parameters
    ----------
    source : str
        Name of the file, for messages.
    batch, context : float
        Mean requests that ran at once, mean cached tokens of a row.
    tokens_per_s : float
        Of all rows, prefill left out.
    step_s : float, optional
        Seconds of a decode step.
    tokens_per_step : float
        Of a row's step with a draft; 1 without drafts.
    drafted : float
        Tokens drafted in such a step; 0 in a run without drafts.
    """

    source: str
    batch: float
    context: float
    tokens_per_s: float
    step_s: float | None = None
    tokens_per_step: float = 1.0
    drafted: float = 0.0


def validate_served(plan: Plan, runs: Sequence[ServedRun], *, workload: str, record: str) -> Validation:
    """Compare what `plan` predicted with what a server measured; a run without drafts is compared with "off".

    Where runs with and without drafts fall to the same entry, the speed-up is compared as well, and first.

    Parameters
    ----------
    plan : Plan
    runs : sequence of ServedRun
        One each with and without drafts an entry, at most.
    workload : str
        Of the plan: benchmarks do not name one.
    record : str
        Fingerprint of the files.

    Raises
    ------
    InvalidInputError
        If the plan has no such workload, two runs fall to one entry, or a run drafts where the plan does not, or
        the other way round and "off" was not weighed.
    """
    placed = [(plan.entry(workload, max(1, round(run.batch)), run.context), run) for run in runs]
    told = [(entry.batch, entry.context_tokens, run.drafted > 0) for entry, run in placed]
    require(
        len(set(told)) == len(told),
        "runs must be of different entries of the plan",
        got=f"{', '.join(run.source for run in runs)} at (batch, context, drafting) {told}",
        fix="Pass one run a batch, and one without drafts.",
    )
    plain = {(entry.batch, entry.context_tokens): run for entry, run in placed if run.drafted <= 0}
    rows: list[Comparison] = []
    notes: list[str] = []
    for entry, run in placed:
        rows += _compared(entry, run, plain.get((entry.batch, entry.context_tokens)))
        notes += _notes(entry, run)
    rows.sort(key=lambda row: row.quantity != "speed_up")
    return Validation(
        stamp=Stamp.now(), plan=plan.fingerprint(), record=record, comparisons=tuple(rows), notes=tuple(notes)
    )


def _compared(entry: PlanEntry, run: ServedRun, plain: ServedRun | None) -> list[Comparison]:
    if run.drafted > 0:
        return _drafting(entry, run, plain)
    policy, rate = _off(entry, run)
    pairs = [("tokens_per_s", rate, run.tokens_per_s)]
    pairs += [] if run.step_s is None else [("step_s", _inverse(rate, entry.batch), run.step_s)]
    return [_row(entry, policy, *pair) for pair in pairs]


def _drafting(entry: PlanEntry, run: ServedRun, plain: ServedRun | None) -> list[Comparison]:
    require(
        entry.policy.kind != "off",
        "a run that drafts must be of an entry that does",
        got=f"`{run.source}` drafted {run.drafted:.3g} tokens a step; at batch {entry.batch} the plan drafts nothing",
        fix="Run the server as `reader export` says, or plan for what it runs.",
    )
    predicted = entry.prediction
    counted = run.tokens_per_step
    if entry.policy.retrieved is not None and run.step_s is not None:  # steps without a draft are steps too
        counted = run.tokens_per_s * run.step_s / run.batch
    pairs = [("tokens_per_step", predicted.tokens_per_step, counted)]
    pairs += [] if run.step_s is None else [("step_s", predicted.step_s, run.step_s)]
    pairs += [("tokens_per_s", predicted.tokens_per_s, run.tokens_per_s)]
    if plain is not None:
        gain = run.tokens_per_s / run.batch / (plain.tokens_per_s / plain.batch)
        pairs.insert(0, ("speed_up", predicted.speed_up, gain))
    return [_row(entry, entry.policy, *pair) for pair in pairs]


def _off(entry: PlanEntry, run: ServedRun) -> tuple[Policy, Estimate]:
    """Plain decoding at the entry, and its tokens a second, as uncertain as the step that was chosen."""
    if entry.policy.kind == "off":
        return entry.policy, entry.prediction.tokens_per_s
    known = [each for each in (*entry.alternatives.values(), *entry.candidates) if each.policy.kind == "off"]
    require(
        bool(known),
        "a run without drafts must be of an entry that weighed plain decoding",
        got=f"`{run.source}` drafted nothing; at batch {entry.batch} the plan kept no such candidate",
        fix="Run the server as `reader export` says.",
    )
    rate, step = known[0].tokens_per_s, entry.prediction.step_s
    low, high = rate * step.value / step.high, rate * step.value / step.low
    return known[0].policy, Estimate(value=rate, low=min(low, rate), high=max(high, rate), origin="predicted")


def _inverse(rate: Estimate, batch: int) -> Estimate:
    """Seconds of a plain step of the whole batch."""
    return Estimate(value=batch / rate.value, low=batch / rate.high, high=batch / rate.low, origin=rate.origin)


def _row(entry: PlanEntry, policy: Policy, quantity: str, predicted: Estimate, measured: float) -> Comparison:
    return Comparison(
        workload=entry.workload, batch=entry.batch, policy=policy, quantity=quantity, predicted=predicted,
        measured=measured,
    )  # fmt: skip


def _notes(entry: PlanEntry, run: ServedRun) -> list[str]:
    notes: list[str] = []
    if abs(run.batch - entry.batch) > 0.05 * entry.batch:
        notes.append(f"{run.source}: {run.batch:.3g} requests ran at once, the entry is for {entry.batch}")
    nodes = entry.prediction.nodes_per_step
    if run.drafted > 0 and entry.policy.kind == "static" and abs(run.drafted - nodes) > _SAME_LENGTH * nodes:
        notes.append(f"{run.source}: {run.drafted:.3g} tokens were drafted a step, the plan's {nodes:.3g}")
    return notes
