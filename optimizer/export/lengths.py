"""Questions that every exporter asks of a policy: is it a chain, is its retrieval of one length, what it drafts."""

from __future__ import annotations

from reader_theory.documents.plan import Plan
from reader_theory.documents.policy import Policy
from reader_theory.errors import require

__all__ = ["chain_length", "constant_length", "draft_model", "drafted_tokens"]

_LONG_MATCH = 1_000_000


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
