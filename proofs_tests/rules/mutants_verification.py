"""Verifiers and drafters with one bug each, bugs that shipped elsewhere: the tools of the proofs must catch them."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reader_theory.rules import (
    Block,
    ChainRejection,
    DraftLaw,
    Greedy,
    GumbelCoupled,
    MultiRound,
    Rule,
    TargetOnly,
    Traversal,
    TypicalLossy,
    Verified,
    VerifyUniforms,
    WithoutReplacement,
    verify_batch,
)
from reader_theory.rules.base import At, walk_down
from reader_theory.rules.cases import Case
from reader_theory.rules.laws import residual, without_token
from reader_theory.rules.multi_round import try_in_turn
from reader_theory.rules.pick import pick_token
from reader_theory.trees import TokenTree

Walk = tuple[list[int], int]
Array = NDArray[Any]


class SharedRecovery(ChainRejection):
    """Draws the recovered token with the number that rejected the draft."""

    def _walk(self, draft: DraftLaw, target: Array, uniforms: VerifyUniforms) -> Walk:
        shared = np.append(uniforms.acceptance[1:], uniforms.recovery[-1:])
        return super()._walk(draft, target, VerifyUniforms(uniforms.acceptance, shared))


class AcceptsAtZero(ChainRejection):
    """Compares with <=, so that u = 0 accepts a token of probability 0."""

    def _walk(self, draft: DraftLaw, target: Array, uniforms: VerifyUniforms) -> Walk:
        return walk_down(draft, target, uniforms, self._decide)

    @staticmethod
    def _decide(draft: DraftLaw, node: int, target: Array, acceptance: Array) -> tuple[int | None, Array]:
        for child in draft.tree.children(node):
            law, token = draft.law_at(node), int(draft.tokens[child])
            if acceptance[child] * law[token] <= target[token]:
                return child, target
            target = residual(target, law)
        return None, target


class _OtherResidual(ChainRejection):
    """Chain rejection with another law after a rejection."""

    def _walk(self, draft: DraftLaw, target: Array, uniforms: VerifyUniforms) -> Walk:
        return walk_down(draft, target, uniforms, self._decide)

    def _decide(self, draft: DraftLaw, node: int, target: Array, acceptance: Array) -> tuple[int | None, Array]:
        for child in draft.tree.children(node):
            law, token = draft.law_at(node), int(draft.tokens[child])
            if acceptance[child] * law[token] < target[token]:
                return child, target
            target = self.left(target, law, token)
        return None, target

    @staticmethod
    @abstractmethod
    def left(target: Array, law: Array, token: int) -> Array:
        """The law after `token` was rejected."""


class ResidualZeroesOnlyTheToken(_OtherResidual):
    """Removes the drafted token from the target instead of subtracting the draft law."""

    @staticmethod
    def left(target: Array, law: Array, token: int) -> Array:
        return without_token(target, token) if target[token] < 1 else target


class ResampledTarget(_OtherResidual):
    """Draws from the target itself after a rejection."""

    @staticmethod
    def left(target: Array, law: Array, token: int) -> Array:
        return target


class DropsSmallSurplus(_OtherResidual):
    """Takes a surplus below 1e-4 for rounding."""

    @staticmethod
    def left(target: Array, law: Array, token: int) -> Array:
        surplus = np.maximum(target - law, 0)
        kept = np.where(surplus < 1e-4, 0, surplus)
        return kept / kept.sum() if kept.sum() > 0 else target


class ForgetsFromTheFourth(ChainRejection):
    """Draws from the target itself after a rejection, from the fourth node of a chain on."""

    schemes = frozenset({"chain", "iid"})

    def _walk(self, draft: DraftLaw, target: Array, uniforms: VerifyUniforms) -> Walk:
        return walk_down(draft, target, uniforms, self._decide)

    def _decide(self, draft: DraftLaw, node: int, target: Array, acceptance: Array) -> tuple[int | None, Array]:
        decided, left = try_in_turn(draft, node, target, acceptance)
        return decided, target if node >= 3 else left


class LogResidual(_OtherResidual):
    """Weighs the surplus x by -log(1 - x), which is x only when x is small."""

    @staticmethod
    def left(target: Array, law: Array, token: int) -> Array:
        surplus = np.maximum(target - law, 0)
        weights = [Fraction(-math.log1p(-min(float(x), 1 - 1e-12))) for x in surplus]
        total = sum(weights)
        return np.array([weight / total for weight in weights]) if total > 0 else target


class IndexesPadding(ChainRejection):
    """Looks at no token before it indexes with it."""

    def _check(self, draft: DraftLaw, laws: Array, uniforms: VerifyUniforms) -> None:
        return


class DensePrefix(Traversal):
    """Reports the accepted path as the first nodes of the tree."""

    def verify(self, draft: DraftLaw, target: Any, uniforms: VerifyUniforms) -> Verified:
        honest = super().verify(draft, target, uniforms)
        return Verified(tuple(range(1, len(honest.accepted) + 1)), honest.emitted)


class NoRoundResidual(MultiRound):
    """Tries every round against the whole target."""

    def _walk(self, draft: DraftLaw, target: Array, uniforms: VerifyUniforms) -> Walk:
        return walk_down(draft, target, uniforms, self._decide)

    @staticmethod
    def _decide(draft: DraftLaw, node: int, target: Array, acceptance: Array) -> tuple[int | None, Array]:
        left = target
        for child in draft.tree.children(node):
            law, token = draft.law_at(node), int(draft.tokens[child])
            if acceptance[child] * law[token] < target[token]:
                return child, target
            left = residual(target, law)
        return None, left


class NeverRenormalised(WithoutReplacement):
    """Keeps the first draft law for every sibling."""

    def _walk(self, draft: DraftLaw, target: Array, uniforms: VerifyUniforms) -> Walk:
        return walk_down(draft, target, uniforms, try_in_turn)


class BlockStopsEarly(Block):
    """Stops at the first position that does not end the block, as a chain would."""

    def _walk(self, draft: DraftLaw, target: Array, uniforms: VerifyUniforms) -> Walk:
        for length in range(1, len(draft.tree)):
            path, _ = super()._walk(draft, target, VerifyUniforms(_only(uniforms, length), uniforms.recovery))
            if len(path) < length:
                return super()._walk(draft, target, VerifyUniforms(_only(uniforms, length - 1), uniforms.recovery))
        return super()._walk(draft, target, uniforms)


def _only(uniforms: VerifyUniforms, length: int) -> Array:
    """The first `length` acceptance numbers; beyond them one that never accepts."""
    never = np.array([Fraction(1)] * len(uniforms.acceptance), dtype=object)
    return np.concatenate([uniforms.acceptance[: length + 1], never[length + 1 :]])


class BlockChainResidual(Block):
    """Recovers from the positive part of p - q, forgetting how likely the block was to get there."""

    def _walk(self, draft: DraftLaw, target: Array, uniforms: VerifyUniforms) -> Walk:
        path, last = super()._walk(draft, target, uniforms)
        depth = len(path)
        if depth == draft.tree.nodes:
            return path, last
        return path, pick_token(residual(target[depth], draft.law_at(depth)), uniforms.recovery[depth])


class ForgetfulTraversal(Traversal):
    """Draws the added token from the target as it was before anything was rejected."""

    def _walk(self, draft: DraftLaw, target: Array, uniforms: VerifyUniforms) -> Walk:
        path, _ = super()._walk(draft, target, uniforms)
        row = path[-1] if path else 0
        return path, pick_token(target[row], uniforms.recovery[row])


class OneNoise(GumbelCoupled):
    """Runs every depth on the noise of the first."""

    def _walk(self, draft: DraftLaw, target: Array, uniforms: VerifyUniforms) -> Walk:
        assert uniforms.coupling is not None
        one = np.tile(uniforms.coupling[:1], (len(uniforms.coupling), 1))
        return super()._walk(draft, target, replace(uniforms, coupling=one))


class OneUniform(TargetOnly):
    """Draws every position with one number."""

    def _walk(self, draft: DraftLaw, target: Array, uniforms: VerifyUniforms) -> Walk:
        return super()._walk(draft, target, replace(uniforms, recovery=uniforms.recovery[:1].repeat(len(target))))


class LastOfTies(Greedy):
    """Takes the highest id among equal logits, where plain decoding takes the lowest."""

    def next_token(self, law: Array, numbers: At) -> int:
        return int(np.flatnonzero(law == law.max())[-1])


class UnsaidTypical(TypicalLossy):
    """Typical acceptance under a lossless flag."""

    name = "typical"
    lossless = True


class ShyTypical(TypicalLossy):
    """Typical acceptance whose name says nothing."""

    name = "typical"


class ForgetfulOfRounds(MultiRound):
    """Lossless, but tries the first sibling alone: what it says that it accepts is more than it accepts."""

    def _walk(self, draft: DraftLaw, target: Array, uniforms: VerifyUniforms) -> Walk:
        return walk_down(draft, target, uniforms, self._decide)

    @staticmethod
    def _decide(draft: DraftLaw, node: int, target: Array, acceptance: Array) -> tuple[int | None, Array]:
        for child in draft.tree.children(node)[:1]:
            law, token = draft.law_at(node), int(draft.tokens[child])
            return (child, target) if acceptance[child] * law[token] < target[token] else (None, residual(target, law))
        return None, target


LOSSY_IN_SECRET = (
    SharedRecovery,
    AcceptsAtZero,
    ResidualZeroesOnlyTheToken,
    ResampledTarget,
    LogResidual,
    NoRoundResidual,
    NeverRenormalised,
    BlockStopsEarly,
    BlockChainResidual,
    ForgetfulTraversal,
    OneNoise,
    OneUniform,
    LastOfTies,
    UnsaidTypical,
)
"""Each emits another law than the one that it declares."""


def _below(*tokens: int) -> TokenTree:
    """The root with these children."""
    return TokenTree([-1] + [0] * len(tokens), tokens=[0, *tokens])


def reranked(case: Case, drafting: Array) -> DraftLaw:
    """Sorts the sampled siblings of the root by their own probability."""
    drawn = case.drafted(drafting)
    law = drawn.law_at()
    tokens = drawn.tokens.copy()
    siblings = drawn.tree.children()
    tokens[siblings] = sorted(tokens[siblings].tolist(), key=lambda token: (-law[token], token))
    return DraftLaw(TokenTree(drawn.tree.parents, tokens=tokens), drawn.scheme, drawn.law)


def dropped(case: Case, drafting: Array) -> DraftLaw:
    """Drops the last sampled sibling unverified where its own law finds it unlikely."""
    drawn = case.drafted(drafting)
    law, last = drawn.law_at(), int(drawn.tokens[-1])
    keep = drawn.tree.nodes - (law[last] < Fraction(1, 3))
    return DraftLaw(drawn.tree.prune(nodes=keep), drawn.scheme, drawn.law)


def merged(case: Case, drafting: Array) -> DraftLaw:
    """Merges siblings that were drawn twice, so that a round goes missing."""
    drawn = case.drafted(drafting)
    return DraftLaw(_below(*dict.fromkeys(drawn.tokens[1:].tolist())), drawn.scheme, drawn.law)


def argmax_as_softmax(case: Case, drafting: Array) -> DraftLaw:
    """Takes the most likely token and declares the law that it did not draw from."""
    law = case.draft(())
    return DraftLaw(_below(int(np.argmax(law))), "chain", np.array([law]))


def other_temperature(case: Case, drafting: Array) -> DraftLaw:
    """Draws at temperature 1/2, and declares the law at temperature 1."""
    law = case.draft(())
    cooled = law * law
    return DraftLaw(_below(pick_token(cooled / cooled.sum(), drafting[1])), "chain", np.array([law]))


def peeking(case: Case, drafting: Array) -> DraftLaw:
    """Offers a child only where the target's own draw after it, made with this very number, is its first token."""
    child = int(np.argmax(case.draft(())))
    first = int(np.flatnonzero(case.target((child,)))[0])
    offered = pick_token(case.target((child,)), drafting[1]) == first
    return DraftLaw(_below(*[child] * offered), "deterministic")


def recovery_from_drafting(drafting: Array, uniforms: VerifyUniforms) -> VerifyUniforms:
    """Hands the target the number that the drafter saw, for the draw after the first node."""
    recovery = np.append(uniforms.recovery[:1], drafting[1 : len(uniforms.recovery)])
    return VerifyUniforms(uniforms.acceptance, recovery)


def padded_batch(
    rule: Rule, drafts: Sequence[DraftLaw], targets: Sequence[Array], uniforms: Sequence[VerifyUniforms]
) -> list[Verified]:
    """Finds each request's laws as if all drafts were as long as the longest, in rows that are not padded."""
    rows = np.concatenate([*targets, targets[0], targets[0]])
    stride = max(map(len, targets))
    found = [rows[i * stride : i * stride + len(draft.tree)] for i, draft in enumerate(drafts)]
    return verify_batch(rule, drafts, found, uniforms)


def acceptance_from_drafting(drafting: Array, uniforms: VerifyUniforms) -> VerifyUniforms:
    """Accepts with the number that drew the token."""
    return VerifyUniforms(drafting[: len(uniforms.acceptance)], uniforms.recovery)
