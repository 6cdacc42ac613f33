"""The exact law of what a rule emits on a case, drafting included, and the law that it is to keep."""

from __future__ import annotations

from fractions import Fraction
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reader_theory.rules.base import Rule, Verified
from reader_theory.rules.cases import Case
from reader_theory.rules.draft_law import DRAWN, DraftLaw
from reader_theory.rules.exact import Forks, Law, Target, Text, outcome_law
from reader_theory.rules.races import race_law
from reader_theory.rules.streams import VerifyUniforms, coupling_uniforms

__all__ = ["emitted_law", "kept_law", "verified_law"]


def emitted_law(rule: Rule, case: Case) -> Law:
    """Exact law of the emitted string, drafting included, through `verify` alone.

    A string that is reached at the end point of a cell only comes with probability 0.
    """
    if "coupling" in rule.streams:
        return race_law(lambda noise: _verify(rule, case, *_raced(case, noise)).emitted, case)

    law: Law = {}
    for verified, probability in verified_law(rule, case).items():
        law[verified.emitted] = law.get(verified.emitted, Fraction(0)) + probability
    return law


def verified_law(rule: Rule, case: Case) -> dict[Verified, Fraction]:
    """Exact law of the accepted path and what it emits, for a rule that reads no coupling noise."""
    law: dict[Verified, Fraction] = {}
    for draft, probability in _drafts_law(case):
        rows = case.target_rows(draft)
        verified = partial(_verified, rule, case, draft, rows)
        for found, share in outcome_law(verified).items():
            law[found] = law.get(found, Fraction(0)) + probability * share
    return law


def _drafts_law(case: Case) -> list[tuple[DraftLaw, Fraction]]:
    """Every draft of the case with its exact probability."""
    if case.scheme not in DRAWN:
        return [(case.drafted(noise=_some_noise(case)), Fraction(1))]
    drafts: dict[tuple[Text, Text], DraftLaw] = {}

    def run(forks: Forks) -> tuple[Text, Text]:
        drawn = case.drafted(forks.uniforms(len(case.parents)))
        key = tuple(drawn.tokens.tolist()), tuple(drawn.tree.parents.tolist())
        drafts[key] = DraftLaw(drawn.tree, drawn.scheme, drawn.law)
        return key

    return [(drafts[key], probability) for key, probability in outcome_law(run).items() if probability]


def kept_law(rule: Rule, case: Case) -> Target:
    """The law that a lossless rule keeps: the target's, or the point mass on its most likely token."""
    if rule.decodes == "sampling":
        return lambda text: case.target(text).tolist()
    return lambda text: [Fraction(int(token == np.argmax(case.target(text)))) for token in range(case.vocabulary)]


def _verified(rule: Rule, case: Case, draft: DraftLaw, rows: NDArray[Any], forks: Forks) -> Verified:
    uniforms = VerifyUniforms(forks.uniforms(len(draft.tree)), forks.uniforms(len(draft.tree)))
    return _verify(rule, case, draft, rows, uniforms)


def _verify(rule: Rule, case: Case, draft: DraftLaw, rows: NDArray[Any], uniforms: VerifyUniforms) -> Verified:
    """Verify with inputs that nobody may write to, and check that the outcome is a path and one token more.

    After a leaf there is none where the rule says that it adds nothing there.
    """
    rows.setflags(write=False)
    verified = rule.verify(draft, rows, uniforms)
    parents = [0, *verified.accepted[:-1]][: len(verified.accepted)]
    path = [int(draft.tree.parents[node]) for node in verified.accepted] == parents
    tokens = tuple(int(draft.tokens[node]) for node in verified.accepted)
    told = f"{rule.name} on {case} gave {verified} for tokens {draft.tokens.tolist()}"
    at_leaf = bool(tokens) and not draft.tree.children(verified.accepted[-1])
    added = 1 if rule.adds_after_leaf or not at_leaf else 0
    right = verified.emitted[: len(tokens)] == tokens and len(verified.emitted) == len(tokens) + added
    assert path and right, f"what is emitted must be an accepted path and one token: {told}"
    assert 0 <= verified.emitted[-1] < case.vocabulary, f"the last token must lie in the vocabulary: {told}"
    return verified


def _raced(case: Case, noise: NDArray[np.float64]) -> tuple[DraftLaw, NDArray[Any], VerifyUniforms]:
    draft = case.drafted(noise=noise if case.scheme == "coupled" else None)
    half = np.full(len(draft.tree), 0.5)
    return draft, case.target_rows(draft), VerifyUniforms(half, half, noise)


def _some_noise(case: Case) -> NDArray[np.float64] | None:
    return coupling_uniforms(1, 0, 0, case.depth + 1, case.vocabulary) if case.scheme == "coupled" else None
