"""A 95 % interval from resampling prompts covers 95 % of the time, though positions of a prompt are correlated."""

from __future__ import annotations

import numpy as np
import pytest

from reader_theory.acceptance import bootstrap_prompts, ratio_of_sums, simulated_trace
from reader_theory.acceptance.statistics import conditionals_of, rank_depth_counts, rows_of
from reader_theory.errors import InvalidInputError


def prompts_with_their_own_mean(generator: np.random.Generator, prompts: int) -> np.ndarray:
    """(P, 2): tokens and steps of prompts whose tokens a step are 2 on average and differ by 0.6."""
    steps = generator.integers(20, 60, prompts)
    mean = generator.normal(2, 0.6, prompts)
    return np.stack([generator.normal(steps * mean, 1.5 * np.sqrt(steps)), steps], axis=1)


@pytest.mark.parametrize("prompts", [12, 40])
def test_interval_covers_as_often_as_it_says(prompts: int) -> None:
    """Null: coverage is 0.95. 300 traces: outside 0.91 to 0.98 with probability 0.004."""
    generator = np.random.default_rng(prompts)
    hits = 0
    for seed in range(300):
        found = bootstrap_prompts(
            prompts_with_their_own_mean(generator, prompts), ratio_of_sums, resamples=200, seed=seed
        )
        hits += bool(found.low <= 2 <= found.high)
    assert 0.91 <= hits / 300 <= 0.98


def test_resampling_positions_instead_of_prompts_is_caught() -> None:
    """Planted bug: each prompt is cut into 20 that are taken for independent, and the interval is far too narrow."""
    generator = np.random.default_rng(1)
    hits = 0
    for seed in range(200):
        whole = prompts_with_their_own_mean(generator, 20)
        noise = generator.normal(0, 0.2, (20, 20))
        pieces = np.stack([(whole[:, :1] / 20 + noise).ravel(), np.repeat(whole[:, 1] / 20, 20)], axis=1)
        found = bootstrap_prompts(pieces, ratio_of_sums, resamples=200, seed=seed)
        hits += bool(found.low <= 2 <= found.high)
    assert hits / 200 < 0.7


def test_every_entry_of_a_table_gets_the_interval_it_would_get_alone() -> None:
    counts = rank_depth_counts(rows_of(simulated_trace(prompts=30, tokens=50)), 3, 4)
    table = bootstrap_prompts(counts.reshape(30, -1), lambda s: conditionals_of(s.reshape(*s.shape[:-1], 3, 5)), seed=2)
    alone = bootstrap_prompts(np.stack([counts[:, 1, 0], counts[:, 1].sum(axis=-1)], axis=1), ratio_of_sums, seed=2)
    assert table.value.shape == (3, 4) and (table.low <= table.high).all()
    assert (table.low[1, 0], table.high[1, 0]) == pytest.approx((float(alone.low), float(alone.high)))


def test_the_same_seed_gives_the_same_interval() -> None:
    sums = prompts_with_their_own_mean(np.random.default_rng(0), 10)
    first, again = (bootstrap_prompts(sums, ratio_of_sums, seed=5).estimate() for _ in range(2))
    assert first == again


def test_prompts_that_all_agree_leave_nothing_open() -> None:
    found = bootstrap_prompts(np.full((5, 2), [6, 3]), ratio_of_sums).estimate()
    assert (found.low, found.value, found.high) == (2, 2, 2)


def test_one_prompt_has_no_interval() -> None:
    with pytest.raises(InvalidInputError, match="Record more prompts"):
        bootstrap_prompts(np.ones((1, 2)), ratio_of_sums)
