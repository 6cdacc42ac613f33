"""The rule by itself: what it accepts by threshold, that it is lossy and says so, and what it refuses."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reader_theory.errors import InvalidInputError
from reader_theory.rules import RULES, Greedy, JudgeLossy, Verified, VerifyUniforms
from reader_theory.rules.battery import check_rule
from reader_theory.rules.cases import Case, cases_for
from reader_theory.rules.draft_law import DraftLaw
from reader_theory.rules.enumeration import emitted_law, kept_law
from reader_theory.rules.exact import law_gap
from reader_theory.rules.judge import BASELINES
from reader_theory.trees import TokenTree
from runtime.engine.sampling import SamplingParams

VOCABULARY = 5


def drafted(seed: int, nodes: int, *, chain: bool) -> tuple[DraftLaw, np.ndarray, np.ndarray]:
    """A draft, laws of the target after its nodes, and P(important) of each node; half the tokens are the target's."""
    rng = np.random.default_rng(seed)
    parents, tokens = [-1], [0]
    laws = rng.dirichlet(np.ones(VOCABULARY), nodes + 1)
    for node in range(1, nodes + 1):
        above = node - 1 if chain else int(rng.integers(node))
        taken = {tokens[i] for i in range(1, node) if parents[i] == above}
        free = [token for token in range(VOCABULARY) if token not in taken]
        if not free:
            break
        own = int(laws[above].argmax())
        tokens.append(own if own in free and rng.random() < 0.5 else int(rng.choice(free)))
        parents.append(above)
    count = len(parents)
    return DraftLaw(TokenTree(parents, tokens=tokens), "deterministic"), laws[:count], rng.random(count)


def half(count: int) -> VerifyUniforms:
    return VerifyUniforms(np.full(count, 0.5), np.full(count, 0.5))


@given(seed=st.integers(0, 10**6), nodes=st.integers(0, 9), chain=st.booleans())
@settings(max_examples=80, deadline=None)
def test_threshold_0_accepts_what_greedy_accepts(seed: int, nodes: int, chain: bool) -> None:
    draft, laws, importance = drafted(seed, nodes, chain=chain)
    greedy = Greedy().verify(draft, laws, half(len(laws)))
    judged = JudgeLossy(threshold=0.0).judged(draft, laws, importance)
    assert judged.accepted == greedy.accepted
    assert judged.emitted == greedy.emitted[: len(judged.emitted)]


@given(seed=st.integers(0, 10**6), nodes=st.integers(1, 9))
@settings(max_examples=40, deadline=None)
def test_a_threshold_above_1_accepts_the_whole_chain_and_adds_nothing(seed: int, nodes: int) -> None:
    draft, laws, importance = drafted(seed, nodes, chain=True)
    whole = Verified(tuple(range(1, nodes + 1)), tuple(draft.tokens[1:].tolist()))
    assert JudgeLossy(threshold=1.0001).judged(draft, laws, np.ones_like(importance)) == whole
    for judge in BASELINES:
        assert JudgeLossy(threshold=1.0001, judge=judge).verify(draft, laws, half(len(laws))) == whole


@given(seed=st.integers(0, 10**6), nodes=st.integers(1, 12), chain=st.booleans(), judge=st.sampled_from([*BASELINES]))
@settings(max_examples=80, deadline=None)
def test_what_is_accepted_never_shrinks_with_the_threshold(seed: int, nodes: int, chain: bool, judge: str) -> None:
    draft, laws, importance = drafted(seed, nodes, chain=chain)
    thresholds = np.sort(np.random.default_rng(seed).random(6) * 1.1)
    fitted = [JudgeLossy(threshold=float(t)).judged(draft, laws, importance) for t in thresholds]
    plain = [JudgeLossy(threshold=float(t), judge=judge).verify(draft, laws, half(len(laws))) for t in thresholds]
    for found in (fitted, plain):
        lengths = [len(each.accepted) for each in found]
        assert lengths == sorted(lengths)
        if chain:
            assert all(b.accepted[: len(a.accepted)] == a.accepted for a, b in pairwise(found))


def test_of_two_longest_paths_the_one_with_more_of_the_targets_own_tokens_is_taken() -> None:
    tree = TokenTree([-1, 0, 0, 1, 2], tokens=[0, 1, 2, 1, 1])
    laws = np.eye(VOCABULARY)[[2, 3, 1, 0, 0]]  # after the root 2 is the target's own, after node 2 token 1 is
    found = JudgeLossy(threshold=0.5).judged(DraftLaw(tree, "deterministic"), laws, np.zeros(5))
    assert found == Verified((2, 4), (2, 1))


@pytest.mark.parametrize("judge", list(BASELINES))
@pytest.mark.parametrize("threshold", [0.0, 0.4, 0.9, 2.0])
def test_every_baseline_is_what_it_declares_at_any_threshold(judge: str, threshold: float) -> None:
    rule = JudgeLossy(threshold=threshold, judge=judge)
    gaps = [law_gap(emitted_law(rule, case), kept_law(rule, case), case.depth + 1) for case in _cases()]
    if threshold == 0:
        assert max(gaps) == 0
        with pytest.raises(AssertionError, match="no case shows it"):
            check_rule(rule)
    elif max(gaps):
        check_rule(rule)
    if threshold == 2:
        assert max(gaps) == 1


def test_the_exact_law_test_fails_for_a_judge_and_holds_for_greedy() -> None:
    def gap(rule: Greedy | JudgeLossy, case: Case) -> Fraction:
        return law_gap(emitted_law(rule, case), kept_law(rule, case), case.depth + 1)

    assert max(gap(Greedy(), case) for case in _cases()) == 0
    assert max(gap(JudgeLossy(), case) for case in _cases()) == 1


def test_it_is_lossy_in_type_and_name_and_refused_where_text_is_sampled() -> None:
    rule = RULES["judge_lossy"]
    assert not rule.lossless and rule.name.endswith("_lossy") and rule.decodes == "greedy"
    params = SamplingParams(verification="judge_lossy", rule_parameters={"threshold": 0.0})
    assert not params.lossless, "a judge stays lossy in name whatever its threshold"
    with pytest.raises(InvalidInputError, match="`verification` must be one of"):
        SamplingParams(temperature=1.0, verification="judge_lossy")


@pytest.mark.parametrize(
    "parameters",
    [{"threshold": -0.1}, {"threshold": float("nan")}, {"threshold": True}, {"judge": "nowhere.json"}, {"judge": 3}],
)
def test_wrong_parameters_are_refused_before_work_starts(parameters: dict[str, object]) -> None:
    with pytest.raises(InvalidInputError) as error:
        SamplingParams(verification="judge_lossy", rule_parameters=parameters)
    assert error.value.fix and error.value.rule


@pytest.mark.parametrize("importance", [[0.5], [0.5, 2.0], [0.5, float("nan")]])
def test_importance_that_is_no_probability_of_each_node_is_refused(importance: list[float]) -> None:
    draft = DraftLaw(TokenTree([-1, 0], tokens=[0, 1]), "deterministic")
    with pytest.raises(InvalidInputError, match="one probability"):
        JudgeLossy().judged(draft, np.eye(VOCABULARY)[:2], importance)


def _cases() -> list[Case]:
    return cases_for("deterministic")
