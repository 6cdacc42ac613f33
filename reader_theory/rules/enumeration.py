"""The exact law of what a verifier emits on a case, drafting included, and how far it is from the law to keep."""

from __future__ import annotations

from fractions import Fraction
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reader_theory.rules.base import Verified, Verifier
from reader_theory.rules.cases import Case, Text
from reader_theory.rules.draft_law import DRAWN, DraftLaw
from reader_theory.rules.exact import Forks, outcome_law
from reader_theory.rules.races import race_law
from reader_theory.rules.streams import VerifyUniforms, coupling_uniforms
from reader_theory.trees.law import Law, Target, continue_with_target, joint_law

__all__ = ["drafts_law", "emitted_law", "kept_law", "law_gap"]


def emitted_law(verifier: Verifier, case: Case) -> Law:
    """Exact law of the emitted string, drafting included, through `verify` alone.

    A string that is reached at the end point of a cell only comes with probability 0.
    """
    if "coupling" in verifier.streams:
        return race_law(lambda noise: _verify(verifier, case, *_raced(case, noise)).emitted, case)

    law: Law = {}
    for draft, probability in drafts_law(case):
        rows = case.target_rows(draft)
        emitted = partial(_emitted, verifier, case, draft, rows)
        for text, share in outcome_law(emitted).items():
            law[text] = law.get(text, Fraction(0)) + probability * share
    return law


def drafts_law(case: Case) -> list[tuple[DraftLaw, Fraction]]:
    """Every draft of the case with its exact probability."""
    if case.scheme not in DRAWN:
        return [(case.drafted(noise=_some_noise(case)), Fraction(1))]
    drafts: dict[tuple[Text, Text], DraftLaw] = {}

    def run(forks: Forks) -> tuple[Text, Text]:
        drawn = case.drafted(forks.uniforms(len(case.parents)))
        key = tuple(drawn.tokens.tolist()), tuple(drawn.parents.tolist())
        drafts[key] = DraftLaw(drawn.tokens, drawn.parents, drawn.scheme, drawn.law)
        return key

    return [(drafts[key], probability) for key, probability in outcome_law(run).items() if probability]


def law_gap(law: Law, target: Target, length: int) -> Fraction:
    """Total variation between the emitted string continued by the target and the target's own first `length` tokens.

    1 when a string that the target never emits was reached, be it with probability 0.
    """
    whole, own = continue_with_target(law, target, length), joint_law(target, length)
    if set(whole) - set(own):
        return Fraction(1)
    return sum((abs(whole.get(text, Fraction(0)) - own[text]) for text in own), Fraction(0)) / 2


def kept_law(verifier: Verifier, case: Case) -> Target:
    """The law that a lossless rule keeps: the target's, or the point mass on its most likely token."""
    if verifier.decodes == "sampling":
        return lambda text: case.target(text).tolist()
    return lambda text: [Fraction(int(token == np.argmax(case.target(text)))) for token in range(case.vocabulary)]


def _emitted(verifier: Verifier, case: Case, draft: DraftLaw, rows: NDArray[Any], forks: Forks) -> Text:
    uniforms = VerifyUniforms(forks.uniforms(len(draft)), forks.uniforms(len(draft) + 1))
    return _verify(verifier, case, draft, rows, uniforms).emitted


def _verify(verifier: Verifier, case: Case, draft: DraftLaw, rows: NDArray[Any], uniforms: VerifyUniforms) -> Verified:
    """Verify with inputs that nobody may write to, and check that the outcome is a path and one token more."""
    rows.setflags(write=False)
    verified = verifier.verify(draft, rows, uniforms)
    parents = [-1, *verified.accepted[:-1]][: len(verified.accepted)]
    path = [int(draft.parents[node]) for node in verified.accepted] == parents
    tokens = tuple(int(draft.tokens[node]) for node in verified.accepted)
    told = f"{verifier.name} on {case} gave {verified} for tokens {draft.tokens.tolist()}"
    assert path and verified.emitted[:-1] == tokens, f"what is emitted must be an accepted path and one token: {told}"
    assert 0 <= verified.emitted[-1] < case.vocabulary, f"the last token must lie in the vocabulary: {told}"
    return verified


def _raced(case: Case, noise: NDArray[np.float64]) -> tuple[DraftLaw, NDArray[Any], VerifyUniforms]:
    draft = case.drafted(noise=noise if case.scheme == "coupled" else None)
    half = np.full(len(draft) + 1, 0.5)
    return draft, case.target_rows(draft), VerifyUniforms(half[1:], half, noise)


def _some_noise(case: Case) -> NDArray[np.float64] | None:
    return coupling_uniforms(1, 0, 0, case.depth + 1, case.vocabulary) if case.scheme == "coupled" else None
