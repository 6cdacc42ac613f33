"""Over 50,000 tokens, in floats, a rule accepts and recovers as rational arithmetic says, flat laws and Zipf's alike.

The law of the recovered token is read through `verify` alone: the uniform at which it passes a token, found by
bisection, is the cumulative law there.
"""

from __future__ import annotations

from itertools import accumulate
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from proofs_tests.rules.mutants_verification import DropsSmallSurplus, ResampledTarget
from reader_theory.rules import (
    Block,
    ChainRejection,
    DraftLaw,
    MultiRound,
    Rule,
    TargetOnly,
    Traversal,
    VerifyUniforms,
    WithoutReplacement,
)
from reader_theory.trees import TokenTree

V = 50_000
NEVER = 1 - 2.0**-53
AT = (0, 1, 7, 99, 998, 9_999, 24_999, 25_000, 31_234, V - 2)
Whole = list[int]
"""A law as whole numbers in proportion."""


def float32_law(shape: str, seed: int) -> NDArray[np.float32]:
    """Weights as a model's softmax gives them: float32, never quite summing to one."""
    generator = np.random.default_rng(seed)
    ranks = 1.0 + np.arange(V) if shape == "zipf" else np.ones(V)
    weights = generator.permutation(1 / ranks) * np.exp(0.3 * generator.standard_normal(V))
    weights[generator.permutation(V)[: V // 50]] = 0
    return (weights / weights.sum()).astype(np.float32)


def whole(law: NDArray[np.float32]) -> Whole:
    """The very numbers of a float32 law, times a power of two that makes them whole."""
    return [int(float(x) * 2.0**149) for x in law]


def surplus(target: Whole, draft: Whole) -> Whole:
    """What is left of the target once one token of the draft was rejected, exactly."""
    p, q = sum(target), sum(draft)
    return [max(a * q - b * p, 0) for a, b in zip(target, draft, strict=True)]


def without(draft: Whole, token: int) -> Whole:
    return [*draft[:token], 0, *draft[token + 1 :]]


def cumulative(law: Whole) -> NDArray[np.float64]:
    """The exact law summed up to each of the tokens `AT`."""
    total, sums = sum(law), list(accumulate(law))
    return np.array([sums[token] / total for token in AT])


def recovered(rule: Rule, draft: DraftLaw, rows: NDArray[np.float64], acceptance: float) -> NDArray[np.float64]:
    """The law of the last token summed up to each of `AT`: by bisection, the least uniform that passes it."""
    found: list[float] = []
    for token in AT:
        low, high = 0.0, 1.0
        for _ in range(40):
            middle = (low + high) / 2
            numbers = VerifyUniforms(np.full(len(draft.tree), acceptance), np.full(len(draft.tree), middle))
            passed = rule.verify(draft, rows, numbers).emitted[-1] > token
            low, high = (low, middle) if passed else (middle, high)
        found.append(low)
    return np.array(found)


def case(shape: str, siblings: int) -> tuple[Whole, Whole, NDArray[np.float64], NDArray[np.float64], list[int]]:
    """Target and draft exactly and in float64, and tokens that can be rejected."""
    p, q = float32_law(shape, 1), float32_law(shape, 2)
    target, draft = p.astype(np.float64) / p.astype(np.float64).sum(), q.astype(np.float64) / q.astype(np.float64).sum()
    over = np.flatnonzero((draft > 3 * target) & (target > 0))
    return whole(p), whole(q), target, draft, over[:siblings].tolist()


RULES: tuple[tuple[Any, Any, int], ...] = (
    (ChainRejection(), "chain", 1),
    (Block(), "chain", 1),
    (MultiRound(), "iid", 2),
    (WithoutReplacement(), "without_replacement", 2),
    (Traversal(), "without_replacement", 2),
)


def gap(rule: Rule, scheme: Any, siblings: int, shape: str) -> float:
    """Largest distance between the cumulative law after all siblings were rejected and the exact one."""
    exact, drafted, target, draft, tokens = case(shape, siblings)
    for token in tokens:
        exact = surplus(exact, drafted)
        drafted = without(drafted, token) if scheme == "without_replacement" else drafted
    offered = DraftLaw(TokenTree([-1] + [0] * siblings, tokens=[0, *tokens]), scheme, draft[None])
    found = recovered(rule, offered, np.tile(target, (siblings + 1, 1)), NEVER)
    return float(np.abs(found - cumulative(exact)).max())


@pytest.mark.parametrize("shape", ["flat", "zipf"])
@pytest.mark.parametrize(("rule", "scheme", "siblings"), RULES)
def test_the_recovered_token_has_the_exact_residual(rule: Rule, scheme: Any, siblings: int, shape: str) -> None:
    assert gap(rule, scheme, siblings, shape) < 1e-10


@pytest.mark.parametrize("shape", ["flat", "zipf"])
def test_a_token_drawn_from_the_target_has_its_law(shape: str) -> None:
    exact, _, target, _, _ = case(shape, 1)
    found = recovered(TargetOnly(), DraftLaw(TokenTree([-1], tokens=[0]), "deterministic"), target[None], NEVER)
    assert np.abs(found - cumulative(exact)).max() < 1e-10


@pytest.mark.parametrize("shape", ["flat", "zipf"])
def test_acceptance_is_that_of_rational_arithmetic(shape: str) -> None:
    exact, drafted, target, draft, _ = case(shape, 1)
    p, q = sum(exact), sum(drafted)
    overlap = sum(min(a * q, b * p) for a, b in zip(exact, drafted, strict=True)) / (p * q)
    assert ChainRejection().acceptance(target, draft)[0] == pytest.approx(overlap, abs=1e-12)


@pytest.mark.parametrize("shape", ["flat", "zipf"])
@pytest.mark.parametrize("mutant", [DropsSmallSurplus, ResampledTarget], ids=lambda mutant: mutant.__name__)
def test_a_wrong_residual_is_caught(mutant: type[Rule], shape: str) -> None:
    assert gap(mutant(), "chain", 1, shape) > 1e-3
