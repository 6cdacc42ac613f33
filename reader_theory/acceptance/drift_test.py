"""Drift test: whether a fitted model still describes a new trace.

The null hypothesis is that both traces were drawn from one population of prompts. Each reference that the fit holds
(tokens a step of chains, acceptance of rank 0) is compared by Welch's t over prompts, and the smallest p-value is
judged by Holm's first step, so that the level holds for the workload as a whole.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from reader_theory.acceptance.fit import fit_acceptance
from reader_theory.documents.base import Frozen
from reader_theory.documents.fit import AcceptanceFit, WorkloadFit
from reader_theory.documents.trace import Trace
from reader_theory.errors import require
from reader_theory.estimate import Estimate

__all__ = ["DriftFinding", "DriftReport", "drift_test"]


class DriftFinding(Frozen):
    """One reference, as fitted and as the new trace has it."""

    reference: str
    fitted: float
    seen: float
    p_value: float
    detectable: float = Field(description="difference that the test finds with the stated power at this reference")


class DriftReport(Frozen):
    """The verdict on one workload."""

    workload: str
    drifted: bool
    level: float = Field(description="chance of calling drift where there is none, over all findings together")
    power: float = Field(description="chance of finding a difference of `detectable`")
    findings: tuple[DriftFinding, ...]
    advice: str


def drift_test(fit: AcceptanceFit, trace: Trace, *, level: float = 0.05, power: float = 0.8) -> tuple[DriftReport, ...]:
    """Say, for each workload that both know, whether the fit no longer describes the trace.

    Parameters
    ----------
    fit : AcceptanceFit
    trace : Trace
        Recorded later, elsewhere, or by a run; at least 2 prompts a workload.
    level : float, in (0, 1)
        Chance of a false alarm a workload.
    power : float, in (0, 1)
        Chance at which `detectable` differences are found.

    Raises
    ------
    InvalidInputError
        If they share no workload, or `level` or `power` is outside (0, 1).
    """
    fresh = {found.workload: found for found in fit_acceptance(trace, depth=1, level=fit.level).workloads}
    shared = [old for old in fit.workloads if old.workload in fresh]
    require(
        bool(shared) and 0 < level < 1 and 0 < power < 1,
        "a drift test must have a workload that fit and trace share, and `level` and `power` in (0, 1)",
        got=f"{[old.workload for old in fit.workloads]} and {sorted(fresh)}, level {level}, power {power}",
        fix="Record the workload that was fitted.",
    )
    return tuple(_report(old, fresh[old.workload], level, power) for old in shared)


def _report(old: WorkloadFit, new: WorkloadFit, level: float, power: float) -> DriftReport:
    before, after = _references(old), _references(new)
    names = [name for name in before if name in after]
    each = level / max(len(names), 1)
    findings = tuple(
        _finding(name, before[name], after[name], (old.prompts, new.prompts), each, power) for name in names
    )
    lost = sorted(before.keys() ^ after.keys())
    drifted = any(finding.p_value < each for finding in findings) or bool(lost)
    return DriftReport(
        workload=old.workload,
        drifted=drifted,
        level=level,
        power=power,
        findings=findings,
        advice=_advice(findings, each, lost),
    )


def _references(fit: WorkloadFit) -> dict[str, Estimate]:
    told: dict[str, Estimate] = {}
    for name, found in fit.drafters.items():
        told |= {f"{name} rank 0": found.geometric} if found.geometric is not None else {}
        told |= {f"{name} {chain}": value for chain, value in found.tokens_per_step.items() if chain.endswith(" 4")}
    return told


def _finding(
    name: str, old: Estimate, new: Estimate, prompts: tuple[int, int], level: float, power: float
) -> DriftFinding:
    from scipy.special import stdtr, stdtrit

    spreads = np.array([_standard_error(found, n) for found, n in zip((old, new), prompts, strict=True)])
    spread, freedom = float(np.sqrt(np.sum(spreads**2))), _welch(spreads, prompts)
    difference = new.value - old.value
    p_value = 2 * float(stdtr(freedom, -abs(difference) / spread)) if spread > 0 else float(difference == 0)
    detectable = spread * float(stdtrit(freedom, 1 - level / 2) + stdtrit(freedom, power))
    return DriftFinding(reference=name, fitted=old.value, seen=new.value, p_value=p_value, detectable=detectable)


def _standard_error(found: Estimate, prompts: int) -> float:
    """Standard error that an interval of `bootstrap_prompts` was made from."""
    from scipy.special import stdtrit

    return (found.high - found.low) / (2 * float(stdtrit(prompts - 1, (1 + found.level) / 2)))


def _welch(spreads: NDArray[np.float64], prompts: tuple[int, int]) -> float:
    parts = spreads**2
    whole = float(np.sum(parts**2 / (np.array(prompts) - 1)))
    return float(np.sum(parts)) ** 2 / whole if whole > 0 else float(sum(prompts) - 2)


def _advice(findings: tuple[DriftFinding, ...], each: float, lost: list[str]) -> str:
    moved = [finding for finding in findings if finding.p_value < each]
    if lost:
        return f"A source came or went ({', '.join(lost)}): fit and plan again from the new trace."
    if moved:
        worst = min(moved, key=lambda finding: finding.p_value)
        change = f"{worst.reference} went from {worst.fitted:.3g} to {worst.seen:.3g}"
        return f"The fit no longer describes the trace: {change}. Fit and plan again from the new trace."
    finest = min(findings, key=lambda finding: finding.detectable / max(abs(finding.fitted), 1e-12))
    return (
        f"No drift found; a change of {finest.reference} by {finest.detectable:.2g} would have been. "
        "Record more prompts to find smaller ones."
    )
