"""What the CPU twins do by vectors: powers, draws that float32 is sure of, cuts among ties."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from proofs_tests.kernels import kernel_cases as cases
from proofs_tests.kernels import kernel_references as truth
from runtime.kernels._door import host
from runtime.kernels.cpu import powers, softmax
from runtime.kernels.merge import merge_candidates

seeds = st.integers(0, 2**32 - 1)
vocabularies = st.sampled_from([1, 3, 66, 1023, 1025, 5000])
temperatures = st.sampled_from([0.05, 0.7, 1.0, 3.0])
DTYPES = ["float32", "float64", "bfloat16"]


def logits_of(rng: np.random.Generator, size: int, dtype: str) -> NDArray[Any]:
    """Flat, peaked or rising logits, some of them tied and some -inf, as the twin takes them."""
    row = rng.choice([0.3, 2.0, 9.0]) * rng.normal(size=size) + rng.choice([0.0, 0.02]) * np.arange(size)
    row[rng.random(size) < 0.1] = -np.inf
    row[int(rng.integers(size))] = 20 * rng.random()
    if rng.random() < 0.3:
        row = np.round(row)
    return host(torch.from_numpy(row).to(getattr(torch, dtype)))


def law_of(row: NDArray[Any], temperature: float) -> tuple[NDArray[np.longdouble], NDArray[np.longdouble]]:
    """Running sums of the softmax, and its weights, in extended precision."""
    wide = row.astype(np.float64)
    if row.dtype == np.uint16:
        wide = (row.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    weights = np.exp((wide.astype(np.longdouble) - wide.max()) / temperature)
    return np.cumsum(weights / weights.sum()), weights


@given(seeds, temperatures)
@settings(max_examples=30)
def test_float32_powers_lie_within_their_bound(seed: int, temperature: float) -> None:
    scale = np.float32(softmax.LOG2_E / temperature)
    low = np.float32(softmax.FLUSH32) / scale
    distances = (np.random.default_rng(seed).uniform(0.99 * low, 5 * temperature, 4096)).astype(np.float32)
    found = np.empty_like(distances)
    powers.weights_into(distances, np.float32(0), low, scale, found)
    nats = distances.astype(np.longdouble) / temperature
    allowed = softmax.UNIT * (softmax.EACH - 2 + softmax.DISTANT * np.abs(nats))
    assert (np.abs(found / np.exp(nats) - 1) <= allowed).all()


@given(seeds, temperatures)
@settings(max_examples=30)
def test_float64_powers_lie_within_two_units_of_the_last_place(seed: int, temperature: float) -> None:
    scale = softmax.LOG2_E
    distances = np.random.default_rng(seed).uniform(-700, 0, 4096)
    found = np.empty_like(distances)
    powers.exact_weights_into(distances, 0.0, softmax.FLUSH64 / scale, scale, softmax.LOG2_E_REST, found)
    assert (np.abs(found / np.exp(distances.astype(np.longdouble)) - 1) <= 2.0**-52).all()


@pytest.mark.parametrize("dtype", DTYPES)
@given(seed=seeds, size=vocabularies, temperature=temperatures, nudge=st.sampled_from([0.0, 1e-13, 1e-9, 1e-7, 1e-6]))
@settings(max_examples=80)
def test_a_sure_draw_is_the_draw_of_float64(dtype: str, seed: int, size: int, temperature: float, nudge: float) -> None:
    rng = np.random.default_rng(seed)
    row, rooms = logits_of(rng, size, dtype), softmax.rooms_for(size)
    law, weights = law_of(row, temperature)
    boundary = float(law[int(rng.integers(size))])
    for uniform in (0.0, rng.random(), boundary - nudge, boundary + nudge, 1 - 2.0**-53):
        uniform = min(max(uniform, 0.0), 1 - 2.0**-53)
        exact = softmax.exact_draw(row, temperature, uniform, rooms)
        assert softmax.sure_draw(row, temperature, uniform, rooms) in (-1, exact)
        below = law[exact - 1] if exact else np.longdouble(0)
        assert below - 1e-13 <= uniform <= law[exact] + 1e-13 and weights[exact] > 0


def test_float32_leaves_a_boundary_to_float64_and_little_else() -> None:
    rng = np.random.default_rng(0)
    row, rooms = (3 * rng.normal(size=5000)).astype(np.float32), softmax.rooms_for(5000)
    law, _ = law_of(row, 1.0)
    at = [float(law[i]) for i in rng.integers(0, 4999, 200)]
    assert all(softmax.sure_draw(row, 1.0, u + 1e-10, rooms) == -1 for u in at)
    assert np.mean([softmax.sure_draw(row, 1.0, u, rooms) == -1 for u in rng.random(2000)]) < 0.02


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_token_of_probability_zero_is_never_drawn(dtype: str) -> None:
    row, rooms = np.full(3000, -np.inf), softmax.rooms_for(3000)
    row[[1500, 1501]] = 1.0, 2.0
    bits = host(torch.from_numpy(row).to(getattr(torch, dtype)))
    drawn = [softmax.draw(bits, 1.0, u, rooms) for u in (0.0, 0.2, 0.5, 0.999, 1 - 2.0**-53)]
    assert drawn == [1500, 1500, 1501, 1501, 1501]


@pytest.mark.parametrize("temperature", [1e-320, 1e-31, 1e-20, 1e20, 1e31, 1e305])
def test_extreme_temperatures_are_the_limits(temperature: float) -> None:
    row, rooms = np.array([1.0, 3.0, 2.0, -np.inf], np.float32), softmax.rooms_for(4)
    drawn = [softmax.draw(row, temperature, u, rooms) for u in (0.1, 0.5, 0.9)]
    assert drawn == ([1, 1, 1] if temperature < 1 else [0, 1, 2])


@given(seeds, st.sampled_from([1.0, 1e-3, 1e-15]), st.integers(1, 300), st.booleans())
@settings(max_examples=40)
def test_a_budget_cuts_among_many_and_equal_ones(seed: int, least: float, budget: int, tied: bool) -> None:
    rng = np.random.default_rng(seed)
    case: dict[str, Any] = cases.candidates(rng, 2, 200)
    case["parents"] = np.where(rng.random((2, 201)) < 0.8, np.minimum(case["parents"], 0), case["parents"])
    case["tokens"] = rng.integers(0, 2**40, (2, 201)) if rng.random() < 0.5 else rng.integers(0, 90, (2, 201))
    chance = least ** rng.random((2, 201)) * rng.random((2, 201))
    case["probability"] = np.round(chance, 2) if tied else chance
    case["budgets"] = np.array([budget, budget // 2])
    out = merge_candidates(**case, nodes=150, price=0.0)
    for b in range(2):
        found = list(zip(*(x[b, 1 : out.counts[b]].tolist() for x in out[:3]), strict=True))
        assert found == truth.merged(case, b, 150, 0.0)
