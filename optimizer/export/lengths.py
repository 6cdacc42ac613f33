"""Questions that every exporter asks of a policy: is it a chain, is its retrieval of one length, what it drafts."""

from __future__ import annotations

from collections.abc import Sequence

from optimizer.export.settle import Choice
from reader_theory.documents import Chain, Plan, PlanEntry, Policy, Static
from reader_theory.errors import require
from reader_theory.trees.tree import TokenTree

__all__ = [
    "LONGEST",
    "LOOKED_UP",
    "batch_ends",
    "chain_length",
    "constant",
    "constant_length",
    "draft_model",
    "drafted_tokens",
    "retrieved_kin",
    "static_chains",
]

_LONG_MATCH = 1_000_000
LONGEST = 24
"""Longest chain that is weighed for an engine."""
LOOKED_UP = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16)
"""Lengths of retrieved chains that are weighed for an engine."""


def chain_length(policy: Policy) -> int | None:
    """Length of a neural chain without retrieval, 0 for "off"; None for anything else."""
    tree = policy.tree
    first = policy.kind in ("off", "static") and tree.is_chain and not tree.ranks.any()
    return tree.nodes if first else None


def constant_length(policy: Policy) -> int | None:
    """Length of a retrieved chain that does not depend on the match; None for anything else."""
    if policy.kind != "chain":
        return None
    lengths = {policy.cap(match) for match in (policy.min_match, _LONG_MATCH)}
    return lengths.pop() if len(lengths) == 1 else None


def drafted_tokens(policy: Policy) -> int:
    """Most tokens that a step of a neural tree or of a retrieved chain offers."""
    if policy.retrieved is None:
        return policy.tree.nodes
    constant = constant_length(policy)
    return policy.retrieved.max_tokens if constant is None else constant


def constant(length: int, min_match: int = 1) -> Chain:
    """The retrieved chain of one length at every match of `min_match` tokens or more."""
    return Chain(min_match=min_match, offset=float(length), factor=0.0, max_tokens=length)


def retrieved_kin(entry: PlanEntry, min_match: int = 1) -> list[Chain]:
    """Chains of one length that draft about as many tokens as the entry's policy verifies; none without retrieval."""
    policy = entry.policy
    retrieves = policy.retrieved is not None or (policy.kind == "grown" and policy.retrieval is not None)
    if not retrieves:
        return []
    most = policy.most_nodes if policy.retrieved is None else policy.retrieved.max_tokens
    return [constant(max(1, min(round(entry.prediction.nodes_per_step), most)), min_match)]


def static_chains(entry: PlanEntry) -> list[Policy]:
    """Chains of the drafter that the entry's plan asks or weighed, of every length up to `LONGEST`."""
    asked = [policy.asks for policy in (entry.policy, *(each.policy for each in entry.candidates))]
    names = dict.fromkeys(name for name in asked if name is not None)
    return [Static.of(TokenTree.chain(k), name) for name in names for k in range(1, LONGEST + 1)]


def draft_model(plan: Plan) -> str:
    """Name of the draft that the plan was made for.

    Raises
    ------
    InvalidInputError
        If the plan was made without one.
    """
    require(
        plan.draft is not None,
        "a plan that drafts with a model must name the draft",
        got="draft None",
        fix="Plan again from a trace that was recorded with a draft model.",
    )
    return str(plan.draft)


def batch_ends(choices: Sequence[Choice], max_batch: int | None) -> list[int]:
    """Largest batch that each choice serves; the last one reaches to the server's.

    Raises
    ------
    InvalidInputError
        If the server's largest batch is below a planned one.
    """
    ends = [choice.entry.batch for choice in choices]
    require(
        max_batch is None or max_batch >= ends[-1],
        "`max_batch` must be at least the largest planned batch",
        got=f"{max_batch}, planned {ends}",
        fix="Pass the largest batch that the server runs.",
    )
    return [*ends[:-1], max_batch or ends[-1]]
