"""H tau <= log(N (V - 1) + V); Tunstall's tree grows like log N / H; ranks of sum s stay below 1 / (1 - s)."""

from __future__ import annotations

import heapq
import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from reader_theory.acceptance import RankTable
from reader_theory.errors import InvalidInputError, NotADistributionError
from reader_theory.trees import (
    TokenTree,
    entropy_bound_tokens,
    entropy_nats,
    rank_bound_tokens,
    tunstall_growth,
)

Law = NDArray[np.float64]


@st.composite
def laws(draw: st.DrawFn, size: int = 4, least: int = 0) -> Law:
    weights = np.array(draw(st.lists(st.integers(least, 20), min_size=size, max_size=size).filter(any)), dtype=float)
    return weights / weights.sum()


def best_tokens(law: Law, nodes: int) -> float:
    """Tokens a step of the N likeliest strings."""
    heap, value = [-p for p in law], 1.0
    heapq.heapify(heap)
    for _ in range(nodes):
        p = -heapq.heappop(heap)
        value += p
        for q in law:
            heapq.heappush(heap, -p * q)
    return value


@given(laws(least=1), st.integers(0, 80))
def test_tunstall_holds_the_best_tree_on_an_independent_target(law: Law, nodes: int) -> None:
    low, high = tunstall_growth(law, nodes)
    assert low - 1e-9 <= best_tokens(law, nodes) <= high + 1e-9


@given(laws(), st.integers(0, 80))
def test_no_tree_beats_the_entropy_bound(law: Law, nodes: int) -> None:
    entropy = entropy_nats(law)
    if entropy > 1e-6:
        assert best_tokens(law, nodes) <= entropy_bound_tokens(entropy, nodes, len(law)) + 1e-9


def test_the_entropy_bound_is_reached_by_a_uniform_target_and_full_levels() -> None:
    assert best_tokens(np.full(4, 0.25), 4 + 16) == pytest.approx(entropy_bound_tokens(math.log(4), 20, 4)) == 3


@given(laws(size=5), st.integers(1, 200))
def test_ranks_of_sum_s_stay_below_their_limit(law: Law, nodes: int) -> None:
    ranks = law[:4]
    if ranks.sum() < 1 - 1e-9:
        assert best_tokens(ranks, nodes) <= rank_bound_tokens(ranks) + 1e-9


def test_the_limit_of_ranks_is_approached() -> None:
    wide = TokenTree.from_rank_paths(itertools.product(range(2), repeat=10))
    assert RankTable.stationary([0.4, 0.2], 10).tokens_per_step(wide) == pytest.approx(2.5, abs=0.01)


@pytest.mark.parametrize("law", [[0.5, np.nan], [0.7, 0.7], [1.2, -0.2], []])
def test_what_is_no_law_is_refused(law: list[float]) -> None:
    with pytest.raises(NotADistributionError, match="must be a law"):
        entropy_nats(np.array(law))


def test_a_bound_without_entropy_or_with_heavy_ranks_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="nodes \\+ 1"):
        entropy_bound_tokens(0.0, 4, 10)
    with pytest.raises(InvalidInputError, match="cumulative"):
        rank_bound_tokens(np.array([0.5, 0.8]))
