"""Watcher: windows of what a server counted in, a schedule to follow out. No clock and no file: time is handed in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from runtime.live.decision import LiveSchedule, Switching
from runtime.live.estimator import AcceptanceEstimator, Accepting, DraftWindow
from runtime.live.menu import Menu

__all__ = ["Pace", "Watcher"]


@dataclass(frozen=True)
class Pace:
    """How often things are looked at.

    Parameters
    ----------
    refit_drafts : float
        Drafts after which acceptance is fitted again.
    load_half_life_s : float
        Seconds after which a cell's share of the load weighs half.
    quiet_s, longest_quiet_s : float
        Seconds without any draft, because the schedule says so, after which some are tried, and seconds between two
        trials of lengths that promise a gain and are not sure of it; doubled each time that a trial changes nothing,
        as far as the longest.
    trial_s : float
        Seconds of a trial; the schedule stays what it is.
    """

    refit_drafts: float = 10_000.0
    load_half_life_s: float = 1800.0
    quiet_s: float = 900.0
    longest_quiet_s: float = 3600.0
    trial_s: float = 30.0


@dataclass
class Watcher:
    """Estimator, schedule and load together.

    Parameters
    ----------
    menu : Menu
    switching, pace : how
    estimator : AcceptanceEstimator, optional
        That of the menu's own acceptance when left out.
    """

    menu: Menu
    switching: Switching = field(default_factory=Switching)
    pace: Pace = field(default_factory=Pace)
    estimator: AcceptanceEstimator | None = None

    def __post_init__(self) -> None:
        self.acceptance = self.estimator or AcceptanceEstimator(self.menu.shares)
        self.schedule = LiveSchedule(self.menu, self.switching)
        self.weights = np.zeros(self.schedule.lengths.shape)
        self.accepting: Accepting = self.acceptance.fit()
        self.fresh = 0.0
        self.switches, self.trials = 0, 0
        self.trial: NDArray[np.int64] | None = None
        self._now_s: float | None = None
        self._quiet_s, self._tried_s = 0.0, np.inf
        self._wait_s = self.pace.quiet_s

    @property
    def lengths(self) -> NDArray[np.int64]:
        """(C, B) what is drafted now: the trial's lengths while there is one, else the schedule's."""
        return self.schedule.lengths if self.trial is None else self.trial

    def observe(self, now_s: float, windows: Sequence[DraftWindow], *, batch: float, context: float) -> bool:
        """Take in what was counted since the last call; whether the schedule changed, or a trial begins.

        Parameters
        ----------
        now_s : float
            Seconds on a clock that never goes back; one that does counts as no time gone.
        windows : sequence of DraftWindow
            Empty where nothing was drafted.
        batch, context : float
            Mean rows that ran, and their cached tokens; a batch below 1 is an idle server.
        """
        elapsed = 0.0 if self._now_s is None else max(now_s - self._now_s, 0.0)
        self._now_s = now_s if self._now_s is None else max(now_s, self._now_s)
        self._load(elapsed, batch, context)
        for window in windows:
            self.acceptance.observe(window)
            self.fresh += window.steps
        if windows:
            self._quiet_s = 0.0
        elif batch >= 1 and self.schedule.length(context, batch) == 0:
            self._quiet_s += elapsed
        self._tried_s += elapsed
        tried = self.trial is not None and self._tried_s >= self.pace.trial_s
        if self.fresh >= self.pace.refit_drafts or (tried and self.fresh > 0):
            return self._refit(tried)
        if tried:  # nobody followed it
            self.trial = None
        if self.trial is None and self._quiet_s >= self._wait_s:
            drafting = self.schedule.best_drafting(self.accepting)
            return self._try(np.where(self.schedule.lengths == 0, drafting, self.schedule.lengths))
        return False

    def _load(self, elapsed: float, batch: float, context: float) -> None:
        if batch < 1:
            return
        self.weights *= 0.5 ** (elapsed / self.pace.load_half_life_s)
        self.weights[self.menu.place(context, batch)] += elapsed

    def _refit(self, tried: bool) -> bool:
        """Fit, and decide; a trial that did not pay is waited for longer."""
        assert self._now_s is not None, "drafts were counted"
        self.accepting, self.fresh = self.acceptance.fit(), 0.0
        changed = self.schedule.decide(self._now_s, self.accepting, self.weights)
        self.switches += changed
        if self.trial is not None and (tried or changed):
            self.trial = None
            longer = min(2 * self._wait_s, self.pace.longest_quiet_s)
            self._wait_s = self.pace.quiet_s if changed else longer
        if changed or self.trial is not None or self._tried_s < self._wait_s:
            return changed
        promising = self.schedule.promising(self.accepting, self.weights)
        return False if promising is None else self._try(promising)

    def _try(self, lengths: NDArray[np.int64]) -> bool:
        """Draft a while what is not drafted: acceptance there is not known otherwise."""
        self.trial = lengths
        self._quiet_s, self._tried_s, self.fresh = 0.0, 0.0, 0.0
        self.trials += 1
        return True

    @property
    def context(self) -> int:
        """Place of the context that is served most."""
        return int(np.argmax(self.weights.sum(axis=1)))
