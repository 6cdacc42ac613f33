"""Every bug that others shipped in verification, planted: the exact enumeration, or the refusal, must catch it."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from proofs_tests.rules import mutants_verification as mutants
from proofs_tests.rules.exact import Drafter, Share, honest_drafter, separate, step_law
from reader_theory.errors import InvalidInputError
from reader_theory.rules import (
    ChainRejection,
    DraftLaw,
    MultiRound,
    Rule,
    Scheme,
    TargetOnly,
    Verified,
    VerifyUniforms,
    WithoutReplacement,
    verify_batch,
)
from reader_theory.rules.battery import check_rule
from reader_theory.rules.cases import Case, cases_for, deep_case, table
from reader_theory.rules.enumeration import emitted_law, kept_law
from reader_theory.rules.exact import law_gap
from reader_theory.rules.pick import pick_token
from reader_theory.rules.streams import stream_uniforms, verify_uniforms

CHAIN = Case((-1, 0), "chain", table(((6, 0, 4, 2), (1, 5, 6, 0))), table(((3, 3, 0, 6), (2, 4, 5, 1))))
SIBLINGS = Case((-1, 0, 0), "without_replacement", CHAIN.target, CHAIN.draft)
REPEATS = Case((-1, 0, 0), "iid", CHAIN.target, CHAIN.draft)


def gap(rule: Rule, case: Case, drafter: Drafter = honest_drafter, share: Share = separate) -> Fraction:
    return law_gap(step_law(rule, case, drafter, share), kept_law(rule, case), case.depth + 1)


@pytest.mark.parametrize("mutant", mutants.LOSSY_IN_SECRET, ids=lambda mutant: mutant.__name__)
def test_a_verifier_with_another_law_is_caught(mutant: type[Rule]) -> None:
    cases = (case for scheme in sorted(mutant.schemes - {"chain"} or mutant.schemes) for case in cases_for(scheme))
    assert any(law_gap(emitted_law(mutant(), case), kept_law(mutant(), case), case.depth + 1) for case in cases)


@pytest.mark.parametrize("mutant", [mutants.ResidualZeroesOnlyTheToken, mutants.UnsaidTypical])
def test_the_battery_names_the_law_that_is_broken(mutant: type[Rule]) -> None:
    with pytest.raises(AssertionError, match="says that it is lossless"):
        check_rule(mutant())


@pytest.mark.parametrize(
    ("mutant", "claim"),
    [
        (mutants.IndexesPadding, "must refuse"),
        (mutants.DensePrefix, "must be an accepted path"),
        (mutants.ShyTypical, "must have a name in _lossy"),
        (mutants.ForgetfulOfRounds, "says that it accepts"),
    ],
)
def test_the_battery_names_the_claim_that_is_broken(mutant: type[Rule], claim: str) -> None:
    with pytest.raises(AssertionError, match=claim):
        check_rule(mutant())


@pytest.mark.parametrize("scheme", ["chain", "iid"])
def test_a_residual_forgotten_from_the_fourth_node_on_is_seen_by_a_deep_draft_alone(scheme: Scheme) -> None:
    rule = mutants.ForgetsFromTheFourth()
    gaps = [
        law_gap(emitted_law(rule, case), kept_law(rule, case), case.depth + 1)
        for case in (*cases_for(scheme), deep_case(scheme))
    ]
    assert gaps[-1] > 0 and not any(gaps[:-1])


def test_a_vocabulary_of_two_hides_a_wrong_residual() -> None:
    two = Case((-1, 0, 1), "chain", table(((3, 9), (7, 5))), table(((8, 4), (1, 11))))
    assert gap(mutants.ResidualZeroesOnlyTheToken(), two) == 0
    assert gap(mutants.ResidualZeroesOnlyTheToken(), CHAIN) > 0


def test_a_token_of_probability_zero_is_reached_at_an_end_point_only() -> None:
    law = step_law(mutants.AcceptsAtZero(), CHAIN)
    impossible = [text for text in law if CHAIN.target(())[text[0]] == 0]
    assert impossible and all(law[text] == 0 for text in impossible)
    assert not any(CHAIN.target(())[text[0]] == 0 for text in step_law(ChainRejection(), CHAIN))


@pytest.mark.parametrize(
    ("rule", "case", "drafter"),
    [
        (WithoutReplacement(), SIBLINGS, mutants.reranked),
        (WithoutReplacement(), SIBLINGS, mutants.dropped),
        (MultiRound(), REPEATS, mutants.dropped),
        (MultiRound(), REPEATS, mutants.merged),
        (ChainRejection(), CHAIN, mutants.argmax_as_softmax),
        (ChainRejection(), CHAIN, mutants.other_temperature),
    ],
)
def test_a_draft_that_is_not_the_one_declared_is_caught(rule: Rule, case: Case, drafter: Drafter) -> None:
    assert gap(rule, case) == 0
    assert gap(rule, case, drafter) > 0


def test_sharing_numbers_between_drafting_and_acceptance_is_caught() -> None:
    assert gap(ChainRejection(), CHAIN, share=mutants.acceptance_from_drafting) > 0


def test_a_tree_that_looked_at_the_targets_draw_is_caught() -> None:
    case = Case((-1, 0), "deterministic", CHAIN.target, CHAIN.draft)
    assert gap(TargetOnly(), case, mutants.peeking, mutants.recovery_from_drafting) > 0


@pytest.mark.parametrize("drafter", [mutants.argmax_as_softmax, mutants.other_temperature, mutants.reranked])
def test_a_draft_that_shows_its_numbers_is_refused_when_it_lies(drafter: Drafter) -> None:
    case = SIBLINGS if drafter is mutants.reranked else CHAIN
    refused = 0
    for seed in range(40):
        numbers = np.random.default_rng(seed).random(len(case.parents))
        lie = drafter(case, numbers)
        shown = DraftLaw(lie.tree, lie.scheme, lie.law, numbers)
        truth = case.drafted(numbers)
        truth.check(case.vocabulary)
        if truth.tokens.tolist() != lie.tokens.tolist():
            with pytest.raises(InvalidInputError, match=r"must be what `law` gives|must be positive"):
                shown.check(case.vocabulary)
            refused += 1
    assert refused


def test_recovering_beyond_the_vocabulary_is_caught() -> None:
    law = np.full(10, 0.1)
    law[0] -= 1e-9  # a sum a little below one, as sums of float32 are
    last = 1 - 2.0**-53
    assert int(np.searchsorted(np.cumsum(law), last, side="right")) == len(law)  # the bug
    assert pick_token(law, last) == len(law) - 1


def test_picking_a_token_of_probability_zero_at_zero_is_caught() -> None:
    law = np.array([0.0, 0.0, 1.0])
    assert int(np.searchsorted(np.cumsum(law), 0.0, side="left")) == 0  # the bug
    assert pick_token(law, 0.0) == 2


def test_rows_of_the_neighbour_in_a_ragged_batch_are_caught() -> None:
    cases = [cases_for("without_replacement")[shape] for shape in (2, 3, 0)]
    honest, wrong = [], []
    for step in range(10):
        batch = [_request(case, number, step) for number, case in enumerate(cases)]
        alone = [WithoutReplacement().verify(*request) for request in batch]
        honest.append(verify_batch(WithoutReplacement(), *zip(*batch, strict=True)) == alone)
        wrong.append(mutants.padded_batch(WithoutReplacement(), *zip(*batch, strict=True)) != alone)
    assert all(honest)
    assert any(wrong)


def test_tokens_after_the_end_are_caught() -> None:
    step = Verified((0, 1), (3, 9, 5))
    assert 9 in step.emitted[:-1]  # what an engine that forgets to cut would append
    assert 9 not in step.cut({9}, room=8).emitted[:-1]


def _request(case: Case, number: int, step: int) -> tuple[DraftLaw, np.ndarray, VerifyUniforms]:
    draft = case.drafted(stream_uniforms(0, number, step, "drafting", len(case.parents)))
    law = None if draft.law is None else draft.law.astype(np.float64)
    floats = DraftLaw(draft.tree, draft.scheme, law)
    return floats, case.target_rows(draft).astype(np.float64), verify_uniforms(0, number, step, draft.tree.nodes)
