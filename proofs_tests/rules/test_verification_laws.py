"""What theory says that each rule accepts and emits is what the runtime's rule accepts and emits, exactly.

Chain: 1 - TV(p, q). Multi-round: 1 - prod(1 - beta_i). Block: sums of joint-law terms, never below chain, equal to
traversal on a chain. Gumbel: sum_i 1 / sum_j max(p_j/p_i, q_j/q_i). None exceeds optimal
"""

from __future__ import annotations

import itertools
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proofs_tests.rules.exact import random_laws, tokens_a_step
from proofs_tests.rules.references import traversal_law
from reader_theory.errors import InvalidInputError, NotADistributionError
from reader_theory.rules import (
    Block,
    ChainRejection,
    GumbelCoupled,
    MultiRound,
    Rule,
    TargetOnly,
    Traversal,
    TypicalLossy,
    WithoutReplacement,
)
from reader_theory.rules.cases import Case, cases_for
from reader_theory.rules.enumeration import emitted_law
from reader_theory.rules.race import race
from reader_theory.rules.transport import offered_inside, optimal_acceptance
from reader_theory.trees import TokenTree, path_probability, tokens_per_step

SEEDS = st.integers(0, 10**6)


def flat(parents: tuple[int, ...], scheme: str, seed: int) -> Case:
    return Case(parents, scheme, random_laws(seed), random_laws(seed + 1))  # type: ignore[arg-type]


def accepted(rule: Rule, case: Case) -> Fraction:
    """Probability that a step of a tree of depth 1 accepts, found through `verify`."""
    return tokens_a_step(emitted_law(rule, case)) - 1


@given(seed=SEEDS)
@settings(max_examples=10)
def test_a_rule_accepts_what_it_says(seed: int) -> None:
    laws = random_laws(seed)(()), random_laws(seed + 1)(())
    for rule in (TargetOnly(), TypicalLossy(), MultiRound(), WithoutReplacement(), Traversal()):
        assert accepted(rule, flat((-1, 0, 0), rule.scheme, seed)) == rule.acceptance(*laws, 2).sum()
    for rule in (ChainRejection(), Block(), MultiRound()):
        overlap = np.minimum(*laws).sum()
        assert accepted(rule, flat((-1, 0), "chain", seed)) == rule.acceptance(*laws)[0] == overlap


@pytest.mark.parametrize("case", cases_for("chain"), ids=str)
def test_tokens_on_a_chain_are_those_that_the_rule_says(case: Case) -> None:
    laws = case.target, case.draft, case.depth
    assert tokens_a_step(emitted_law(ChainRejection(), case)) == ChainRejection().expected_tokens(*laws)
    assert tokens_a_step(emitted_law(Block(), case)) == Block().expected_tokens(*laws)


@pytest.mark.parametrize("scheme", ["iid", "without_replacement"])
@pytest.mark.parametrize("parents", [(-1, 0, 0, 1), (-1, 0, 0, 2)])
def test_traversal_emits_the_law_of_its_reference(scheme: Any, parents: tuple[int, ...]) -> None:
    case = flat(parents, scheme, 3)
    law = {text: mass for text, mass in emitted_law(Traversal(), case).items() if mass}
    assert law == traversal_law(TokenTree(parents), scheme, case.target, case.draft)


def test_target_only_emits_the_sum_of_path_probabilities() -> None:
    case = cases_for("deterministic")[3]
    draft = case.drafted()
    rows = case.target_rows(draft).astype(float)
    given = np.append(1, rows[draft.tree.parents[1:], draft.tokens[1:]])
    told = tokens_per_step(path_probability(draft.tree, given))
    assert told == pytest.approx(float(tokens_a_step(emitted_law(TargetOnly(), case))), abs=1e-12)


@given(seed=SEEDS, length=st.integers(1, 4))
@settings(max_examples=40)
def test_block_is_never_below_chain(seed: int, length: int) -> None:
    target, draft = random_laws(seed), random_laws(seed + 1)
    blocks = Block().expected_tokens(target, draft, length)
    assert blocks >= ChainRejection().expected_tokens(target, draft, length)
    assert blocks <= length + 1


@given(seed=SEEDS, draws=st.integers(1, 3))
@settings(max_examples=40)
def test_no_rule_exceeds_optimal_transport(seed: int, draws: int) -> None:
    target, draft = random_laws(seed, 5)(()), random_laws(seed + 1, 5)(())
    best = {offer: optimal_acceptance(target, draft, draws, offer) for offer in ("iid", "without_replacement")}
    for rule in (MultiRound(), WithoutReplacement(), Traversal()):
        assert rule.acceptance(target, draft, draws).sum() <= best[rule.scheme] <= 1
    assert GumbelCoupled().acceptance(target, draft, draws).sum() <= best["without_replacement"]
    if draws == 1:
        assert set(best.values()) == {np.minimum(target, draft).sum()}


@given(seed=SEEDS, draws=st.integers(1, 20))
@settings(max_examples=1000)
def test_transport_of_independent_offers_is_the_minimum_over_all_sets_when_the_support_is_small(
    seed: int, draws: int
) -> None:
    """Q(A) = q(A)^n for independent offers, however few tokens the draft can offer."""
    target, draft = random_laws(seed, 5)(()), random_laws(seed + 1, 5)(())
    sets = itertools.chain.from_iterable(itertools.combinations(range(5), size) for size in range(6))
    least = min(target[list(a)].sum() - draft[list(a)].sum() ** draws for a in sets)
    assert optimal_acceptance(target, draft, draws) == 1 + least


def test_two_tokens_offered_three_times_are_accepted_as_often_as_multi_round_does() -> None:
    target = np.array([0, Fraction(1, 2), Fraction(1, 2)])
    draft = np.array([Fraction(8, 9), Fraction(0), Fraction(1, 9)])
    best = optimal_acceptance(target, draft, 3)
    assert best == MultiRound().acceptance(target, draft, 3).sum() == Fraction(217, 729)


@given(seed=SEEDS)
@settings(max_examples=15)
def test_transport_over_prefixes_is_the_minimum_over_all_sets(seed: int) -> None:
    target, draft = random_laws(seed, 5)(()), random_laws(seed + 1, 5)(())
    offers = offers_without_replacement(draft, min(2, int(np.count_nonzero(draft))))
    sets = itertools.chain.from_iterable(itertools.combinations(range(5), size) for size in range(6))
    gaps = [sum(target[list(a)]) - sum(w for offer, w in offers.items() if set(offer) <= set(a)) for a in sets]
    assert optimal_acceptance(target, draft, 2, "without_replacement") == 1 + min(gaps)


@pytest.mark.parametrize("draws", [1, 2, 3])
def test_transport_equals_the_linear_program(rng: np.random.Generator, draws: int) -> None:
    target, draft = rng.dirichlet(np.full(4, 0.6)), rng.dirichlet(np.full(4, 0.6))
    apart = transport_program(target, offers_without_replacement(draft, draws))
    assert optimal_acceptance(target, draft, draws, "without_replacement") == pytest.approx(apart, abs=1e-9)
    independent = {t: float(np.prod(draft[list(t)])) for t in itertools.product(range(4), repeat=draws)}
    assert optimal_acceptance(target, draft, draws) == pytest.approx(transport_program(target, independent), abs=1e-9)


def test_a_law_in_the_wrong_order_is_caught_by_the_linear_program() -> None:
    target, draft = np.array([0.6, 0.3, 0.1]), np.array([0.1, 0.2, 0.7])
    offers = {(a, b): float(draft[a] * draft[b]) for a in range(3) for b in range(3)}
    order = np.argsort(-target / draft)
    planted = 1 + min(0.0, float((np.cumsum(target[order]) - np.cumsum(draft[order]) ** 2).min()))
    assert abs(planted - transport_program(target, offers)) > 0.1


def test_transport_by_race_equals_transport_by_orders(rng: np.random.Generator) -> None:
    draft = np.array([Fraction(int(n)) for n in rng.integers(1, 50, 7)])
    draft = draft / draft.sum()
    for draws in (1, 2, 3, 4):
        exact = offered_inside(draft, draws, "without_replacement").astype(float)
        np.testing.assert_allclose(offered_inside(draft.astype(float), draws, "without_replacement"), exact, atol=1e-10)


@given(seed=SEEDS)
@settings(max_examples=40)
def test_gumbel_agreement_is_the_sum_over_winners(seed: int) -> None:
    target, draft = random_laws(seed, 6)(()), random_laws(seed + 1, 6)(())
    both = [i for i in range(6) if target[i] and draft[i]]
    direct = sum(1 / sum(max(p / target[i], q / draft[i]) for p, q in zip(target, draft, strict=True)) for i in both)
    agreement = GumbelCoupled().acceptance(target, draft)[0]
    overlap = np.minimum(target, draft).sum()
    assert GumbelCoupled().acceptance(target, draft, 3)[0] == agreement
    assert agreement == direct
    assert overlap / (2 - overlap) <= agreement <= overlap


def test_gumbel_races_agree_as_often_as_theory_says(rng: np.random.Generator) -> None:
    """H0: agreements are binomial with the stated probability; |z| < 4.5 fails by chance once in 50,000 seeds."""
    target, draft = rng.dirichlet(np.full(8, 0.7)), rng.dirichlet(np.full(8, 0.7))
    noise = rng.random((5_000, 8))
    ranks = [race(draft, row, 8).index(race(target, row)[0]) for row in noise]
    agreed = np.bincount(ranks, minlength=8)[:3]
    p = GumbelCoupled().acceptance(target, draft, 3)
    assert np.all(abs(agreed - len(noise) * p) < 4.5 * (len(noise) * p * (1 - p)) ** 0.5)


@pytest.mark.parametrize("law", [[0.5, 0.6], [1.5, -0.5], [0.5, float("nan")], []])
def test_what_is_no_law_is_refused(law: list[float]) -> None:
    with pytest.raises(NotADistributionError, match="must be a law over tokens"):
        ChainRejection().acceptance(law, [0.5, 0.5])


def test_an_enumeration_too_large_is_refused_with_the_way_out() -> None:
    wide = np.full(1000, 1e-3)
    with pytest.raises(InvalidInputError, match="fewer tokens"):
        WithoutReplacement().acceptance(wide, wide, 4)


def offers_without_replacement(draft: np.ndarray, draws: int) -> dict[tuple[int, ...], Any]:
    offers = {}
    for tokens in itertools.permutations(np.flatnonzero(draft).tolist(), draws):
        mass, left = 1, 1
        for token in tokens:
            mass, left = mass * draft[token] / left, left - draft[token]
        offers[tokens] = mass
    return offers


def transport_program(target: np.ndarray, offers: dict[tuple[int, ...], Any]) -> float:
    """The best coupling of the target with a law of offered tuples, as a linear program."""
    import cvxpy as cp

    held = np.array([[token in offer for token in range(len(target))] for offer in offers], dtype=np.float64)
    coupling: Any = cp.Variable(held.shape, nonneg=True)
    weights = np.array(list(offers.values()), dtype=np.float64)
    marginals = [cp.sum(coupling, axis=1) == weights / weights.sum(), cp.sum(coupling, axis=0) == target]
    problem = cp.Problem(cp.Maximize(cp.sum(cp.multiply(held, coupling))), marginals)
    value = problem.solve(solver=cp.HIGHS)
    assert problem.status == cp.OPTIMAL
    return float(value)
