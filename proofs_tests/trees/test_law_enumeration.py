"""A step is lossless iff the law of its emitted string, continued by the target, is the target's joint law."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reader_theory.errors import NotADistributionError
from reader_theory.rules.exact import Forks, Law, Target, Text, continue_with_target, law_gap, outcome_law
from reader_theory.trees import (
    TokenTree,
    entropy_nats,
    path_probability,
    tokens_per_step,
)

V = 4


def target_of(weights: Sequence[int]) -> Target:
    """A target with zeros, whose law depends on the whole prefix."""

    def target(prefix: Text) -> list[Fraction]:
        rolled = [weights[(token + 3 * len(prefix) + sum(prefix)) % V] for token in range(V)]
        return [Fraction(weight, sum(weights)) for weight in rolled]

    return target


def target_only(forks: Forks, target: Target, tree: TokenTree) -> Text:
    """Draw from the target, follow the child that carries the token; a node's rank is its token."""
    emitted, node = [forks.choose(target(()))], 0
    while found := [c for c in tree.children(node) if tree.ranks[c] == emitted[-1]]:
        node = found[0]
        emitted.append(forks.choose(target(tuple(emitted))))
    return tuple(emitted)


def chain_rejection(forks: Forks, target: Target, draft: Target, residual: bool = True) -> Text:
    """One drafted token, accepted with min(1, p / q); `residual` is what a planted bug leaves out."""
    p, q = target(()), draft(())
    token = forks.choose(q)
    accept = min(Fraction(1), p[token] / q[token])
    if forks.choose([1 - accept, accept]):
        return token, forks.choose(target((token,)))
    left = [max(a - b, Fraction(0)) for a, b in zip(p, q, strict=True)] if residual else list(p)
    return (forks.choose([mass / sum(left) for mass in left]),)


def law_of(rule: Callable[..., Text], *arguments: Any) -> Law:
    return outcome_law(lambda forks: rule(forks, *arguments))


weights = st.lists(st.integers(0, 4), min_size=V, max_size=V).filter(any)
TREE = TokenTree.from_rank_paths([(0, 1), (0, 2), (2, 0), (3,)])


@settings(max_examples=12)
@given(weights)
def test_target_only_verification_is_lossless_on_any_tree(weights: list[int]) -> None:
    law = law_of(target_only, target_of(weights), TREE)
    assert sum(law.values()) == 1
    assert law_gap(law, target_of(weights), 3) == 0


@given(weights, weights)
def test_chain_rejection_is_lossless(target: list[int], draft: list[int]) -> None:
    law = law_of(chain_rejection, target_of(target), target_of(draft))
    assert law_gap(law, target_of(target), 2) == 0


def test_a_resampled_target_is_caught() -> None:
    target, draft = target_of([4, 3, 2, 0]), target_of([1, 0, 2, 4])
    assert law_gap(law_of(chain_rejection, target, draft, False), target, 2) > 0


@settings(max_examples=12)
@given(weights)
def test_tokens_a_step_are_the_mean_length_of_the_emitted_string(weights: list[int]) -> None:
    target = target_of(weights)
    law = law_of(target_only, target, TREE)
    paths = TREE.rank_paths()
    conditional = np.array([1, *(float(target(path[:-1])[path[-1]]) for path in paths[1:])])
    value = tokens_per_step(path_probability(TREE, conditional))
    assert value == pytest.approx(float(sum(len(text) * p for text, p in law.items())))


@settings(max_examples=12)
@given(weights)
def test_entropy_of_the_emitted_string_is_the_entropy_met_on_the_way(weights: list[int]) -> None:
    target = target_of(weights)
    law = np.array([float(p) for p in law_of(target_only, target, TREE).values()])
    paths = TREE.rank_paths()
    path = np.array([float(continue_with_target({(): Fraction(1)}, target, len(p)).get(p, 0)) for p in paths])
    entropies = np.array([entropy_nats(np.array(target(p), dtype=float)) for p in paths])
    assert float(path @ entropies) == pytest.approx(entropy_nats(law / law.sum()), abs=1e-9)


def test_every_branch_is_run_once() -> None:
    runs: list[int] = []

    def rule(forks: Forks) -> Text:
        runs.append(forks.choose([Fraction(1, 3)] * 3))
        return runs[-1], forks.choose([Fraction(1, 2), Fraction(0), Fraction(1, 2)])

    law = law_of(rule)
    assert len(runs) == 6 and set(law.values()) == {Fraction(1, 6)}


@pytest.mark.parametrize("bad", [[Fraction(1, 2)], [Fraction(3, 2), Fraction(-1, 2)]])
def test_a_rule_that_draws_from_no_law_is_caught(bad: list[Fraction]) -> None:
    with pytest.raises(NotADistributionError, match="sum to 1 exactly"):
        law_of(lambda forks: (forks.choose(bad),))


def test_a_length_below_the_longest_string_is_refused() -> None:
    with pytest.raises(NotADistributionError, match="longest emitted string"):
        continue_with_target({(0, 1): Fraction(1)}, target_of([1, 1, 1, 1]), 1)
