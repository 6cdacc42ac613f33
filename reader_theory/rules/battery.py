"""What a verifier's declarations mean, run on anyone's verifier: `check_verifier(MyRule())`."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reader_theory.errors import InvalidInputError
from reader_theory.rules.base import Verified, Verifier, verify_batch
from reader_theory.rules.cases import Case, Text, cases_for, node_paths
from reader_theory.rules.draft_law import DRAWN, SCHEMES, DraftLaw
from reader_theory.rules.enumeration import emitted_law, kept_law, law_gap
from reader_theory.rules.streams import VerifyUniforms, coupling_uniforms, stream_uniforms, verify_uniforms

__all__ = ["check_verifier"]


def check_verifier(verifier: Verifier) -> None:
    """Check, on small cases, every claim that a verifier makes.

    Lossless: for every scheme that it declares, over trees of several shapes and laws with zeros, the emitted string
    continued by the target has exactly the target's law, by enumeration in fractions. Lossy: some case shows it, and
    the name says it. What is emitted is always the accepted path's tokens and one more, all of them possible. What it
    cannot verify it refuses. A request is verified alike alone and in a ragged batch, in fractions and in float64.

    Parameters
    ----------
    verifier : Verifier

    Raises
    ------
    AssertionError
        Naming the claim that fails, and the case that shows it.
    """
    cases = [case for scheme in sorted(verifier.schemes) for case in cases_for(scheme)]
    _check_names(verifier)
    _check_law(verifier, cases)
    _check_refusals(verifier, [case for case in cases if case.parents])
    _check_batch(verifier, cases)


def _check_names(verifier: Verifier) -> None:
    says = verifier.name.endswith("_lossy")
    assert says != verifier.lossless, f"lossy rules, and no others, must have a name in _lossy: {verifier.name}"
    assert verifier.schemes and verifier.schemes <= set(SCHEMES), f"schemes must be among {SCHEMES}: {verifier.schemes}"


def _check_law(verifier: Verifier, cases: Iterable[Case]) -> None:
    gaps: dict[str, Fraction] = {}
    for case in cases:
        gap = law_gap(emitted_law(verifier, case), kept_law(verifier, case), case.depth + 1)
        gaps[str(case)] = gap
        assert not (verifier.lossless and gap), f"{verifier.name} says that it is lossless, but is {gap} off on {case}"
    assert verifier.lossless or max(gaps.values()), f"{verifier.name} says that it is lossy, but no case shows it"


def _check_refusals(verifier: Verifier, cases: Iterable[Case]) -> None:
    for case in cases:
        draft, rows, uniforms = _sampled(case, step=0)
        for wrong in (-1, case.vocabulary, case.vocabulary + 7):
            tokens = np.append(draft.tokens[:-1], wrong)
            _must_refuse(verifier, draft, {"tokens": tokens}, rows, uniforms, f"token {wrong}")
        _must_refuse(verifier, draft, {}, rows * 0.5, uniforms, "a target that sums to 1/2")
        _must_refuse(verifier, draft, {}, rows[:-1], uniforms, "a target that lacks a row")
        for other in sorted(set(SCHEMES) - verifier.schemes):
            law = draft.law if other in DRAWN else None
            _must_refuse(verifier, draft, {"scheme": other, "law": law}, rows, uniforms, f"scheme {other}")
        for law, what in _wrong_laws(draft, case.vocabulary):
            _must_refuse(verifier, draft, {"law": law}, rows, uniforms, what)
        if draft.scheme != "iid" and len(draft.children()) > 1:
            first, second = draft.children()[:2]
            tokens = draft.tokens.copy()
            tokens[second] = tokens[first]
            _must_refuse(verifier, draft, {"tokens": tokens}, rows, uniforms, "siblings with one token")


def _wrong_laws(draft: DraftLaw, vocabulary: int) -> list[tuple[NDArray[np.float64], str]]:
    """Laws that are not the one that was sampled, each with what is wrong about it."""
    if draft.law is None:
        return []
    first = int(draft.tokens[0])
    elsewhere = np.eye(vocabulary)[(first + 1) % vocabulary]
    barely = 0.999 * elsewhere + 0.001 * np.eye(vocabulary)[first]
    rows = (len(draft.law), 1)
    return [
        (draft.law * 0.5, "a draft law that sums to 1/2"),
        (np.tile(elsewhere, rows), "law 0 at an offered token"),
        (np.tile(barely, rows), "a law that does not give the tokens for the uniforms they were drawn with"),
    ]


def _must_refuse(
    verifier: Verifier,
    draft: DraftLaw,
    changes: dict[str, Any],
    rows: NDArray[Any],
    uniforms: VerifyUniforms,
    what: str,
) -> None:
    try:
        verifier.verify(_changed(draft, **changes), rows, uniforms)
    except InvalidInputError:
        return
    raise AssertionError(f"{verifier.name} must refuse {what} with InvalidInputError")


def _changed(draft: DraftLaw, **changes: Any) -> DraftLaw:
    fields = ("tokens", "parents", "scheme", "law", "drawn_with")
    return DraftLaw(**({field: getattr(draft, field) for field in fields} | changes))


def _sampled(case: Case, step: int) -> tuple[DraftLaw, NDArray[np.float64], VerifyUniforms]:
    """One float64 step of the case, as an engine would run it."""
    noise = coupling_uniforms(0, 0, step, case.depth + 1, case.vocabulary)
    drafting = stream_uniforms(0, 0, step, "drafting", len(case.parents))
    exact = case.drafted(drafting, noise if case.scheme == "coupled" else None)
    law = None if exact.law is None else exact.law.astype(np.float64)
    draft = DraftLaw(exact.tokens, exact.parents, exact.scheme, law, exact.drawn_with)
    some = verify_uniforms(0, 0, step, len(draft))
    return draft, case.target_rows(exact).astype(np.float64), VerifyUniforms(some.acceptance, some.recovery, noise)


def _check_batch(verifier: Verifier, cases: list[Case], steps: int = 5) -> None:
    for step in range(steps):
        batch = [_sampled(case, step) for case in cases]
        together = verify_batch(verifier, *zip(*batch, strict=True))
        alone = [verifier.verify(*request) for request in reversed(batch)][::-1]
        assert together == alone, f"{verifier.name} must verify a request alike alone and in a ragged batch"
        exact = [_in_fractions(verifier, case, *request) for case, request in zip(cases, batch, strict=True)]
        assert together == exact, f"{verifier.name} must decide alike in float64 and in fractions"


def _in_fractions(
    verifier: Verifier, case: Case, draft: DraftLaw, rows: NDArray[np.float64], uniforms: VerifyUniforms
) -> Verified:
    exact = np.vectorize(Fraction, otypes=[object])
    law = None if draft.law is None else np.array([case.draft(text) for text in _parent_paths(draft)])
    numbers = [exact(part) if part.size else part for part in (uniforms.acceptance, uniforms.recovery)]
    without = DraftLaw(draft.tokens, draft.parents, draft.scheme, law)
    return verifier.verify(without, case.target_rows(draft), VerifyUniforms(numbers[0], numbers[1], uniforms.coupling))


def _parent_paths(draft: DraftLaw) -> list[Text]:
    paths = node_paths(draft)
    return [paths[parent + 1] for parent in sorted(set(draft.parents.tolist()))]
