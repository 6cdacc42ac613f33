"""Scrapes to windows: restarts, gaps, damaged and mixed ones; only what was counted in between."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proofs_tests.live.simulated import DEPTH, menu, shifted
from reader_theory.acceptance.runs import RightRuns
from reader_theory.errors import InvalidInputError
from runtime.live.estimator import AcceptanceEstimator, DraftWindow
from runtime.live.prometheus import Counted, Scrape, Scrapes, read_scrapes, windows_of

RATES = (0.8, 0.5, 0.3)


def exposed(drafts: float, running: float = 4.0, length: int = 3, model: str = "m", begun: float | None = None) -> str:
    """One scrape of a server that has verified so many drafts of `length` tokens."""
    labels = f'engine="0",model_name="{model}"'
    accepted = [drafts * rate for rate in RATES[:length]]
    lines = [
        f"vllm:spec_decode_num_drafts_total{{{labels}}} {drafts}",
        f"vllm:spec_decode_num_draft_tokens_total{{{labels}}} {drafts * length}",
        f"vllm:spec_decode_num_accepted_tokens_total{{{labels}}} {sum(accepted)}",
        f"vllm:num_requests_running{{{labels}}} {running}",
        f"vllm:kv_cache_usage_perc{{{labels}}} 0.25",
        f"vllm:generation_tokens_total{{{labels}}} {drafts + sum(accepted) + 10}",
        f'vllm:request_success_total{{{labels},finished_reason="stop"}} 10',
    ]
    counts = [*accepted, *[0.0] * (3 - length)]
    lines += [
        f'vllm:spec_decode_num_accepted_tokens_per_pos_total{{{labels},position="{i}"}} {count}'
        for i, count in enumerate(counts)
    ]
    return "\n".join([*lines, *([f"process_start_time_seconds {begun}"] if begun is not None else [])]) + "\n"


def taken(*texts: str) -> tuple[list[float], Scrapes]:
    """Drafts counted at each scrape."""
    scrapes = Scrapes()
    found = [scrapes.take(each) for text in texts for each in read_scrapes("metrics", text)]
    return [0.0 if each is None else each.counts["drafts"] for each in found], scrapes


def test_only_what_was_counted_between_two_scrapes_is_told() -> None:
    assert taken(exposed(1000), exposed(1500), exposed(1500), exposed(1800))[0] == [0.0, 500.0, 0.0, 300.0]
    assert taken(exposed(1000) + exposed(1500))[0] == [0.0, 500.0], "one file may hold several"


def test_a_server_that_began_anew_counted_from_zero() -> None:
    found, scrapes = taken(exposed(1000), exposed(200), exposed(300))
    assert found == [0.0, 200.0, 100.0]
    assert scrapes.restarts == 1
    found, scrapes = taken(exposed(1000, begun=5.0), exposed(1500, begun=9.0))
    assert found == [0.0, 1500.0], "it counted past the old mark, but its start moved"
    assert scrapes.restarts == 1


def test_a_scrape_that_is_cut_short_is_made_up_for_by_the_next() -> None:
    whole = exposed(1500)
    cut = whole[: whole.index("vllm:spec_decode_num_accepted_tokens_per_pos")]
    found, scrapes = taken(exposed(1000), cut, exposed(1700))
    assert found == [0.0, 0.0, 700.0]
    assert scrapes.restarts == 0


def test_a_server_with_fewer_positions_is_another_life() -> None:
    other = "\n".join(line for line in exposed(300, length=2).split("\n") if 'position="2"' not in line)
    again = "\n".join(line for line in exposed(500, length=2).split("\n") if 'position="2"' not in line)
    found, scrapes = taken(exposed(1000), other, other, again)
    assert scrapes.restarts == 1
    assert found == [0.0, 0.0, 300.0, 200.0]


@pytest.mark.parametrize("value", ["NaN", "+Inf", "-Inf", "-3"])
def test_what_is_no_count_is_not_counted(value: str) -> None:
    odd = exposed(1500) + exposed(1800)
    line = next(line for line in odd.splitlines() if "num_drafts_total" in line)
    broken = exposed(1000) + odd.replace(line, f"{line.rsplit(' ', 1)[0]} {value}", 1)
    found, _ = taken(broken)
    assert all(np.isfinite(found)) and sum(found) == 800.0


def test_two_models_are_never_added_up() -> None:
    both = exposed(10) + exposed(20, model="n")
    with pytest.raises(InvalidInputError, match="--only model_name=m"):
        read_scrapes("metrics", both)
    (scrape,) = read_scrapes("metrics", both, {"model_name": "n"})
    assert scrape.counts["drafts"] == 20.0


def test_engines_are_added_up_and_their_caches_averaged() -> None:
    second = exposed(30, running=2.0).replace('engine="0"', 'engine="1"').replace("} 0.25", "} 0.75")
    (scrape,) = read_scrapes("metrics", exposed(10) + second)
    assert (scrape.counts["drafts"], scrape.running, scrape.cache) == (40.0, 6.0, 0.5)


def test_a_damaged_line_is_named() -> None:
    with pytest.raises(InvalidInputError, match="line 1"):
        read_scrapes("metrics", 'vllm:spec_decode_num_drafts_total{engine="0 12\n')


@pytest.mark.parametrize("text", ["", "nothing at all\n", "# HELP x y\n", "vllm:num_requests_running NaN\n"])
def test_metrics_without_drafts_tell_nothing(text: str) -> None:
    for scrape in read_scrapes("metrics", text):
        assert windows_of(Counted(scrape.counts, None, None), [3], all_steps=False) == []


def counted(parts: dict[int, float], runs: RightRuns) -> Counted:
    """Counters of drafts of several lengths, so many of each."""
    survivors = np.zeros(max(parts))
    for length, drafts in parts.items():
        survivors[:length] += drafts * runs.shares(length)
    told = {f"pos {i}": float(count) for i, count in enumerate(survivors)}
    told |= {"drafts": sum(parts.values()), "draft_tokens": sum(k * n for k, n in parts.items())}
    return Counted(told, 4.0, None)


def test_a_whole_mean_length_is_the_length_whatever_the_schedule_says() -> None:
    (window,) = windows_of(counted({2: 100.0}, shifted(0.0)), [3, 5], all_steps=False)
    assert (window.steps, len(window.accepted)) == (100.0, 2)


def test_two_lengths_are_told_apart_by_their_mean() -> None:
    runs = shifted(0.0)
    short, long = windows_of(counted({2: 3000.0, 5: 1000.0}, runs), [2, 5], all_steps=False)
    assert (short.steps, long.steps) == pytest.approx((3000.0, 1000.0))
    assert np.array(long.accepted) / long.steps == pytest.approx(runs.shares(5), abs=0.04)


def test_of_three_lengths_only_what_all_reached_is_looked_at() -> None:
    (window,) = windows_of(counted({1: 10.0, 2: 9.0, 4: 8.0}, shifted(0.0)), [1, 2, 4], all_steps=False)
    assert len(window.accepted) == 1


def test_shares_of_look_ups_are_of_all_steps_unless_some_did_not_look() -> None:
    told = counted({3: 100.0}, shifted(0.0))
    accepted = sum(value for name, value in told.counts.items() if name.startswith("pos"))
    whole = Counted({**told.counts, "generation_tokens": 400.0 + accepted, "request_success": 0.0}, 4.0, None)
    assert windows_of(whole, [3], all_steps=True)[0].steps == 400.0
    assert windows_of(whole, [0, 3], all_steps=True)[0].steps == 100.0


@given(st.lists(st.tuples(st.floats(0, 1e6), st.booleans()), min_size=2, max_size=20))
def test_no_window_is_negative_and_none_is_counted_twice(lives: list[tuple[float, bool]]) -> None:
    """A server that counts so many drafts more each time, or begins anew with them."""
    scrapes, count, total = Scrapes(), 0.0, 0.0
    scrapes.take(Scrape({"drafts": 0.0}, begun=(0.0,)))
    seen, life = 0.0, 0.0
    for more, anew in lives:
        count, life = (more, life + 1) if anew else (count + more, life)
        total += more
        found = scrapes.take(Scrape({"drafts": count}, begun=(life,)))
        assert found is not None and found.counts["drafts"] >= 0
        seen += found.counts["drafts"]
    assert seen == pytest.approx(total)


def test_the_estimate_finds_runs_behind_lengths_that_were_drafted_in_turn() -> None:
    """From a wrong start, chains of 1, 3 and 5 in turn: tokens of every length, 2 and 4 too."""
    runs, held = shifted(0.7), menu(shifted(-0.7))
    estimator = AcceptanceEstimator(held.shares, known=200.0)
    for turn in range(30):
        length = (1, 3, 5)[turn % 3]
        estimator.observe(DraftWindow(2000.0, (2000.0 * runs.shares(length)).tolist()))
    found = estimator.fit()
    wanted = [1.0, *(float(runs.tokens_per_step(k)) for k in range(1, DEPTH + 1))]
    assert found.tokens == pytest.approx(wanted, rel=0.01)
    low, high = np.quantile(found.draws, [0.001, 0.999], axis=0)
    assert (low <= np.array(wanted) * 1.01).all() and (high >= np.array(wanted) * 0.99).all()


def test_what_is_old_is_forgotten() -> None:
    before, after = shifted(-1.0), shifted(1.0)
    estimator = AcceptanceEstimator(shifted(0.0).shares(DEPTH), half_life=5000.0)
    for runs in [before] * 20 + [after] * 20:
        estimator.observe(DraftWindow(2000.0, (2000.0 * runs.shares(DEPTH)).tolist()))
    assert estimator.fit().tokens[-1] == pytest.approx(float(after.tokens_per_step(DEPTH)), rel=0.05)


def test_an_empty_window_is_refused() -> None:
    for steps, accepted in ((0.0, [1.0]), (5.0, []), (float("nan"), [1.0]), (5.0, [-1.0])):
        with pytest.raises(InvalidInputError):
            DraftWindow(steps, accepted)
