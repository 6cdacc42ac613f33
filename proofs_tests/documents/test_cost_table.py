"""A table of seconds beyond its grid: it goes on as it went, and never below what was measured at its edge."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from reader_theory.documents import CostTable

TOKENS = (1, 2, 4, 8, 16, 24, 31, 32, 33)


def table(noise: float, seed: int) -> CostTable:
    """A forward of 1 ms and 0.1 ms a token, measured with noise; its last points lie side by side."""
    rng = np.random.default_rng(seed)
    true = 1e-3 + 1e-4 * np.array(TOKENS) * np.ones((2, 1)) * [[1], [4]]
    seconds = (true * np.exp(noise * rng.normal(size=true.shape)))[:, :, None] * [1.0, 1.1]
    return CostTable(batch=(1, 4), tokens=TOKENS, context=(128, 384), seconds=seconds.tolist(), relative_spread=0.1)


@given(seed=st.integers(0, 500), batch=st.integers(1, 16), tokens=st.integers(34, 200), context=st.integers(0, 4096))
def test_seconds_beyond_the_grid_grow_by_nothing_at_least_and_in_proportion_at_most(
    seed: int, batch: int, tokens: int, context: int
) -> None:
    held = table(0.3, seed)
    edge = float(held.at(min(batch, 4), 33, min(max(context, 128), 384)))
    far = float(held.at(batch, tokens, context))
    shrink = min(context / 128, 1)
    most = edge * max(batch / 4, 1) * (tokens / 33) * max(context / 384, 1)
    assert edge * shrink * (1 - 1e-9) <= far <= most * (1 + 1e-9)


def test_two_near_points_at_the_end_do_not_set_the_slope() -> None:
    errors = [table(0.05, seed).at(4, 48, 128) / (1e-3 + 4e-4 * 48) - 1 for seed in range(200)]
    assert np.sqrt(np.mean(np.square(errors))) < 0.15


@given(batch=st.floats(1, 4), tokens=st.floats(1, 33), context=st.floats(128, 384))
def test_inside_the_grid_it_is_linear(batch: float, tokens: float, context: float) -> None:
    share = (batch - 1) / 3 * 3 + 1
    expected = (1e-3 + 1e-4 * tokens * share) * (1 + 0.1 * (context - 128) / 256)
    assert np.isclose(table(0.0, 0).at(batch, tokens, context), expected)
