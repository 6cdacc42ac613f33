"""Watcher: windows of what a server counted in, a schedule to follow out. No clock and no file: time is handed in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

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
    probe_s, longest_probe_s : float
        Seconds without any draft, because the schedule says so, after which some are tried; doubled each time that
        they do not pay, as far as the longest.
    """

    refit_drafts: float = 10_000.0
    load_half_life_s: float = 1800.0
    probe_s: float = 1800.0
    longest_probe_s: float = 4 * 3600.0


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
        self.switches = 0
        self._now_s: float | None = None
        self._silent_s = 0.0
        self._wait_s = self.pace.probe_s
        self._before_probe: np.ndarray | None = None

    def observe(self, now_s: float, windows: Sequence[DraftWindow], *, batch: float, context: float) -> bool:
        """Take in what was counted since the last call; whether the schedule changed.

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
            self._silent_s = 0.0
        elif batch >= 1 and self.schedule.length(context, batch) == 0:
            self._silent_s += elapsed
        if self.fresh >= self.pace.refit_drafts:
            return self._refit()
        return self._probe() if self._silent_s >= self._wait_s else False

    def _load(self, elapsed: float, batch: float, context: float) -> None:
        if batch < 1:
            return
        self.weights *= 0.5 ** (elapsed / self.pace.load_half_life_s)
        self.weights[self.menu.place(context, batch)] += elapsed

    def _refit(self) -> bool:
        assert self._now_s is not None, "drafts were counted"
        self.accepting, self.fresh = self.acceptance.fit(), 0.0
        if self._before_probe is not None:
            return self._after_probe()
        return self._counted(self.schedule.decide(self._now_s, self.accepting, self.weights))

    def _probe(self) -> bool:
        """Draft a while where nothing is: acceptance is not known otherwise."""
        assert self._now_s is not None, "a silence was counted"
        tried = np.where(
            self.schedule.lengths == 0, self.schedule.best(self.accepting, drafting=True), self.schedule.lengths
        )
        self._before_probe, self._silent_s, self.fresh = self.schedule.lengths.copy(), 0.0, 0.0
        self.schedule.put(self._now_s, tried)
        return self._counted(True)

    def _after_probe(self) -> bool:
        """Back to what was before, but for the cells that drafts now pay in."""
        assert self._now_s is not None and self._before_probe is not None, "a probe was on"
        probed, before = self.schedule.lengths, self._before_probe
        self._before_probe = None
        self.schedule.put(-np.inf, before)
        paid = self.schedule.decide(self._now_s, self.accepting, self.weights)
        self._wait_s = self.pace.probe_s if paid else min(2 * self._wait_s, self.pace.longest_probe_s)
        self.schedule.put(self._now_s, self.schedule.lengths)
        return self._counted(not np.array_equal(probed, self.schedule.lengths))

    def _counted(self, changed: bool) -> bool:
        self.switches += changed
        return changed

    @property
    def context(self) -> int:
        """Place of the context that is served most."""
        return int(np.argmax(self.weights.sum(axis=1)))
