"""TensorRT-LLM: the ``speculative_config`` of an LLM API options file, as a dictionary that is JSON and so YAML.

Format: decoding configurations of TensorRT-LLM, field list and constraints in ``tensorrt_llm.json``; no field counts
the root.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from optimizer.export.formats import engine_format
from optimizer.export.lengths import chain_length, constant_length, draft_model, drafted_tokens
from optimizer.export.settle import Choice, Family, settle, weighed_policies
from reader_theory.documents.plan import Plan
from reader_theory.documents.policy import Policy
from reader_theory.errors import UnsupportedByEngineError, require

__all__ = ["export_tensorrt_llm", "export_tensorrt_llm_dynamic_tree", "families"]


def export_tensorrt_llm(
    plan: Plan,
    workload: str,
    *,
    decoding_type: str = "Draft_Target",
    max_batch: int | None = None,
    nearest: bool = False,
) -> dict[str, Any]:
    """Speculative configuration of TensorRT-LLM for `workload`.

    ``draft_len_schedule`` maps the *largest* batch of each bucket to its length, its smallest key must hold the
    longest, and batches above its largest key draft nothing.

    Parameters
    ----------
    plan : Plan
    workload : str
    decoding_type : {"Draft_Target", "Eagle3"}
        What the draft model is.
    max_batch : int, optional
        The server's largest batch, to which the last entry reaches; the largest planned one when left out.
    nearest : bool
        Export the nearest that TensorRT-LLM runs where it cannot run the plan.

    Returns
    -------
    dict
        Empty when the plan drafts nothing.

    Raises
    ------
    UnsupportedByEngineError
        If TensorRT-LLM cannot run the plan and `nearest` is false. For a tree see also
        `export_tensorrt_llm_dynamic_tree`.
    """
    engine = engine_format("tensorrt-llm")
    engine.choice("decoding_type", decoding_type, "neural_types")
    family, choices = settle(plan, workload, engine, families(plan, workload), nearest=nearest)
    lengths = [drafted_tokens(choice.policy) for choice in choices]
    if not any(lengths):
        return {}
    if family.startswith("retrieval"):
        config: dict[str, Any] = {"decoding_type": "NGram", "max_matching_ngram_size": engine.limits["longest_ngram"]}
    else:
        config = {"decoding_type": decoding_type, "speculative_model": draft_model(plan)}
    config |= {"max_draft_len": lengths[0], "max_total_draft_tokens": lengths[0]}
    if len(set(lengths)) > 1:
        config["draft_len_schedule"] = _schedule(choices, lengths, max_batch)
    return config


def export_tensorrt_llm_dynamic_tree(
    plan: Plan, workload: str, batch: int, *, decoding_type: str = "Eagle3"
) -> dict[str, Any]:
    """A dynamic tree with the depth, greatest width and node count of the plan's tree.

    TensorRT-LLM grows its own tree within these bounds, so the plan's tokens a step are not a prediction for it.

    Raises
    ------
    UnsupportedByEngineError
        If the entry has no tree, has retrieval, or holds more nodes than topK times depth.
    """
    engine = engine_format("tensorrt-llm")
    engine.choice("decoding_type", decoding_type, "tree_types")
    policy = plan.entry(workload, batch).policy
    tree = policy.tree
    topk = max(len(tree.children(node)) for node in range(len(tree)))
    require(
        policy.kind == "static" and topk > 1 and tree.nodes <= topk * tree.depth,
        f"{engine.title} must be given a fixed tree without retrieval, of at most topK * depth nodes",
        got=f"{policy.name}, {topk} * {tree.depth} = {topk * tree.depth} nodes",
        fix="Export a chain with `export_tensorrt_llm`.",
        error=UnsupportedByEngineError,
    )
    return {
        "decoding_type": decoding_type,
        "speculative_model": draft_model(plan),
        "max_draft_len": tree.depth,
        "max_total_draft_tokens": tree.nodes,
        "use_dynamic_tree": True,
        "dynamic_tree_max_topK": topk,
    }


def families(plan: Plan, workload: str) -> dict[str, Family]:
    """For each length: the one of the smallest batch, which none may exceed. The same for retrieved chains."""
    policies = weighed_policies(plan, workload)
    chains = {length for length in map(chain_length, policies) if length is not None}
    retrieved = {constant_length(p) for p in policies if p.retrieved is not None and p.retrieved.min_match == 1}
    found: dict[str, Family] = {f"chain {k}": partial(_chain_to, k) for k in sorted(chains)}
    return found | {f"retrieval {k}": partial(_retrieval_to, k) for k in sorted(k for k in retrieved if k)}


def _chain_to(longest: int, policy: Policy, number: int) -> bool:
    length = chain_length(policy)
    return length is not None and (length == longest if number == 0 else length <= longest)


def _retrieval_to(longest: int, policy: Policy, number: int) -> bool:
    if policy.retrieved is None:
        return chain_length(policy) == 0 and number > 0
    length = constant_length(policy)
    fits = length is not None and (length == longest if number == 0 else length <= longest)
    return fits and policy.retrieved.min_match == 1


def _schedule(choices: list[Choice], lengths: list[int], max_batch: int | None) -> dict[str, int]:
    ends = [choice.entry.batch for choice in choices]
    require(
        max_batch is None or max_batch >= ends[-1],
        "`max_batch` must be at least the largest planned batch",
        got=f"{max_batch}, planned {ends}",
        fix="Pass the largest batch that the server runs.",
    )
    ends[-1] = max_batch or ends[-1]
    last = [i for i in range(len(ends)) if i + 1 == len(ends) or lengths[i + 1] != lengths[i]]
    return {str(ends[i]): lengths[i] for i in last}
