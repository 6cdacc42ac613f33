"""The watcher on a simulated server: it follows a day's drift, and does not flap where nothing drifts."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from proofs_tests.live.simulated import BATCHES, DAY_S, DEPTH, HOUR_S, daily, menu, served, shifted, step_s, watcher
from runtime.live.decision import Switching
from runtime.live.watcher import Watcher


def drifting(now: float) -> float:
    """Better and worse by 1.2 in log-odds over eight hours, and a fall of 0.8 at noon that stays for three."""
    fall = 0.8 if 12 * HOUR_S <= now < 15 * HOUR_S else 0.0
    return 1.2 * float(np.sin(2 * np.pi * now / (8 * HOUR_S))) - fall


@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (2, 3, 4))])
def test_a_day_of_drifting_load_and_acceptance_is_within_two_percent_of_the_best_of_every_hour(seed: int) -> None:
    day = served(watcher(shifted(0.0)), daily(seed), drifting, seed)
    assert day.regret <= 0.02
    assert (1 - day.ours / day.best).max() <= 0.02, 1 - day.ours / day.best
    assert len(day.switches) >= 3, "acceptance that drifts so far asks for other lengths"


def test_what_was_planned_and_never_changed_loses_more_than_that() -> None:
    stubborn = watcher(shifted(0.0), refit_drafts=1e15)
    day = served(stubborn, daily(1), drifting, 1)
    assert not day.switches
    assert (1 - day.ours / day.best).max() > 0.05


@pytest.mark.parametrize("level", [*(pytest.param(level, marks=pytest.mark.slow) for level in (-1.5, 0.0)), 1.0])
def test_without_drift_no_hour_has_more_than_one_switch(level: float) -> None:
    day = served(watcher(shifted(0.3)), daily(3), lambda now: level, 3)
    assert day.switches_by_hour().max() <= 1, day.switches
    assert day.regret <= 0.02


@pytest.mark.slow
def test_without_hysteresis_it_flaps() -> None:
    eager = watcher(shifted(0.3), switching=Switching(margin=0.0, confidence=0.5, rest_s=0.0, switch_s=0.0))
    day = served(eager, daily(3), lambda now: 0.0, 3, jitter=0.3)
    calm = served(watcher(shifted(0.3)), daily(3), lambda now: 0.0, 3, jitter=0.3)
    assert day.switches_by_hour().max() > 1
    assert len(calm.switches) < len(day.switches) / 3


def test_acceptance_that_nobody_drafts_under_is_tried_again_ever_more_rarely() -> None:
    """All off for most of a day: few probes; then drafts pay, and are found to."""

    def late(now: float) -> float:
        return -6.0 if now < 0.75 * DAY_S else 1.0

    found = watcher(shifted(0.0))
    day = served(found, lambda now: (32.0, 512.0), late, 4)
    assert 10 <= found.trials <= 26, "after a quarter of an hour, half an hour, then every hour"
    assert [now for now in day.switches if HOUR_S < now < 0.75 * DAY_S] == [], "a trial is no switch"
    assert found.schedule.length(512, 32) > 0
    assert day.regret <= 0.1


def test_turning_off_weighs_what_off_costs() -> None:
    """Where plain decoding is ahead by less than a server that can draft loses by not drafting, it goes on."""
    held, runs = menu(shifted(0.0)), shifted(-1.1)
    rates = np.array([1.0, *(float(runs.tokens_per_step(k)) for k in range(1, DEPTH + 1))])
    cell = held.place(512, 64)
    plain, drafted = held.rates(rates, 0.0)[cell][0], held.rates(rates, 0.0)[cell][1:].max()
    loss = 1 - drafted / plain
    assert loss > 0, "plain decoding is ahead at a full card"
    for off_loss, drafts in ((0.0, False), (min(2 * loss, 0.9), True)):
        best = np.argmax(held.rates(rates, off_loss)[cell])
        assert bool(best) == drafts


def test_an_idle_server_weighs_nothing_and_a_clock_that_goes_back_is_no_time() -> None:
    mine = watcher(shifted(0.0))
    assert not mine.observe(100.0, [], batch=0.0, context=0.0)
    assert not mine.observe(50.0, [], batch=4.0, context=512.0)
    assert mine.weights.sum() == 0.0
    mine.observe(110.0, [], batch=4.0, context=512.0)
    assert mine.weights.sum() == pytest.approx(10.0)
    assert isinstance(mine, Watcher)


def test_ranges_of_a_schedule_meet_and_reach_to_the_largest_batch() -> None:
    held = menu(shifted(0.0))
    ranges = held.ranges(held.chosen, 0, 256)
    assert ranges[0][0] == 1
    assert ranges[-1][1] == 256
    assert all(before[1] + 1 == after[0] and before[2] != after[2] for before, after in pairwise(ranges))
    for place, batch in enumerate(BATCHES):
        found = next(length for start, end, length in ranges if start <= batch <= end)
        assert found == held.chosen[0, place]
    assert step_s(64, 512, 5) > step_s(64, 512, 0)
