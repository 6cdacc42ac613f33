"""transformers: fields of `GenerationConfig` for assisted generation. Chains only, batch 1 only.

Format: `transformers.GenerationConfig`, field list and constraints in ``transformers.json``.
"""

from __future__ import annotations

from typing import Any

from optimizer.export.formats import engine_format
from optimizer.export.lengths import chain_length, constant_length, draft_model
from optimizer.export.settle import Family, settle
from reader_theory.documents.plan import Plan
from reader_theory.documents.policy import Policy
from reader_theory.errors import UnsupportedByEngineError, require

__all__ = ["export_transformers", "families"]


def export_transformers(plan: Plan, workload: str, *, nearest: bool = False) -> dict[str, Any]:
    """Generation configuration for the plan's entry at batch 1, for ``GenerationConfig(**export)``.

    A chain also needs the draft itself: pass it to `generate` as ``assistant_model``, and give *its* generation
    configuration the same fields, because that is where transformers looks for them. The schedule is held constant and
    the confidence threshold at 0, so that every step drafts what the plan says.

    Parameters
    ----------
    plan : Plan
    workload : str
    nearest : bool
        Export the nearest that transformers runs where it cannot run the plan.

    Returns
    -------
    dict
        Empty, or sampling alone, when the plan drafts nothing.

    Raises
    ------
    UnsupportedByEngineError
        If the plan has no entry for batch 1, or transformers cannot run it and `nearest` is false.
    """
    engine = engine_format("transformers")
    require(
        plan.entry(workload, 1).batch == engine.limits["batch"],
        f"{engine.title} must be given a plan for batch 1: assisted generation runs no other",
        got=f"batches {[entry.batch for entry in plan.entries if entry.workload == workload]}",
        fix="Plan again with batch 1 among the batches.",
        error=UnsupportedByEngineError,
    )
    alone = plan.model_copy(update={"entries": (plan.entry(workload, 1),)})
    _, (choice,) = settle(alone, workload, engine, families(alone, workload), nearest=nearest)
    sampling: dict[str, Any] = {"do_sample": True, "temperature": plan.temperature} if plan.temperature > 0 else {}
    return sampling | _drafting(plan, choice.policy)


def families(plan: Plan, workload: str) -> dict[str, Family]:
    """What is run: one family."""
    return {"chain": _runs}


def _runs(policy: Policy, number: int) -> bool:
    looked_up = constant_length(policy) is not None and policy.retrieved is not None and policy.retrieved.min_match == 1
    return looked_up or chain_length(policy) is not None


def _drafting(plan: Plan, policy: Policy) -> dict[str, Any]:
    if policy.retrieved is not None:
        return {
            "prompt_lookup_num_tokens": constant_length(policy),
            "max_matching_ngram_size": engine_format("transformers").limits["longest_ngram"],
        }
    if not (length := chain_length(policy)):
        return {}
    draft_model(plan)
    return {
        "num_assistant_tokens": length,
        "num_assistant_tokens_schedule": "constant",
        "assistant_confidence_threshold": 0.0,
    }
