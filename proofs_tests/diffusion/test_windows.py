"""Tokens a round, rounds and forwards of a window, by formula and by enumeration; and the window that is planned."""

from __future__ import annotations

import json
from fractions import Fraction
from math import comb
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimizer.window import plan_windows, weighed
from proofs_tests.cli.test_bad_input import WEIRD, damaged, leaves
from reader_theory.acceptance.windows import AssumedWindows, CountedWindows, denoising_cost, window_tokens
from reader_theory.documents.base import Stamp
from reader_theory.documents.diffusion import DiffusedText, DiffusionRun
from reader_theory.errors import InvalidInputError
from reader_theory.estimate import Estimate

ROUNDS = lambda forwards: 1.0  # noqa: E731


def assumed(value: float, spread: float = 0.0, steps: int = 2) -> AssumedWindows:
    told = Estimate(value=value, low=value - spread, high=value + spread, origin="assumed")
    return AssumedWindows(told, steps)


@given(st.floats(0, 0.999), st.integers(1, 40))
def test_one_acceptance_gives_the_geometric_sum_without_a_bonus(a: float, window: int) -> None:
    assert window_tokens([a], window) == pytest.approx((1 - a**window) / (1 - a), rel=1e-9)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6), st.integers(1, 8))
def test_acceptance_by_place_gives_the_sum_of_reaches(chances: list[float], window: int) -> None:
    long = [*chances, *[chances[-1]] * window][:window]
    reach = np.concatenate(([1.0], np.cumprod(long)))[:window]
    assert window_tokens(chances, window) == pytest.approx(reach.sum(), abs=1e-9)


def by_hand(chances: list[Fraction], masked: int, window: int, cost: Any) -> Fraction:
    """Rounds of a step by the definition: walk every outcome."""

    def rest(left: int) -> Fraction:
        if left == 0:
            return Fraction(0)
        size, whole, reached = min(window, left), Fraction(0), Fraction(1)
        for place in range(size):
            share = reached * (1 - chances[place] if place < size - 1 else 1)
            whole += share * rest(left - place - 1)
            reached *= chances[place]
        return cost(size) + whole

    return Fraction(0) if masked == 0 else cost(1) + rest(masked - 1)


@pytest.mark.parametrize("cost", [lambda n: 1, lambda n: n, lambda n: 3 + n], ids=["rounds", "forwards", "both"])
def test_a_denoising_costs_what_every_outcome_of_every_step_adds_up_to(cost: Any) -> None:
    chances = [[Fraction(1, 2), Fraction(2, 3), Fraction(1, 5)], [Fraction(3, 4), Fraction(1, 4), Fraction(1)]]
    masked, window, whole = 6, 3, Fraction(0)
    for step, row in enumerate(chances):
        for count in range(masked + 1):
            still = Fraction(2 - step, 2)
            whole += (
                comb(masked, count) * still**count * (1 - still) ** (masked - count) * by_hand(row, count, window, cost)
            )
    found = denoising_cost(np.array(chances, dtype=np.float64), masked, window, cost)
    assert float(found) == pytest.approx(float(whole), rel=1e-12)


def test_one_token_at_a_time_takes_a_round_for_each_token_drawn() -> None:
    """Whatever is accepted: S steps draw L (S + 1) / 2 tokens in the mean."""
    for steps in (1, 2, 4):
        assert float(denoising_cost(np.full((steps, 1), 0.3), 12, 1)) == pytest.approx(12 * (steps + 1) / 2)


def test_the_planner_takes_long_windows_where_a_batch_is_free_and_none_where_each_row_costs_its_own() -> None:
    free, own = (plan_windows(assumed(0.7), 32, cost) for cost in (ROUNDS, float))
    assert free[0].window > 8 and own[0].window == 1 and own[0].speed_up.value == 1
    some = plan_windows(assumed(0.7), 32, lambda forwards: 1 + 0.2 * forwards)
    assert 1 < some[0].window < free[0].window
    assert some[0].cost.value == min(each.cost.value for each in some)


def test_a_window_is_taken_only_where_it_is_worth_it_at_the_low_end() -> None:
    cost = lambda forwards: 1 + 0.3 * (forwards - 1)  # noqa: E731
    sure, unsure = plan_windows(assumed(0.45, 0.01), 32, cost), plan_windows(assumed(0.45, 0.4), 32, cost)
    assert sure[0].window > 1 == unsure[0].window
    assert unsure[1].speed_up.value > 1 > unsure[1].speed_up.low


def test_a_window_past_the_places_that_were_counted_is_refused() -> None:
    counted = CountedWindows(np.full((3, 1, 4), 9), np.full((3, 1, 4), 5.0))
    assert max(each.window for each in plan_windows(counted, 32, ROUNDS)) == 4
    with pytest.raises(InvalidInputError, match="at most the 4 places"):
        weighed(counted, 32, 5, ROUNDS)


def test_an_interval_from_counts_covers_what_it_claims() -> None:
    """Prompts with acceptances of their own, 200 times: 95 % intervals of rounds cover the mean's in 180 or more."""
    rng, hits = np.random.default_rng(0), 0
    truth = float(np.mean([denoising_cost([[a]], 24, 4) for a in np.linspace(0.45, 0.55, 101)]))
    for _ in range(200):
        rates = rng.uniform(0.45, 0.55, 8)
        looks = rng.integers(20, 40, (8, 1, 4))
        kept = rng.binomial(looks, rates[:, None, None])
        hits += CountedWindows(looks, kept).cost(24, 4, ROUNDS).covers(truth)
    assert hits >= 180


def run() -> DiffusionRun:
    text = DiffusedText(
        prompt="a", workload="code", tokens=(1, 2, 3, 4), drawn=(4, 2), rounds=(3, 2), forwards=(4, 2),
        examined=((2, 1), (1, 0)), overlap=((1.5, 0.5), (0.25, 0.0)),
    )  # fmt: skip
    one = Estimate.exact(5.0, "measured")
    return DiffusionRun(
        stamp=Stamp.now(), target="t", dtype="float32", new_tokens=4, steps=2, window=2, drafts="round",
        sampling="chain", lossless=True, temperature=1.0, top_k=0, top_p=1.0, rounds=one, forwards=one, drawn=one,
        texts=(text, text.model_copy(update={"prompt": "b"})),
        candidates=plan_windows(assumed(0.5), 4, ROUNDS),
    )  # fmt: skip


def test_a_document_may_be_damaged_anywhere(tmp_path: Any) -> None:
    """Read, and planned from, it is refused by a message or it is right."""
    document, file = json.loads(run().model_dump_json()), tmp_path / "run.json"
    rng = np.random.default_rng(3)
    for path in leaves(document):
        for value in rng.permutation(len(WEIRD))[:6]:
            try:
                file.write_text(json.dumps(damaged(document, path, WEIRD[value])))
                told = DiffusionRun.read(file)
                plan_windows(CountedWindows.of_run(told), told.new_tokens, ROUNDS, windows=(1, 2))
            except InvalidInputError:
                continue
            except ValueError as error:  # a number too long to write as JSON at all
                assert "int string conversion" in str(error), (path, WEIRD[value])


def test_texts_of_one_source_count_together() -> None:
    whole = run()
    texts = tuple(text.model_copy(update={"source": "one"}) for text in whole.texts)
    together = CountedWindows.of_run(whole.model_copy(update={"texts": texts}))
    assert len(together.sums) == 1 and len(CountedWindows.of_run(whole).sums) == 2
    assert (together.table() == CountedWindows.of_run(whole).table()).all()
