r"""Runs of right tokens: a chain of any length is told from one that was counted.

Statement: where token d of a run after a mistake is right with probability c_d, whatever the chain, the shares of a
chain of k tokens are :math:`\sum_m G_{m(k+1)+d} / \sum_m G_{m(k+1)}`, and those of one length give c.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reader_theory.acceptance.runs import RightRuns
from reader_theory.errors import InvalidInputError

CHANCES = st.lists(st.floats(0.05, 0.95), min_size=1, max_size=6)


def decoded(goes_on: list[float], length: int, runs: int = 4000, seed: int = 0) -> tuple[np.ndarray, float]:
    """Shares and tokens a step of a chain of `length`, decoded run by run: the null that the formula stands for."""
    rng = np.random.default_rng(seed)
    accepted = np.zeros(length + 1)
    tokens = steps = 0
    for _ in range(runs):
        run = 0
        while rng.random() < goes_on[min(run, len(goes_on) - 1)]:
            run += 1
        left = run
        while left >= 0:
            got = min(left, length)
            accepted[: got + 1] += 1
            steps, tokens = steps + 1, tokens + got + 1
            left -= length + 1
    return accepted[1:] / steps, tokens / steps


@pytest.mark.parametrize("goes_on", [[0.5], [0.8, 0.6], [0.3, 0.9, 0.9]])
@pytest.mark.parametrize("length", [1, 2, 5])
def test_the_formula_is_what_decoding_gives(goes_on: list[float], length: int) -> None:
    """4,000 runs: a share's standard error is under 0.008."""
    shares, tokens = decoded(goes_on, length)
    runs = RightRuns(goes_on)
    np.testing.assert_allclose(runs.shares(length), shares, atol=0.03)
    assert float(runs.tokens_per_step(length)) == pytest.approx(tokens, rel=0.03)


@given(CHANCES, st.integers(1, 8))
def test_shares_of_one_length_give_those_of_every_other(goes_on: list[float], other: int) -> None:
    runs = RightRuns(goes_on)
    found = RightRuns.of_shares(runs.shares(len(goes_on)))
    np.testing.assert_allclose(found.shares(len(goes_on)), runs.shares(len(goes_on)), atol=1e-3)
    if other <= len(goes_on):
        assert float(found.tokens_per_step(other)) == pytest.approx(float(runs.tokens_per_step(other)), rel=0.02)


@given(st.floats(0.05, 0.95))
def test_one_chance_at_every_depth_is_the_same_at_every_length(alpha: float) -> None:
    """Without memory a step inside a run is like any other: conditionals do not depend on the length."""
    for length in (1, 3, 7):
        np.testing.assert_allclose(RightRuns([alpha]).shares(length), alpha ** np.arange(1, length + 1), atol=2e-3)


def test_cutting_counted_depths_short_would_understate() -> None:
    """The planted error: runs that are hard to enter and easy to stay in."""
    runs = RightRuns([0.3, 0.9])
    counted = runs.shares(8)
    assert 1 + counted[:2].sum() < 0.9 * float(runs.tokens_per_step(2))


def test_steps_without_a_draft_follow_mistakes() -> None:
    runs = RightRuns([0.4, 0.9])
    fresh = 0.7
    inside = {k: float(runs._inside(k)) for k in (2, 8)}
    counted = (fresh + inside[8]) / (1 + inside[8])
    assert float(runs.coverage(2, counted, 8)) == pytest.approx((fresh + inside[2]) / (1 + inside[2]))


@pytest.mark.parametrize("shares", [[], [1.2], [0.2, 0.5], [float("nan")], [-0.1], [[0.5]]])
def test_shares_that_cannot_be_are_refused(shares: list[float]) -> None:
    with pytest.raises(InvalidInputError, match="`shares` must be"):
        RightRuns.of_shares(shares)


@pytest.mark.parametrize("goes_on", [[], [1.5], [float("nan")], 0.5])
def test_chances_that_cannot_be_are_refused(goes_on: list[float]) -> None:
    with pytest.raises(InvalidInputError, match="`goes_on` must be"):
        RightRuns(goes_on)
