"""Watch whether the fit behind a plan still describes what is served, and ask for a new plan when it does not.

Finished requests are scored as a recording scores them (the target's and the draft's laws at every emitted position,
what retrieval would have offered there), and every block of them is tested against the fit. Test number n is given the
share 1 / n(n + 1) of the level, so that the chance of any false alarm over the whole life of an engine stays below it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from reader_theory.acceptance.drift_test import DriftReport, drift_test
from reader_theory.acceptance.fit import fit_acceptance
from reader_theory.documents import Plan, Policy, Trace
from reader_theory.documents.fit import AcceptanceFit
from reader_theory.errors import require
from runtime.engine.request import Request
from runtime.measure.record import trace_of
from runtime.models.base import LanguageModel

__all__ = ["DriftMonitor", "Replan"]

Replan = Callable[[DriftReport, Trace], "Plan | Policy | None"]
"""Called with the verdict and the trace that led to it; what it returns is run from the next step on."""


@dataclass(frozen=True)
class _Served:
    """A finished request as a recording takes prompts, with its output."""

    id: str
    workload: str
    tokens: np.ndarray
    output: np.ndarray


class DriftMonitor:
    """Tests blocks of finished requests against a fit.

    Parameters
    ----------
    fit : AcceptanceFit
        That the plan was made from; replaced by a fit of the new trace once drift was found.
    workload : str
        Which of the fit's workloads is served.
    target, draft : LanguageModel
        Those of the engine.
    replan : callable, optional
        See `Replan`; drift is only reported without it.
    block : int, >= 2
        Finished requests a test.
    level : float, in (0, 1)
        Chance of a false alarm over all tests together.
    temperature : float
        That the served requests sample at.

    Attributes
    ----------
    reports : list of DriftReport
        One a test, oldest first.
    """

    def __init__(
        self,
        fit: AcceptanceFit,
        workload: str,
        target: LanguageModel,
        draft: LanguageModel | None = None,
        *,
        replan: Replan | None = None,
        block: int = 16,
        level: float = 0.05,
        temperature: float = 0.0,
    ) -> None:
        require(
            block >= 2 and 0 < level < 1 and workload in {found.workload for found in fit.workloads},
            "`block` must be at least 2, `level` in (0, 1), and `workload` one that was fitted",
            got=(block, level, workload),
            fix="Spreads over requests need two of them; fit a trace of the workload that is served.",
        )
        self.fit, self.workload, self.target, self.draft = fit, workload, target, draft
        self.replan, self.block, self.level, self.temperature = replan, block, level, temperature
        self.reports: list[DriftReport] = []
        self._served: list[_Served] = []

    def note(self, request: Request) -> Plan | Policy | None:
        """Take in a finished request; a new policy when this one completed a block that has drifted."""
        if request.finish not in ("length", "stop") or len(request.output) < 2:
            return None
        output = np.array(request.output, dtype=np.int64)
        self._served.append(_Served(request.id, self.workload, request.prompt, output))
        if len(self._served) < self.block:
            return None
        served, self._served = self._served, []
        trace = trace_of(
            self.target,
            self.draft,
            served,
            [each.output for each in served],
            temperature=self.temperature,
            names=(self.fit.target, {name: each.model for name, each in self.fit.drafters.items() if each.model}),
        )
        return self._judge(trace)

    def _judge(self, trace: Trace) -> Plan | Policy | None:
        number = len(self.reports) + 1
        report = drift_test(self.fit, trace, level=self.level / (number * (number + 1)))
        mine = next(each for each in report if each.workload == self.workload)
        self.reports.append(mine)
        if not mine.drifted:
            return None
        self.fit = fit_acceptance(trace, level=self.fit.level)
        return self.replan(mine, trace) if self.replan is not None else None
