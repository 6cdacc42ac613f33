"""A step is lossless iff the law of the emitted string, continued by the target, is the target's joint law.

Shown for every lossless rule by running its public `verify` over every cell of its uniforms, in fractions:
vocabularies of 4 and 5 with zeros, chains and trees, drafts of every scheme that the rule declares.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proofs_tests.rules.exact import random_laws, step_law, tokens_a_step
from reader_theory.rules import (
    RULES,
    Block,
    ChainRejection,
    GumbelCoupled,
    MultiRound,
    Rule,
    Traversal,
    TypicalLossy,
    Verified,
    VerifyUniforms,
    WithoutReplacement,
)
from reader_theory.rules.battery import check_rule
from reader_theory.rules.cases import Case, cases_for, table
from reader_theory.rules.enumeration import emitted_law, kept_law
from reader_theory.rules.exact import law_gap, outcome_law
from reader_theory.rules.races import race_law

SAMPLED = (
    (ChainRejection, "chain"),
    (MultiRound, "iid"),
    (WithoutReplacement, "without_replacement"),
    (Block, "chain"),
)
TREES = ((-1, 0, 0), (-1, 0, 1), (-1, 0, 0, 1), (-1, 0, 0, 2))


@pytest.mark.parametrize("rule", list(RULES), ids=lambda rule: rule.name)
def test_rule_is_what_it_declares(rule: Rule) -> None:
    check_rule(rule)


def test_every_rule_but_typical_acceptance_and_the_judge_says_that_it_is_lossless() -> None:
    assert {rule.name for rule in RULES if not rule.lossless} == {"typical_lossy", "judge_lossy"}
    assert len(RULES.names) >= 10


@pytest.mark.parametrize(("rule", "scheme"), [*SAMPLED, (Traversal, "iid"), (Traversal, "without_replacement")])
@given(seed=st.integers(0, 10**6), tree=st.sampled_from(TREES))
@settings(max_examples=3)
def test_emitted_string_has_the_target_law_for_random_laws(
    rule: type[Rule], scheme: str, seed: int, tree: tuple[int, ...]
) -> None:
    shape = (-1, 0, 1) if scheme == "chain" else tree
    case = Case(shape, scheme, random_laws(seed), random_laws(seed + 1))  # type: ignore[arg-type]
    assert law_gap(emitted_law(rule(), case), kept_law(rule(), case), case.depth + 1) == 0


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["iid", "without_replacement"])
@pytest.mark.parametrize("tree", [(-1, 0, 0, 0, 1, 1), (-1, 0, 0, 1, 3), (-1, 0, 1, 1, 2, 3)])
def test_traversal_is_lossless_on_larger_trees(scheme: str, tree: tuple[int, ...]) -> None:
    case = Case(tree, scheme, random_laws(5), random_laws(6))  # type: ignore[arg-type]
    assert law_gap(emitted_law(Traversal(), case), kept_law(Traversal(), case), case.depth + 1) == 0


def test_drafting_apart_from_verifying_gives_the_law_of_both_together() -> None:
    case = Case((-1, 0, 0), "without_replacement", random_laws(1), random_laws(2))
    together = {text: mass for text, mass in step_law(WithoutReplacement(), case).items() if mass}
    apart = {text: mass for text, mass in emitted_law(WithoutReplacement(), case).items() if mass}
    assert together == apart


def test_typical_acceptance_is_shown_lossy_by_the_same_tool() -> None:
    gaps = [
        law_gap(emitted_law(TypicalLossy(), case), kept_law(TypicalLossy(), case), case.depth + 1)
        for case in cases_for("deterministic")
    ]
    assert max(gaps) > Fraction(1, 4)


@pytest.mark.parametrize("case", cases_for("chain"), ids=str)
def test_traversal_equals_block_on_a_chain(case: Case) -> None:
    assert emitted_law(Traversal(), case) == emitted_law(Block(), case)


def test_block_never_emits_fewer_tokens_than_chain() -> None:
    pairs = [
        [tokens_a_step(emitted_law(rule, case)) for rule in (Block(), ChainRejection())] for case in cases_for("chain")
    ]
    assert all(block >= chain for block, chain in pairs)
    assert any(block > chain for block, chain in pairs)


def test_gumbel_coupled_text_is_a_function_of_the_noise_alone() -> None:
    drafts = [
        Case(shape, "coupled", table(((6, 0, 4, 2), (1, 5, 6, 0))), random_laws(seed))
        for seed in (1, 2)
        for shape in TREES
    ]
    noise = np.random.default_rng(3).random((50, 3, 4))
    for rows in noise:
        texts = [_coupled_text(case, rows) for case in drafts]
        longest = max(texts, key=len)
        assert all(longest[: len(text)] == text for text in texts)


def test_race_has_the_target_law_for_every_order_of_the_balls() -> None:
    target = random_laws(4, vocabulary=4, parts=6)
    case = Case((-1,), "deterministic", target, target)
    law = race_law(lambda rows: _coupled_text(case, rows), case, all_orders=True)
    assert law == {(token,): p for token, p in enumerate(target(())) if p}


def test_outcome_law_of_a_known_program_is_exact() -> None:
    third = Fraction(1, 3)
    law = outcome_law(lambda forks: sum(bool(1 - u < third) for u in forks.uniforms(2)))
    assert law == {0: Fraction(4, 9), 1: Fraction(4, 9), 2: Fraction(1, 9)}
    ends = outcome_law(lambda forks: bool(forks.uniforms(1)[0] <= 0))
    assert ends == {False: Fraction(1), True: Fraction(0)}


def test_cutting_keeps_the_stop_token_and_nothing_after_it() -> None:
    step = Verified((1, 3, 6), (4, 7, 7, 1))
    assert step.cut({7}, room=9) == Verified((1, 3), (4, 7))
    assert step.cut((), room=3) == Verified((1, 3, 6), (4, 7, 7))
    assert step.cut({1}, room=9) == step
    assert step.cut((), room=0) == Verified((), ())


def _coupled_text(case: Case, rows: np.ndarray) -> tuple[int, ...]:
    draft = case.drafted(noise=rows if case.scheme == "coupled" else None)
    half = np.full(len(draft.tree), 0.5)
    return GumbelCoupled().verify(draft, case.target_rows(draft), VerifyUniforms(half, half, rows)).emitted
