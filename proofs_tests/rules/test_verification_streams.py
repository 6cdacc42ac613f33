"""Uniforms come in as numbers from named streams, and a pick never leaves the law's support."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proofs_tests.rules.exact import random_law
from reader_theory.errors import InvalidInputError
from reader_theory.rules.pick import pick_token
from reader_theory.rules.streams import coupling_uniforms, stream_uniforms, verify_uniforms
from runtime.engine.sampling import SamplingParams

LAST = 1 - 2.0**-53


def test_streams_requests_and_steps_never_share_a_number() -> None:
    streams = ("drafting", "acceptance", "recovery", "coupling")
    keys = product((0, 1, 2**64 - 1), (0, 1, 7), (0, 1), streams)
    numbers = np.concatenate([stream_uniforms(*key, 50) for key in keys])
    assert len(np.unique(numbers)) == len(numbers)


def test_numbers_depend_on_their_key_alone() -> None:
    alone = verify_uniforms(3, 5, 9, nodes=4)
    stream_uniforms(3, 6, 9, "acceptance", 1001)
    again = verify_uniforms(3, 5, 9, nodes=4)
    np.testing.assert_array_equal(alone.acceptance, again.acceptance)
    np.testing.assert_array_equal(alone.recovery, again.recovery)


def test_numbers_are_those_of_a_fresh_philox() -> None:
    key, counter = np.array([11, 12], dtype=np.uint64), np.array([0, 0, 2, 13], dtype=np.uint64)
    fresh = np.random.Generator(np.random.Philox(key=key, counter=counter)).random(9)
    np.testing.assert_array_equal(stream_uniforms(11, 12, 13, "recovery", 9), fresh)


def test_coupling_noise_belongs_to_positions_not_to_steps() -> None:
    whole = coupling_uniforms(0, 1, position=10, depths=5, vocabulary=8)
    np.testing.assert_array_equal(whole[2:], coupling_uniforms(0, 1, position=12, depths=3, vocabulary=8))


@pytest.mark.parametrize("key", [(-1, 0, 0, "drafting"), (0, 2**64, 0, "drafting"), (0, 0, 0, "luck")])
def test_a_key_that_names_no_stream_is_refused(key: tuple[int, int, int, str]) -> None:
    with pytest.raises(InvalidInputError):
        stream_uniforms(*key, 3)  # type: ignore[arg-type]


@given(st.integers(0, 10**6), st.integers(1, 60), st.sampled_from([0.0, 5e-324, 0.5, LAST]))
def test_a_pick_has_positive_probability(seed: int, vocabulary: int, uniform: float) -> None:
    law = random_law(np.random.default_rng(seed), vocabulary)
    law *= 1 + 1e-9 * np.random.default_rng(seed).normal()
    assert law[pick_token(law, uniform)] > 0


@given(st.integers(0, 10**6))
@settings(max_examples=20)
def test_picks_follow_the_law(seed: int) -> None:
    law = random_law(np.random.default_rng(seed), 7)
    grid = (np.arange(700) + 0.5) / 700
    counts = np.bincount([pick_token(law, uniform) for uniform in grid], minlength=7)
    np.testing.assert_allclose(counts / 700, law, atol=1.1 / 700)


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": -0.1},
        {"temperature": float("nan")},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"top_k": -1},
        {"min_p": 2.0},
        {"repetition_penalty": 0.0},
        {"presence_penalty": 2.5},
        {"frequency_penalty": float("nan")},
        {"max_new_tokens": 0},
        {"stop_token_ids": (-1,)},
        {"seed": 2**64},
        {"top_k": 1.5},
        {"temperature": "hot"},
    ],
)
def test_sampling_params_out_of_range_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(InvalidInputError, match=next(iter(wrong))):
        SamplingParams(**wrong)  # type: ignore[arg-type]
