"""What theory says that each rule accepts and emits is what the runtime's rule accepts and emits, exactly.

Chain: 1 - TV(p, q). Multi-round: 1 - prod(1 - beta_i). Block: sums of joint-law terms, never below chain, equal to
traversal on a chain. Gumbel: sum_i 1 / sum_j max(p_j/p_i, q_j/q_i). None exceeds optimal transport.
"""

from __future__ import annotations

import itertools
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proofs_tests.rules.exact import random_law, random_laws, tokens_a_step
from reader_theory.errors import InvalidInputError, NotADistributionError
from reader_theory.rules import (
    block,
    chain,
    gumbel,
    multi_round,
    target_only,
    transport,
    traversal,
    typical,
    without_replacement,
)
from reader_theory.rules.cases import Case, cases_for
from reader_theory.rules.enumeration import emitted_law
from reader_theory.rules.verifiers import (
    Block,
    ChainRejection,
    MultiRound,
    TargetOnly,
    Traversal,
    TypicalLossy,
    Verifier,
    WithoutReplacement,
    race,
)
from reader_theory.trees import TokenTree
from reader_theory.trees.bounds import transport_bound, transport_program

SEEDS = st.integers(0, 10**6)


def flat(parents: tuple[int, ...], scheme: str, seed: int) -> Case:
    return Case(parents, scheme, random_laws(seed), random_laws(seed + 1))  # type: ignore[arg-type]


def accepted(verifier: Verifier, case: Case) -> Fraction:
    """Probability that a step of a tree of depth 1 accepts, found through the runtime."""
    return tokens_a_step(emitted_law(verifier, case)) - 1


@given(seed=SEEDS)
@settings(max_examples=10)
def test_runtime_accepts_what_theory_says(seed: int) -> None:
    target, draft = random_laws(seed)(()), random_laws(seed + 1)(())
    assert accepted(ChainRejection(), flat((-1,), "chain", seed)) == chain.acceptance_probability(target, draft)
    two = {scheme: flat((-1, -1), scheme, seed) for scheme in ("iid", "without_replacement", "deterministic")}
    assert accepted(MultiRound(), two["iid"]) == multi_round.acceptance_probability(target, draft, 2)
    without = without_replacement.acceptance_probability(target, draft, 2)
    assert accepted(WithoutReplacement(), two["without_replacement"]) == without
    offered = np.argsort(-draft, kind="stable")[:2].tolist()
    assert accepted(TargetOnly(), two["deterministic"]) == target_only.acceptance_probability(target, offered)
    assert accepted(TypicalLossy(), two["deterministic"]) == typical.acceptance_probability(target, offered)


@pytest.mark.parametrize("case", cases_for("chain"), ids=str)
def test_runtime_emits_the_tokens_that_theory_says_on_a_chain(case: Case) -> None:
    laws = case.target, case.draft, case.depth
    assert tokens_a_step(emitted_law(ChainRejection(), case)) == chain.expected_tokens_of_laws(*laws)
    assert tokens_a_step(emitted_law(Block(), case)) == block.expected_tokens_of_laws(*laws)


@pytest.mark.parametrize("scheme", ["iid", "without_replacement"])
@pytest.mark.parametrize("parents", [(-1, -1, 0), (-1, -1, 1)])
def test_traversal_of_the_runtime_and_of_theory_emit_one_law(scheme: Any, parents: tuple[int, ...]) -> None:
    case = flat(parents, scheme, 3)
    tree = TokenTree([-1, *(parent + 1 for parent in parents)])
    law = {text: mass for text, mass in emitted_law(Traversal(), case).items() if mass}
    assert law == traversal.traversal_law(tree, scheme, case.target, case.draft)
    assert tokens_a_step(law) == traversal.expected_tokens(tree, scheme, case.target, case.draft)


def test_target_only_emits_the_sum_of_path_probabilities() -> None:
    case = cases_for("deterministic")[3]
    draft = case.drafted()
    tree = TokenTree(np.append(-1, draft.parents + 1))
    expected = target_only.expected_tokens(tree, [0, *draft.tokens.tolist()], case.target_rows(draft))
    assert tokens_a_step(emitted_law(TargetOnly(), case)) == expected


@given(seed=SEEDS, length=st.integers(1, 4))
@settings(max_examples=40)
def test_block_is_never_below_chain(seed: int, length: int) -> None:
    target, draft = random_laws(seed), random_laws(seed + 1)
    blocks = block.expected_tokens_of_laws(target, draft, length)
    assert blocks >= chain.expected_tokens_of_laws(target, draft, length)
    assert blocks <= length + 1


@given(seed=SEEDS, draws=st.integers(1, 3))
@settings(max_examples=40)
def test_no_rule_exceeds_optimal_transport(seed: int, draws: int) -> None:
    target, draft = random_laws(seed, 5)(()), random_laws(seed + 1, 5)(())
    best = {
        offer: transport.optimal_acceptance(target, draft, draws, offer) for offer in ("iid", "without_replacement")
    }
    assert multi_round.acceptance_probability(target, draft, draws) <= best["iid"] <= 1
    assert without_replacement.acceptance_probability(target, draft, draws) <= best["without_replacement"] <= 1
    if draws == 1:
        assert set(best.values()) == {chain.acceptance_probability(target, draft)}


@given(seed=SEEDS)
@settings(max_examples=15)
def test_transport_over_prefixes_is_the_minimum_over_all_sets(seed: int) -> None:
    target, draft = random_laws(seed, 5)(()), random_laws(seed + 1, 5)(())
    offers = offers_without_replacement(draft, min(2, np.count_nonzero(draft)))
    sets = itertools.chain.from_iterable(itertools.combinations(range(5), size) for size in range(6))
    gaps = [sum(target[list(a)]) - sum(w for offer, w in offers.items() if set(offer) <= set(a)) for a in sets]
    assert transport.optimal_acceptance(target, draft, 2, "without_replacement") == 1 + min(gaps)


@pytest.mark.parametrize("draws", [1, 2, 3])
def test_transport_equals_the_linear_program(rng: np.random.Generator, draws: int) -> None:
    target, draft = rng.dirichlet(np.full(6, 0.6)), rng.dirichlet(np.full(6, 0.6))
    program = transport_program(target, offers_without_replacement(draft, draws))
    assert transport.optimal_acceptance(target, draft, draws, "without_replacement") == pytest.approx(program, abs=1e-9)
    assert transport.optimal_acceptance(target, draft, draws) == pytest.approx(transport_bound(target, draft, draws))


def test_transport_by_race_equals_transport_by_orders(rng: np.random.Generator) -> None:
    draft = np.array([Fraction(int(n)) for n in rng.integers(1, 50, 7)])
    draft = draft / draft.sum()
    for draws in (1, 2, 3, 4):
        exact = transport.offered_inside(draft, draws, "without_replacement").astype(float)
        np.testing.assert_allclose(
            transport.offered_inside(draft.astype(float), draws, "without_replacement"), exact, atol=1e-10
        )


@given(seed=SEEDS)
@settings(max_examples=40)
def test_gumbel_agreement_is_the_sum_over_winners(seed: int) -> None:
    target, draft = random_laws(seed, 6)(()), random_laws(seed + 1, 6)(())
    both = [i for i in range(6) if target[i] and draft[i]]
    direct = sum(1 / sum(max(p / target[i], q / draft[i]) for p, q in zip(target, draft, strict=True)) for i in both)
    agreement = gumbel.acceptance_probability(target, draft)
    overlap = chain.acceptance_probability(target, draft)
    assert agreement == direct
    assert overlap / (2 - overlap) <= agreement <= overlap


def test_gumbel_races_agree_as_often_as_theory_says(rng: np.random.Generator) -> None:
    """H0: agreements are binomial with the stated probability; |z| < 4.5 fails by chance once in 150,000 seeds."""
    target, draft = rng.dirichlet(np.full(8, 0.7)), rng.dirichlet(np.full(8, 0.7))
    noise = rng.random((5_000, 8))
    agreed = sum(race(target, row) == race(draft, row) for row in noise)
    p = gumbel.acceptance_probability(target, draft)
    assert abs(agreed - len(noise) * p) < 4.5 * (len(noise) * p * (1 - p)) ** 0.5


@given(seed=SEEDS, draws=st.integers(1, 3))
@settings(max_examples=10)
def test_estimates_cover_the_exact_values(seed: int, draws: int) -> None:
    generator = np.random.default_rng(seed)
    target, draft = random_law(generator, 6), random_law(generator, 6)
    exact = without_replacement.acceptance_probability(target, draft, draws)
    estimate = without_replacement.estimated_acceptance(target, draft, draws, samples=200)
    assert estimate.low - 3 * (estimate.high - estimate.low) - 1e-9 <= exact
    assert exact <= estimate.high + 3 * (estimate.high - estimate.low) + 1e-9
    tokens = block.expected_tokens_of_laws(lambda _: target, lambda _: draft, draws)
    sampled = block.estimated_tokens(np.tile(target, (draws, 1)), np.tile(draft, (draws, 1)), samples=4000)
    assert abs(sampled.value - tokens) <= 3 * (sampled.high - sampled.low) + 1e-9


@given(seed=SEEDS)
@settings(max_examples=20)
def test_typical_distortion_is_the_distance_that_the_runtime_shows(seed: int) -> None:
    case = flat((-1, -1), "deterministic", seed)
    target, draft = case.target(()), case.draft(())
    offered = np.argsort(-draft, kind="stable")[:2].tolist()
    first: dict[int, Fraction] = {}
    for text, mass in emitted_law(TypicalLossy(), case).items():
        first[text[0]] = first.get(text[0], Fraction(0)) + mass
    gap = sum(abs(first.get(token, Fraction(0)) - p) for token, p in enumerate(target)) / 2
    assert typical.distortion(target, offered) == gap


def test_chain_has_its_closed_form() -> None:
    assert chain.expected_tokens([0.7] * 5) == pytest.approx((1 - 0.7**6) / (1 - 0.7))


@pytest.mark.parametrize("law", [[0.5, 0.6], [1.5, -0.5], [0.5, float("nan")], []])
def test_what_is_no_law_is_refused(law: list[float]) -> None:
    with pytest.raises(NotADistributionError, match="must be a law over tokens"):
        chain.acceptance_probability(law, [0.5, 0.5])


def test_an_enumeration_too_large_is_refused_with_the_way_out() -> None:
    wide = np.full(1000, 1e-3)
    with pytest.raises(InvalidInputError, match="sampled estimate"):
        without_replacement.acceptance_probability(wide, wide, 4)


def offers_without_replacement(draft: np.ndarray, draws: int) -> dict[tuple[int, ...], Any]:
    offers = {}
    for tokens in itertools.permutations(np.flatnonzero(draft).tolist(), draws):
        mass, left = 1, 1
        for token in tokens:
            mass, left = mass * draft[token] / left, left - draft[token]
        offers[tokens] = mass
    return offers
