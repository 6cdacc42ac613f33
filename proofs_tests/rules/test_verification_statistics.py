"""In float64, on the engine's own streams, the first two tokens of every lossless rule have the target's law.

H0: counts over the pairs of tokens are multinomial with the target's joint law. Pairs that would be expected fewer
than 5 times are pooled. Error budget: 1e-4 for all rules together. Power: a rule that recovers from the target itself
is rejected.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import chisquare

from proofs_tests.rules.exact import random_law
from proofs_tests.rules.mutants_verification import ResampledTarget
from reader_theory.rules import (
    Block,
    ChainRejection,
    GumbelCoupled,
    MultiRound,
    Rule,
    TargetOnly,
    Traversal,
    VerifyUniforms,
    WithoutReplacement,
)
from reader_theory.rules.cases import Case
from reader_theory.rules.pick import pick_token
from reader_theory.rules.streams import coupling_uniforms, stream_uniforms, verify_uniforms

V, STEPS = 12, 4000
RULES = (
    (TargetOnly, "deterministic", (-1, 0, 0, 1, 2)),
    (ChainRejection, "chain", (-1, 0, 1)),
    (MultiRound, "iid", (-1, 0, 0, 1, 2)),
    (WithoutReplacement, "without_replacement", (-1, 0, 0, 1, 2)),
    (Block, "chain", (-1, 0, 1)),
    (Traversal, "without_replacement", (-1, 0, 0, 1, 2)),
    (GumbelCoupled, "coupled", (-1, 0, 0, 1, 2)),
)
LEVEL = 1e-4 / len(RULES)


def markov(seed: int, smoothing: float) -> Callable[[tuple[int, ...]], NDArray[np.float64]]:
    rows = [random_law(np.random.default_rng([seed, i]), V) for i in range(V + 1)]
    mixed = [(1 - smoothing) * row + smoothing / V for row in rows]
    return lambda text: mixed[text[-1] if text else V]


def p_value(rule: Rule, scheme: str, parents: tuple[int, ...]) -> float:
    case = Case(parents, scheme, markov(1, 0.0), markov(1, 0.8))  # type: ignore[arg-type]
    counts = np.zeros((V, V))
    for step in range(STEPS):
        noise = coupling_uniforms(5, 0, 3 * step, case.depth + 1, V)
        drafting = stream_uniforms(5, 0, step, "drafting", len(parents))
        draft = case.drafted(drafting, noise if scheme == "coupled" else None)
        some = verify_uniforms(5, 0, step, draft.tree.nodes)
        text = rule.verify(
            draft, case.target_rows(draft), VerifyUniforms(some.acceptance, some.recovery, noise)
        ).emitted
        if len(text) == 1:
            text = (*text, pick_token(case.target(text), stream_uniforms(6, 0, step, "recovery", 1)[0]))
        counts[text[:2]] += 1
    joint = np.array([case.target(())[first] * case.target((first,)) for first in range(V)])
    assert not counts[joint == 0].any()
    often = joint * STEPS >= 5
    observed = np.append(counts[often], counts[~often].sum())
    expected = np.append(joint[often], joint[~often].sum()) * STEPS
    kept = expected > 0
    return float(chisquare(observed[kept], expected[kept]).pvalue)


@pytest.mark.slow
@pytest.mark.parametrize(("rule", "scheme", "parents"), RULES)
def test_two_tokens_have_the_target_law(rule: type[Rule], scheme: str, parents: tuple[int, ...]) -> None:
    assert p_value(rule(), scheme, parents) > LEVEL


@pytest.mark.slow
def test_a_resampled_target_is_caught() -> None:
    assert p_value(ResampledTarget(), "chain", (-1, 0, 1)) < LEVEL
