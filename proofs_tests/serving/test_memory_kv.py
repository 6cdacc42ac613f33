"""Memory: the four capacities that vLLM logged, the layouts' formulas against a count, and the largest batch."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reader_theory.cost.device import find_device
from reader_theory.cost.known import known_shape
from reader_theory.errors import InvalidInputError
from reader_theory.memory.budget import largest_batch, memory_budget
from reader_theory.memory.kv import kv_bits, kv_bytes_per_token, token_capacity
from reader_theory.memory.layout import Layout, reserved_tokens
from reader_theory.memory.rearrangement import (
    best_period,
    per_row_overhead,
    rectangular_bytes_per_step,
)

LOGGED = [
    (None, 16.91, 69232, 262144),
    ("Qwen3-32B-speculator.eagle3", 11.72, 47264, 266240),
    ("Qwen3-1.7B", 11.42, 32528, 376832),
    ("Qwen3-4B", 7.08, 18560, 409600),
]


@pytest.mark.parametrize(("drafter", "free_gib", "tokens", "bytes_per_token"), LOGGED)
def test_capacity_is_that_which_vllm_logged_within_a_tenth_of_a_per_cent(
    drafter: str | None, free_gib: float, tokens: int, bytes_per_token: int
) -> None:
    drafters = () if drafter is None else (known_shape(drafter),)
    each = kv_bytes_per_token(known_shape("Qwen3-32B"), drafters)
    assert each == bytes_per_token
    assert token_capacity(free_gib * 2**30, each, 16) == pytest.approx(tokens, rel=1e-3)


def test_quantised_kv_pays_for_its_scales() -> None:
    assert kv_bits(8) == 8 and kv_bits(4, group=32) == 4.5 and kv_bits(4, group=32, zero_points=True) == 5
    shape = known_shape("Llama-3.1-8B")
    assert shape.kv_bytes_per_token(bits=kv_bits(4, group=64)) == shape.kv_bytes_per_token() * 4.25 / 16


@given(context=st.floats(50, 50000), columns=st.floats(2, 64), share=st.floats(0.05, 0.9))
def test_the_best_period_beats_its_neighbours_and_costs_what_the_formula_says(
    context: float, columns: float, share: float
) -> None:
    kept = columns * share
    best = best_period(context, columns, kept)
    cost = rectangular_bytes_per_step(context, columns, kept, best)
    assert cost <= min(rectangular_bytes_per_step(context, columns, kept, best * f) for f in (0.8, 1.25))
    assert cost / context == pytest.approx(2 * math.sqrt((columns - kept) / context), rel=1e-9)


def test_rows_of_their_own_length_cost_a_fraction_of_a_rectangle() -> None:
    assert per_row_overhead(1000, 3) == pytest.approx(0.006)
    assert 2 * math.sqrt((16 - 3) / 1000) / per_row_overhead(1000, 3) > 20


def test_a_rectangle_simulated_step_by_step_costs_what_the_formula_says() -> None:
    context, columns, kept, period = 4000.0, 16, 4, 36
    holes, moved, steps = 0.0, 0.0, 36 * 200
    for step in range(steps):
        moved += holes  # attention reads the holes of earlier steps
        holes += columns - kept
        if (step + 1) % period == 0:
            moved, holes = moved + 2 * context, 0.0
    assert moved / steps == pytest.approx(rectangular_bytes_per_step(context, columns, kept, period), rel=0.05)


@given(st.lists(st.integers(1, 3000), min_size=1, max_size=30), st.integers(1, 32))
def test_pages_waste_less_than_one_page_a_request(contexts: list[int], tree: int) -> None:
    exact = reserved_tokens(Layout(), contexts, tree_tokens=tree)
    paged = reserved_tokens(Layout(kind="paged", page_tokens=16), contexts, tree_tokens=tree)
    assert exact <= paged < exact + 16 * len(contexts)
    assert exact == sum(contexts) + tree * len(contexts)
    assert reserved_tokens(Layout(kind="rectangular"), contexts, tree_tokens=tree) >= exact


@given(st.integers(500, 10**6), st.integers(0, 2**31))
def test_the_largest_batch_fits_and_one_more_does_not(kv_tokens: int, seed: int) -> None:
    contexts = np.random.default_rng(seed).integers(20, 400, 50)
    batch = largest_batch(kv_tokens, contexts, page_tokens=16)
    mean = float(np.mean(np.ceil(contexts / 16) * 16))
    assert batch * mean <= kv_tokens < (batch + 1) * mean
    assert largest_batch(kv_tokens, contexts, risk=0.05) <= batch


def test_a_safe_batch_overflows_as_rarely_as_asked() -> None:
    generator = np.random.default_rng(0)
    contexts = generator.integers(20, 800, 4000)
    batch = largest_batch(50_000, contexts, page_tokens=1, risk=0.05)
    sums = generator.choice(contexts, (4000, batch)).sum(axis=1)
    assert 0.03 < np.mean(sums > 50_000) < 0.07


def test_models_that_do_not_fit_leave_no_tokens() -> None:
    budget = memory_budget(find_device("H100-SXM"), known_shape("Qwen3-32B"), (known_shape("Qwen3-4B"),))
    assert budget.kv_tokens > 0
    small = memory_budget(find_device("L4"), known_shape("Qwen3-32B"))
    assert small.free_bytes < 0 and small.kv_tokens == 0


def test_a_layout_without_a_root_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="tree_tokens"):
        reserved_tokens(Layout(), [10], tree_tokens=0)
