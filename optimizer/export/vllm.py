"""vLLM: the JSON of ``--speculative-config``. Chains only; by batch size; one method a server.

Format: `SpeculativeConfig` of vLLM, field list and constraints in ``vllm.json``.
"""

from __future__ import annotations

import json
import math
import shlex
from functools import partial
from typing import Any

from optimizer.export.formats import engine_format
from optimizer.export.lengths import chain_length, constant_length, draft_model, drafted_tokens
from optimizer.export.settle import Choice, Family, settle, weighed_policies
from reader_theory.documents.plan import Plan
from reader_theory.documents.policy import Chain, Policy
from reader_theory.errors import require

__all__ = ["export_vllm", "families", "vllm_flag"]


def export_vllm(
    plan: Plan, workload: str, *, method: str = "draft_model", max_batch: int | None = None, nearest: bool = False
) -> dict[str, Any]:
    """Speculative configuration of vLLM for `workload`.

    The plan's entry for the smallest planned batch >= b serves a batch of b, so entries become inclusive ranges; the
    last one reaches to `max_batch`. vLLM's own rejection of a greedily drafted chain accepts a token with its target
    probability, which is what the plan predicts.

    Parameters
    ----------
    plan : Plan
    workload : str
    method : str
        How the server runs the draft model: ``"draft_model"``, ``"eagle3"``, ...
    max_batch : int, optional
        The server's largest batch; the largest planned one when left out.
    nearest : bool
        Export the nearest that vLLM runs where it cannot run the plan.

    Returns
    -------
    dict
        Empty when the plan drafts nothing: leave the flag out.

    Raises
    ------
    UnsupportedByEngineError
        If vLLM cannot run the plan and `nearest` is false.
    """
    engine = engine_format("vllm")
    engine.choice("method", method, "neural_methods")
    family, choices = settle(plan, workload, engine, families(plan, workload), nearest=nearest)
    lengths = [drafted_tokens(choice.policy) for choice in choices]
    if not any(lengths):
        return {}
    config: dict[str, Any] = {"num_speculative_tokens": max(lengths)}
    if family == "neural":
        config |= {"method": method, "model": draft_model(plan)}
    else:
        retrieved = [choice.policy.retrieved for choice in choices if choice.policy.retrieved is not None]
        longest = max(retrieved, key=lambda retrieval: retrieval.max_tokens)
        config |= _ngram_fields(longest) if family.startswith("ngram") else _suffix_fields(longest)
    if len(set(lengths)) > 1:
        config["num_speculative_tokens_per_batch_size"] = _ranges(choices, lengths, max_batch)
    return config


def vllm_flag(config: dict[str, Any]) -> str:
    """`config` as it is typed in a shell; empty when there is nothing to say."""
    return f"--speculative-config {shlex.quote(json.dumps(config))}" if config else ""


def families(plan: Plan, workload: str) -> dict[str, Family]:
    """One a method, and one a shared parameter of it: the shortest match of ngram, the factor of suffix."""
    found: dict[str, Family] = {"neural": lambda policy, number: chain_length(policy) is not None}
    for policy in weighed_policies(plan, workload):
        if (retrieval := policy.retrieved) is not None:
            found[f"ngram {retrieval.min_match}"] = partial(_ngram, retrieval.min_match)
            found[f"suffix {retrieval.factor}"] = partial(_suffix, retrieval.factor)
    return found


def _ngram(min_match: int, policy: Policy, number: int) -> bool:
    if (retrieval := policy.retrieved) is None:
        return chain_length(policy) == 0
    return constant_length(policy) is not None and retrieval.min_match == min_match


def _suffix(factor: float, policy: Policy, number: int) -> bool:
    if (retrieval := policy.retrieved) is None or policy.fixed:
        return chain_length(policy) == 0
    return retrieval.min_match == 1 and retrieval.offset == 0 and retrieval.factor == factor > 0


def _ngram_fields(retrieval: Chain) -> dict[str, Any]:
    longest = max(retrieval.min_match, engine_format("vllm").limits["longest_ngram"])
    return {"method": "ngram", "prompt_lookup_min": retrieval.min_match, "prompt_lookup_max": longest}


def _suffix_fields(retrieval: Chain) -> dict[str, Any]:
    limits = engine_format("vllm").limits
    needed = retrieval.max_tokens + math.ceil(retrieval.max_tokens / retrieval.factor)
    return {
        "method": "suffix",
        "suffix_decoding_max_tree_depth": needed,
        "suffix_decoding_max_spec_factor": retrieval.factor,
        "suffix_decoding_min_token_prob": limits["suffix_min_token_prob"],
        "suffix_decoding_max_cached_requests": limits["suffix_max_cached_requests"],
    }


def _ranges(choices: list[Choice], lengths: list[int], max_batch: int | None) -> list[list[int]]:
    ends = [choice.entry.batch for choice in choices]
    require(
        max_batch is None or max_batch >= ends[-1],
        "`max_batch` must be at least the largest planned batch",
        got=f"{max_batch}, planned {ends}",
        fix="Pass the largest batch that the server runs.",
    )
    ends[-1] = max_batch or ends[-1]
    starts = [1, *(end + 1 for end in ends[:-1])]
    ranges: list[list[int]] = []
    for start, end, length in zip(starts, ends, lengths, strict=True):
        if ranges and ranges[-1][2] == length:
            ranges[-1][1] = end
        else:
            ranges.append([start, end, length])
    return ranges
