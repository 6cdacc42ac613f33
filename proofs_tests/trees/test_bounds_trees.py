"""H tau <= log(N (V - 1) + V); Tunstall's tree grows like log N / H; ranks of sum s stay below 1 / (1 - s);
no one-step verifier accepts more than 1 + min over A of [p(A) - Q(A)]."""

from __future__ import annotations

import heapq
import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from reader_theory.acceptance import Ranked
from reader_theory.errors import InvalidInputError, NotADistributionError
from reader_theory.trees import (
    TokenTree,
    entropy_bound_tokens,
    entropy_nats,
    rank_bound_tokens,
    transport_bound,
    transport_program,
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
        assert Ranked(ranks).limit_tokens_per_step == pytest.approx(rank_bound_tokens(ranks))


def test_the_limit_of_ranks_is_approached() -> None:
    wide = TokenTree.from_rank_paths(itertools.product(range(2), repeat=10))
    assert Ranked(np.array([0.4, 0.2])).tokens_per_step(wide) == pytest.approx(2.5, abs=0.01)


@given(laws(), laws())
def test_one_draft_is_accepted_at_one_minus_total_variation(target: Law, draft: Law) -> None:
    assert transport_bound(target, draft) == pytest.approx(float(np.minimum(target, draft).sum()), abs=1e-12)


@settings(max_examples=25)
@given(laws(size=3), laws(size=3), st.integers(1, 3))
def test_transport_bound_equals_the_linear_program(target: Law, draft: Law, drafts: int) -> None:
    offers = {t: float(np.prod(draft[list(t)])) for t in itertools.product(range(3), repeat=drafts)}
    assert transport_bound(target, draft, drafts) == pytest.approx(transport_program(target, offers), abs=1e-6)


@given(laws(size=6), laws(size=6), st.integers(1, 4))
def test_prefixes_in_order_of_the_ratio_suffice(target: Law, draft: Law, drafts: int) -> None:
    every = [list(a) for n in range(7) for a in itertools.combinations(range(6), n)]
    least = min(target[a].sum() - draft[a].sum() ** drafts for a in every)
    assert transport_bound(target, draft, drafts) == pytest.approx(1 + least, abs=1e-9)


def test_a_law_in_the_wrong_order_is_caught_by_the_linear_program() -> None:
    target, draft = np.array([0.6, 0.3, 0.1]), np.array([0.1, 0.2, 0.7])
    offers = {(a, b): float(draft[a] * draft[b]) for a in range(3) for b in range(3)}
    order = np.argsort(-target / draft)
    planted = 1 + min(0.0, float((np.cumsum(target[order]) - np.cumsum(draft[order]) ** 2).min()))
    assert abs(planted - transport_program(target, offers)) > 0.1


@pytest.mark.parametrize("law", [[0.5, np.nan], [0.7, 0.7], [1.2, -0.2], []])
def test_what_is_no_law_is_refused(law: list[float]) -> None:
    with pytest.raises(NotADistributionError, match="must be a law"):
        transport_bound(np.array(law), np.array(law))


def test_a_bound_without_entropy_or_with_heavy_ranks_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="nodes \\+ 1"):
        entropy_bound_tokens(0.0, 4, 10)
    with pytest.raises(InvalidInputError, match="cumulative"):
        rank_bound_tokens(np.array([0.5, 0.8]))
