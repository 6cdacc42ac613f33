"""SGLang: launch flags, and the JSON of ``--speculative-adaptive-config`` where the length follows the batch.

Format: server arguments of SGLang, field list and constraints in ``sglang.json``. Draft tokens count the root there.
"""

from __future__ import annotations

import shlex
from functools import partial
from typing import Any

from optimizer.export.formats import engine_format
from optimizer.export.lengths import chain_length, constant_length, draft_model, drafted_tokens
from optimizer.export.settle import Choice, Family, settle, weighed_policies
from reader_theory.documents.plan import Plan
from reader_theory.documents.policy import Policy
from reader_theory.errors import UnsupportedByEngineError, require

__all__ = ["export_sglang", "export_sglang_dynamic_tree", "families", "reserved_kv_slots", "sglang_flags"]


def export_sglang(
    plan: Plan, workload: str, *, algorithm: str = "STANDALONE", nearest: bool = False
) -> dict[str, dict[str, Any] | None]:
    """Launch flags of SGLang for `workload`, and the adaptive configuration if the length follows the batch.

    The adaptive configuration's keys are the *smallest* batch of each slot, the plan's entries are for the largest:
    slots are shifted accordingly. Each slot holds one length, which pins it.

    Parameters
    ----------
    plan : Plan
    workload : str
    algorithm : {"STANDALONE", "EAGLE", "EAGLE3"}
        What the draft model is. STANDALONE keeps one length at every batch.
    nearest : bool
        Export the nearest that SGLang runs where it cannot run the plan.

    Returns
    -------
    dict
        ``flags`` without their dashes, empty when the plan drafts nothing, and ``adaptive_config``, a document to
        write to the file that ``--speculative-adaptive-config`` names, or None.

    Raises
    ------
    UnsupportedByEngineError
        If SGLang cannot run the plan and `nearest` is false. For a tree see also `export_sglang_dynamic_tree`.
    """
    engine = engine_format("sglang")
    engine.choice("algorithm", algorithm, "neural_algorithms")
    adaptive = algorithm in engine.limits["adaptive_algorithms"]
    able = families(plan, workload, adaptive=adaptive)
    family, choices = settle(plan, workload, engine, able, nearest=nearest)
    lengths = [drafted_tokens(choice.policy) for choice in choices]
    if not any(lengths):
        return {"flags": {}, "adaptive_config": None}
    if family.startswith("retrieval"):
        return {"flags": _ngram_flags(lengths[0]), "adaptive_config": None}
    flags = _neural_flags(algorithm, draft_model(plan), steps=max(lengths), topk=1, nodes=max(lengths))
    if len(set(lengths)) == 1:
        return {"flags": flags, "adaptive_config": None}
    return {"flags": flags | {"speculative-adaptive": True}, "adaptive_config": _slots(choices, lengths)}


def export_sglang_dynamic_tree(
    plan: Plan, workload: str, batch: int, *, algorithm: str = "EAGLE3"
) -> dict[str, dict[str, Any] | None]:
    """Flags for a dynamic tree with the depth, greatest width and node count of the plan's tree.

    SGLang grows its own tree within these bounds by the draft's confidence, so the plan's tokens a step are not a
    prediction for it.

    Raises
    ------
    UnsupportedByEngineError
        If the entry has no tree, has retrieval, or holds more nodes than steps and topk allow.
    """
    engine = engine_format("sglang")
    engine.choice("algorithm", algorithm, "neural_algorithms")
    policy = plan.entry(workload, batch).policy
    tree = policy.tree
    topk = max(len(tree.children(node)) for node in range(len(tree)))
    most = topk + (tree.depth - 1) * topk**2
    require(
        policy.kind == "static" and topk > 1 and tree.nodes <= most,
        f"{engine.title} must be given a fixed tree without retrieval, of at most topk + (steps - 1) topk^2 nodes",
        got=f"{policy.name}, topk {topk}, at most {most} nodes",
        fix="Export a chain with `export_sglang`.",
        error=UnsupportedByEngineError,
    )
    flags = _neural_flags(algorithm, draft_model(plan), steps=tree.depth, topk=topk, nodes=tree.nodes)
    return {"flags": flags, "adaptive_config": None}


def reserved_kv_slots(flags: dict[str, Any]) -> int:
    """KV slots that SGLang reserves for each request's drafts under `flags`."""
    if not flags:
        return 0
    steps, topk = flags.get("speculative-num-steps", 0), flags.get("speculative-eagle-topk", 1)
    factor: int = engine_format("sglang").limits["reserve_factor"]
    return factor * max(steps * topk, flags["speculative-num-draft-tokens"])


def sglang_flags(export: dict[str, dict[str, Any] | None], adaptive_config_path: str = "adaptive.json") -> str:
    """The export as it is typed in a shell; empty when there is nothing to say."""
    flags = dict(export["flags"] or {})
    if export["adaptive_config"] is not None:
        flags["speculative-adaptive-config"] = adaptive_config_path
    words = [f"--{name}" if value is True else f"--{name} {shlex.quote(str(value))}" for name, value in flags.items()]
    return " ".join(words)


def families(plan: Plan, workload: str, *, adaptive: bool = False) -> dict[str, Family]:
    """Chains by batch where the algorithm is adaptive, else one length throughout; retrieved chains of one length."""
    policies = weighed_policies(plan, workload)
    chains = sorted({length for length in map(chain_length, policies) if length is not None})
    found: dict[str, Family] = {f"chain {length}": partial(_is_chain, length) for length in chains}
    if adaptive:
        found = {"chains": lambda policy, number: chain_length(policy) is not None}
    lengths = {constant_length(p) for p in policies if p.retrieved is not None and p.retrieved.min_match == 1}
    return found | {f"retrieval {k}": partial(_is_retrieval, k) for k in sorted(k for k in lengths if k)}


def _is_chain(length: int, policy: Policy, number: int) -> bool:
    return chain_length(policy) == length


def _is_retrieval(length: int, policy: Policy, number: int) -> bool:
    retrieval = policy.retrieved
    return retrieval is not None and retrieval.min_match == 1 and constant_length(policy) == length


def _neural_flags(algorithm: str, draft: str, *, steps: int, topk: int, nodes: int) -> dict[str, Any]:
    return {
        "speculative-algorithm": algorithm,
        "speculative-draft-model-path": draft,
        "speculative-num-steps": steps,
        "speculative-eagle-topk": topk,
        "speculative-num-draft-tokens": nodes + 1,
    }


def _ngram_flags(length: int) -> dict[str, Any]:
    match: int = engine_format("sglang").limits["trie_match_tokens"]
    return {
        "speculative-algorithm": "NGRAM",
        "speculative-num-draft-tokens": length + 1,
        "speculative-ngram-min-bfs-breadth": 1,
        "speculative-ngram-max-bfs-breadth": 1,
        "speculative-ngram-match-type": "BFS",
        "speculative-ngram-max-trie-depth": length + match,
    }


def _slots(choices: list[Choice], lengths: list[int]) -> dict[str, Any]:
    starts = [1, *(choice.entry.batch + 1 for choice in choices[:-1])]
    changed = [i for i, length in enumerate(lengths) if i == 0 or length != lengths[i - 1]]
    return {str(starts[i]): {"candidate_steps": [lengths[i]]} for i in changed}
