"""A server in virtual time: load and acceptance that drift, and what every length would have given, known exactly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache

import numpy as np
from numpy.typing import NDArray

from reader_theory.acceptance.runs import RightRuns
from runtime.live.decision import Switching
from runtime.live.estimator import DraftWindow
from runtime.live.menu import Menu
from runtime.live.watcher import Pace, Watcher

Floats = NDArray[np.float64]
CONTEXTS, BATCHES, DEPTH = (512, 4096), (1, 2, 4, 8, 16, 32, 64), 5
GOES_ON = np.array([0.78, 0.74, 0.7, 0.68, 0.66])
WINDOW_S, HOUR_S, DAY_S = 120.0, 3600.0, 86400.0


def shifted(log_odds: float) -> RightRuns:
    """The drafter's runs, better or worse by `log_odds`."""
    odds = np.log(GOES_ON / (1 - GOES_ON)) + log_odds
    return RightRuns(1 / (1 + np.exp(-odds)))


@cache
def expected(hundredths: int) -> tuple[Floats, tuple[Floats, ...]]:
    """(D + 1,) tokens a step of every length, and acceptance by depth of each, so many hundredths of log-odds away."""
    runs = shifted(hundredths / 100)
    shares = tuple(runs.shares(k) for k in range(1, DEPTH + 1))
    return np.array([1.0, *(1 + float(each.sum()) for each in shares)]), shares


def step_s(batch: float, context: float, length: int) -> float:
    """Flat until the card is full, then in proportion to tokens; a forward of the drafter a token; keys to read."""
    full = max(1.0, batch * (length + 1) / 60)
    return 0.030 * full + 0.0025 * length + 2e-8 * batch * context * (1 + length / 4)


def menu(planned: RightRuns) -> Menu:
    """What a planner would have weighed under `planned` acceptance, and chosen."""
    speeds = np.array(
        [[[b / step_s(b, c, k) for k in range(DEPTH + 1)] for b in BATCHES] for c in CONTEXTS], dtype=np.float64
    )
    tokens = np.array([1.0, *(float(planned.tokens_per_step(k)) for k in range(1, DEPTH + 1))])
    chosen = np.argmax(speeds * tokens, axis=-1)
    return Menu(CONTEXTS, BATCHES, speeds, chosen, planned.shares(DEPTH), looks_up=False)


@dataclass
class Day:
    """What one simulated day came to.

    Attributes
    ----------
    ours, best : (24,) tokens in each hour: as served, and of the best fixed schedule of that hour
    switches : seconds at which the schedule changed
    """

    ours: Floats = field(default_factory=lambda: np.zeros(24))
    best: Floats = field(default_factory=lambda: np.zeros(24))
    switches: list[float] = field(default_factory=list[float])

    @property
    def regret(self) -> float:
        return 1.0 - float(self.ours.sum() / self.best.sum())

    def switches_by_hour(self) -> NDArray[np.int64]:
        return np.bincount((np.array(self.switches) // HOUR_S).astype(np.int64), minlength=24)


def served(
    watcher: Watcher, load: Callable[[float], tuple[float, float]], drift: Callable[[float], float], seed: int,
    jitter: float = 0.05,
) -> Day:  # fmt: skip
    """Serve a day: in each window one batch and context, drafts accepted by chance, and a watcher that is told.

    Acceptance differs from window to window by `jitter` in log-odds besides what it drifts. A change of the schedule
    costs its seconds; a server that could draft and does not, its share.
    """
    rng, day = np.random.default_rng(seed), Day()
    switching, held = watcher.switching, watcher.menu
    by_cell: dict[tuple[int, int, int], Floats] = {}
    lost_s = 0.0
    for now in np.arange(0.0, DAY_S, WINDOW_S):
        hour = int(now // HOUR_S)
        batch, context = load(now)
        cell = held.place(context, batch)
        tokens, _ = expected(round(100 * drift(now)))
        by_length = held.rates(tokens, switching.off_loss)[cell] * WINDOW_S
        key = (hour, *cell)
        by_cell[key] = by_cell.get(key, np.zeros(DEPTH + 1)) + by_length
        length = int(watcher.lengths[cell])
        day.ours[hour] += by_length[length] * (1 - min(lost_s / WINDOW_S, 1.0))
        rows = held.row_steps_per_s[(*cell, length)] * WINDOW_S
        windows: list[DraftWindow] = []
        if length > 0:
            here = expected(round(100 * (drift(now) + jitter * rng.normal())))[1]
            windows = [_counted(rng, here[length - 1], rows)]
        before = watcher.switches
        changed = watcher.observe(now + WINDOW_S, windows, batch=batch, context=context)
        lost_s = switching.switch_s if changed else 0.0
        day.switches += [now] * (watcher.switches - before)
    for (hour, *_), rates in by_cell.items():
        day.best[hour] += rates.max()
    return day


def _counted(rng: np.random.Generator, shares: Floats, steps: float) -> DraftWindow:
    ended = -np.diff(np.concatenate([[1.0], shares, [0.0]]))
    lengths = rng.multinomial(round(steps), ended / ended.sum())
    return DraftWindow(round(steps), lengths[::-1].cumsum()[::-1][1:].astype(np.float64).tolist())


def watcher(planned: RightRuns, *, refit_drafts: float = 20_000, switching: Switching | None = None) -> Watcher:
    """One that refits every 20,000 drafts: seconds by day, minutes at night."""
    return Watcher(menu(planned), switching or Switching(), Pace(refit_drafts=refit_drafts))


def daily(seed: int) -> Callable[[float], tuple[float, float]]:
    """Two rows at night and fifty by day, an hour-long wave and noise on top; long contexts in the evening."""
    rng = np.random.default_rng(seed)
    noise = rng.lognormal(0.0, 0.15, int(DAY_S / WINDOW_S))

    def load(now: float) -> tuple[float, float]:
        day = 0.5 - 0.5 * np.cos(2 * np.pi * now / DAY_S)
        wave = 1 + 0.2 * np.sin(2 * np.pi * now / HOUR_S)
        batch = float(np.clip((2 + 48 * day**2) * wave * noise[int(now / WINDOW_S)], 1, 64))
        return batch, 4096.0 if now > 0.75 * DAY_S else 512.0

    return load
