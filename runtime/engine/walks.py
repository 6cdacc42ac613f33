"""What a row emits: its drafts walked by the rule that its request asks for.

A rule that follows the target's own tokens walks down a trie, whoever built it. A draft drawn from a law, and whatever
else the rule verifies itself, goes through its `verify`. A rule that needs drawn drafts and has none follows the
target as `TargetOnly` does.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from reader_theory.rules.base import FollowingRule
from reader_theory.rules.draft_law import DraftLaw
from reader_theory.rules.streams import VerifyUniforms
from reader_theory.rules.target_only import TargetOnly
from reader_theory.trees import TokenTree
from runtime.drafters.sampled import DrawnDraft
from runtime.drafters.trie import DraftTrie
from runtime.engine.picker import token_scores
from runtime.engine.processors import target_law
from runtime.engine.request import Request

__all__ = ["Walk", "first_token", "walk"]

Walk = tuple[list[int], list[int]]
"""Nodes whose cache entries are kept, the root first, and the tokens that the row emits."""

_TARGET_ONLY = TargetOnly()


def first_token(request: Request, logits: torch.Tensor) -> int:
    """The token after the prompt, from (V,) logits."""
    return _token_after(request, logits, request.prompt.tolist(), 0)


def walk(request: Request, draft: DraftTrie | DrawnDraft, logits: torch.Tensor) -> Walk:
    """Walk one row's draft, given (Q, V) logits after each node, the root first; Q is at least the draft's nodes."""
    rule = request.params.rule
    if isinstance(draft, DrawnDraft) and draft.scheme != "deterministic":
        return _verified(request, draft, draft.law, logits)
    assert isinstance(draft, DraftTrie)
    if not isinstance(rule, FollowingRule) and "deterministic" in rule.schemes:
        law = DraftLaw(TokenTree(draft.parents, tokens=draft.tokens), "deterministic")
        return _verified(request, draft, law, logits)
    return draft.follow(_own_token(request, draft, logits))


def _own_token(request: Request, trie: DraftTrie, logits: torch.Tensor) -> Callable[[list[int]], int]:
    text = request.text if request.params.repetition_penalty != 1.0 else []
    emitted, last = len(request.output), request.params.max_new_tokens - 1

    def token(path: list[int]) -> int:
        before = [*text, *(trie.tokens[node] for node in path[1:])]
        return _token_after(request, logits[path[-1]], before, min(emitted + len(path) - 1, last))

    return token


def _token_after(request: Request, logits: torch.Tensor, text: list[int], position: int) -> int:
    """The target's own token at an output position: a function of the prefix and of that position's numbers."""
    rule = request.params.rule
    follows = rule if isinstance(rule, FollowingRule) else _TARGET_ONLY
    return follows.next_token(token_scores(logits, request.params, text), request.numbers_at(position))


def _verified(request: Request, draft: DraftTrie | DrawnDraft, law: DraftLaw, logits: torch.Tensor) -> Walk:
    nodes, step = len(law.tree), request.steps + 1
    prefixes = _prefixes(request.text, draft) if request.params.repetition_penalty != 1.0 else None
    laws = target_law(logits[:nodes], request.params, prefixes).numpy(force=True)
    uniforms = VerifyUniforms(request.streams("acceptance", step, nodes), request.streams("recovery", step, nodes))
    verified = request.params.rule.verify(law, laws, uniforms)
    return [0, *verified.accepted], list(verified.emitted)


def _prefixes(text: list[int], draft: DraftTrie | DrawnDraft) -> list[list[int]]:
    """Text before each node's successor, the root's first."""
    found: list[list[int]] = [text]
    for token, parent in zip(draft.tokens[1:], draft.parents[1:], strict=True):
        found.append([*found[parent], token])
    return found
