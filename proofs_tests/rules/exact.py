"""Exact laws of steps that a test puts together itself: any drafter, any way of handing out the uniforms."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reader_theory.rules import DraftLaw, Rule, VerifyUniforms
from reader_theory.rules.cases import Case
from reader_theory.rules.exact import Forks, Law, outcome_law
from reader_theory.rules.laws import Laws

Drafter = Callable[[Case, NDArray[Any]], DraftLaw]
Share = Callable[[NDArray[Any], VerifyUniforms], VerifyUniforms]


def honest_drafter(case: Case, drafting: NDArray[Any]) -> DraftLaw:
    """Draws as the case says, declares what it drew from."""
    drawn = case.drafted(drafting)
    return DraftLaw(drawn.tree, drawn.scheme, drawn.law)


def separate(drafting: NDArray[Any], uniforms: VerifyUniforms) -> VerifyUniforms:
    """Every stream its own numbers."""
    return uniforms


def step_law(rule: Rule, case: Case, drafter: Drafter = honest_drafter, share: Share = separate) -> Law:
    """Exact law of one step, drafting and verification run together on uniforms that `share` may mix up."""

    def run(forks: Forks) -> tuple[int, ...]:
        drafting = forks.uniforms(len(case.parents))
        draft = drafter(case, drafting)
        uniforms = VerifyUniforms(forks.uniforms(len(draft.tree)), forks.uniforms(len(draft.tree)))
        return rule.verify(draft, case.target_rows(draft), share(drafting, uniforms)).emitted

    return outcome_law(run)


def tokens_a_step(law: Law) -> Fraction:
    """Expected length of the emitted string."""
    return sum((probability * len(text) for text, probability in law.items()), Fraction(0))


def random_laws(seed: int, vocabulary: int = 4, rows: int = 3, parts: int = 8) -> Laws:
    """Laws of `parts` equal parts dropped on the tokens at random, so that zeros and ties are common."""
    generator = np.random.default_rng(seed)
    counts = generator.multinomial(parts, generator.dirichlet(np.full(vocabulary, 0.7)), size=rows)
    laws = [np.array([Fraction(int(n), parts) for n in row]) for row in counts]
    return lambda text: laws[sum((place + 2) * (token + 1) for place, token in enumerate(text)) % rows]


def random_law(generator: np.random.Generator, vocabulary: int) -> NDArray[np.float64]:
    """A float64 law, peaked as often as flat, with some tokens at zero."""
    law = generator.dirichlet(np.full(vocabulary, generator.choice([0.1, 0.5, 2.0])))
    law[generator.random(vocabulary) < 0.2] = 0.0
    law[int(generator.integers(vocabulary))] += 1e-3
    return law / law.sum()
