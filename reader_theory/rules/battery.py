"""What a rule's declarations mean, run on anyone's rule: `check_rule(MyRule())`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reader_theory.errors import InvalidInputError
from reader_theory.rules.base import Rule, Verified, verify_batch
from reader_theory.rules.cases import Case, cases_for, deep_case, node_paths
from reader_theory.rules.draft_law import DRAWN, SCHEMES, DraftLaw
from reader_theory.rules.enumeration import emitted_law, kept_law, verified_law
from reader_theory.rules.exact import law_gap
from reader_theory.rules.streams import VerifyUniforms, coupling_uniforms, stream_uniforms, verify_uniforms
from reader_theory.trees import TokenTree

__all__ = ["check_rule"]


def check_rule(rule: Rule) -> None:
    """Check, on small cases, every claim that a rule makes.

    Lossless: for every scheme that it declares, over trees of several shapes, laws with zeros, and a deep draft of
    its own scheme, the emitted string continued by the target has exactly the target's law, by enumeration in
    fractions. Lossy: some case shows it, and the name says it. Acceptance: what `acceptance` says of siblings drafted
    for the rule is what `verify` accepts, exactly, or, where noise couples them, within 5 standard deviations over
    2,000 steps. What is emitted is always the accepted path's tokens and one more, all of them possible. What it cannot
    verify it refuses. A request is verified alike alone and in a ragged batch, in fractions and in float64.

    Parameters
    ----------
    rule : Rule

    Raises
    ------
    AssertionError
        Naming the claim that fails, and the case that shows it.
    """
    cases = [case for scheme in sorted(rule.schemes) for case in cases_for(scheme)]
    _check_names(rule)
    _check_law(rule, [*cases, deep_case(rule.scheme)])
    _check_acceptance(rule)
    _check_refusals(rule, [case for case in cases if case.depth])
    _check_batch(rule, cases)


def _check_names(rule: Rule) -> None:
    says = rule.name.endswith("_lossy")
    assert says != rule.lossless, f"lossy rules, and no others, must have a name in _lossy: {rule.name}"
    assert rule.scheme in rule.schemes, f"scheme must be among the schemes that the rule verifies: {rule.scheme}"
    assert rule.schemes <= set(SCHEMES), f"schemes must be among {SCHEMES}: {rule.schemes}"


def _check_law(rule: Rule, cases: Iterable[Case]) -> None:
    gaps: dict[str, Fraction] = {}
    for case in cases:
        gap = law_gap(emitted_law(rule, case), kept_law(rule, case), case.depth + 1)
        gaps[str(case)] = gap
        assert not (rule.lossless and gap), f"{rule.name} says that it is lossless, but is {gap} off on {case}"
    assert rule.lossless or max(gaps.values()), f"{rule.name} says that it is lossy, but no case shows it"


def _check_acceptance(rule: Rule, steps: int = 2000) -> None:
    for case in (case for case in cases_for(rule.scheme) if case.depth == 1):
        draws = len(case.parents) - 1
        told = rule.acceptance(case.target(()), case.draft(()), draws)
        assert np.shape(told) == (draws,), f"{rule.name} must give one probability a sibling, {draws}: {told}"
        if "coupling" in rule.streams:
            told = told.astype(np.float64)
            found, slack = _counted(rule, case, steps), 5 * np.sqrt(np.clip(told * (1 - told), 1e-3, 1) / steps)
        else:
            found, slack = _accepted(rule, case), 0
        assert np.all(abs(found - told) <= slack), f"{rule.name} says that it accepts {told}, not {found}, on {case}"


def _accepted(rule: Rule, case: Case) -> NDArray[Any]:
    """Exact probability that each child of the root is the one accepted."""
    found = np.array([Fraction(0)] * (len(case.parents) - 1))
    for verified, probability in verified_law(rule, case).items():
        if verified.accepted:
            found[verified.accepted[0] - 1] += probability
    return found


def _counted(rule: Rule, case: Case, steps: int) -> NDArray[np.float64]:
    """The same as a share of steps on the engine's own streams; rows of noise are `depth` apart."""
    accepted = [
        rule.verify(*_sampled(case, step)).accepted for step in range(0, steps * (case.depth + 1), case.depth + 1)
    ]
    return np.bincount([path[0] for path in accepted if path], minlength=len(case.parents))[1:] / steps


def _check_refusals(rule: Rule, cases: Iterable[Case]) -> None:
    for case in cases:
        draft, rows, uniforms = _sampled(case, step=0)
        for wrong in (-1, case.vocabulary, case.vocabulary + 7):
            tokens = np.append(draft.tokens[:-1], wrong)
            _must_refuse(rule, draft, {"tokens": tokens}, rows, uniforms, f"token {wrong}")
        _must_refuse(rule, draft, {}, rows * 0.5, uniforms, "a target that sums to 1/2")
        _must_refuse(rule, draft, {}, rows[:-1], uniforms, "a target that lacks a row")
        for other in sorted(set(SCHEMES) - rule.schemes):
            law = draft.law if other in DRAWN else None
            _must_refuse(rule, draft, {"scheme": other, "law": law}, rows, uniforms, f"scheme {other}")
        for law, what in _wrong_laws(draft, case.vocabulary):
            _must_refuse(rule, draft, {"law": law}, rows, uniforms, what)
        if draft.scheme != "iid" and len(draft.tree.children()) > 1:
            first, second = draft.tree.children()[:2]
            tokens = draft.tokens.copy()
            tokens[second] = tokens[first]
            _must_refuse(rule, draft, {"tokens": tokens}, rows, uniforms, "siblings with one token")


def _wrong_laws(draft: DraftLaw, vocabulary: int) -> list[tuple[NDArray[np.float64], str]]:
    """Laws that are not the one that was sampled, each with what is wrong about it."""
    if draft.law is None:
        return []
    first = int(draft.tokens[1])
    elsewhere = np.eye(vocabulary)[(first + 1) % vocabulary]
    barely = 0.999 * elsewhere + 0.001 * np.eye(vocabulary)[first]
    rows = (len(draft.law), 1)
    return [
        (draft.law * 0.5, "a draft law that sums to 1/2"),
        (np.tile(elsewhere, rows), "law 0 at an offered token"),
        (np.tile(barely, rows), "a law that does not give the tokens for the uniforms they were drawn with"),
    ]


def _must_refuse(
    rule: Rule,
    draft: DraftLaw,
    changes: dict[str, Any],
    rows: NDArray[Any],
    uniforms: VerifyUniforms,
    what: str,
) -> None:
    try:
        rule.verify(_changed(draft, **changes), rows, uniforms)
    except InvalidInputError:
        return
    raise AssertionError(f"{rule.name} must refuse {what} with InvalidInputError")


def _changed(draft: DraftLaw, tokens: NDArray[Any] | None = None, **changes: Any) -> DraftLaw:
    tree = draft.tree if tokens is None else TokenTree(draft.tree.parents, tokens=tokens)
    return replace(draft, tree=tree, **changes)


def _sampled(case: Case, step: int) -> tuple[DraftLaw, NDArray[np.float64], VerifyUniforms]:
    """One float64 step of the case, as an engine would run it."""
    noise = coupling_uniforms(0, 0, step, case.depth + 1, case.vocabulary)
    drafting = stream_uniforms(0, 0, step, "drafting", len(case.parents))
    exact = case.drafted(drafting, noise if case.scheme == "coupled" else None)
    law = None if exact.law is None else exact.law.astype(np.float64)
    draft = replace(exact, law=law)
    some = verify_uniforms(0, 0, step, draft.tree.nodes)
    return draft, case.target_rows(exact).astype(np.float64), VerifyUniforms(some.acceptance, some.recovery, noise)


def _check_batch(rule: Rule, cases: list[Case], steps: int = 5) -> None:
    for step in range(steps):
        batch = [_sampled(case, step) for case in cases]
        together = verify_batch(rule, *zip(*batch, strict=True))
        alone = [rule.verify(*request) for request in reversed(batch)][::-1]
        assert together == alone, f"{rule.name} must verify a request alike alone and in a ragged batch"
        exact = [_in_fractions(rule, case, *request) for case, request in zip(cases, batch, strict=True)]
        assert together == exact, f"{rule.name} must decide alike in float64 and in fractions"


def _in_fractions(
    rule: Rule, case: Case, draft: DraftLaw, rows: NDArray[np.float64], uniforms: VerifyUniforms
) -> Verified:
    exact = np.vectorize(Fraction, otypes=[object])
    paths = node_paths(draft)
    law = None if draft.law is None else np.array([case.draft(paths[parent]) for parent in draft.tree.inner])
    numbers = [exact(part) if part.size else part for part in (uniforms.acceptance, uniforms.recovery)]
    without = DraftLaw(draft.tree, draft.scheme, law)
    return rule.verify(without, case.target_rows(draft), VerifyUniforms(numbers[0], numbers[1], uniforms.coupling))
