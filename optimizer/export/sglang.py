"""SGLang: launch flags, and the JSON of ``--speculative-adaptive-config`` where the length follows the batch.

Format: server arguments of SGLang, field list and constraints in ``sglang.json``. Draft tokens count the root there.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

from optimizer.export.base import EXPORTERS, Exporter, ExportOptions, Settled
from optimizer.export.formats import engine_format
from optimizer.export.lengths import (
    LOOKED_UP,
    batch_ends,
    chain_length,
    constant,
    constant_length,
    draft_model,
    drafted_tokens,
    retrieved_kin,
    static_chains,
)
from optimizer.export.settle import Choice, Family
from reader_theory.documents import Plan, PlanEntry, Policy
from reader_theory.errors import UnsupportedByEngineError, require

__all__ = ["Sglang", "reserved_kv_slots"]

_BLOCKS = ("DFLASH", "DSPARK")


@EXPORTERS.register
class Sglang(Exporter):
    """Launch flags of SGLang, and the adaptive configuration if the length follows the batch.

    The configuration is ``flags`` without their dashes, empty when the plan drafts nothing, and ``adaptive_config``, a
    document to write to the file that ``--speculative-adaptive-config`` names, or None. Its keys are the *smallest*
    batch of each slot, the plan's entries are for the largest: slots are shifted accordingly. Each slot holds one
    length, which pins it. STANDALONE, DFLASH and DSPARK keep one length at every batch.
    """

    name = "sglang"
    takes = frozenset({"method", "max_batch", "dynamic_tree"})

    def families(self, policies: Iterable[Policy], options: ExportOptions) -> Mapping[str, Family]:
        """Chains by batch where the algorithm is adaptive, else one length throughout; retrieved chains of one."""
        algorithm = self.format.choice("algorithm", options.method or "STANDALONE", "neural_algorithms")
        every = list(policies)
        lengths = {length for policy in every if (length := chain_length(policy)) is not None}
        found: dict[str, Family] = {f"chain {k}": partial(_is_chain, k) for k in sorted(lengths)}
        if algorithm in self.format.limits["adaptive_algorithms"]:
            found = {"chains": lambda policy, number: chain_length(policy) is not None}
        looked_up = {constant_length(p) for p in every if p.retrieved is not None and p.retrieved.min_match == 1}
        return found | {f"retrieval {k}": partial(_is_retrieval, k) for k in sorted(k for k in looked_up if k)}

    def near(self, entry: PlanEntry) -> list[Policy]:
        """NGRAM of the plan's mean length."""
        return [*retrieved_kin(entry)]

    def space(self, entry: PlanEntry) -> list[Policy]:
        """Chains of every length, and retrieved ones of one length."""
        return [*static_chains(entry), *map(constant, LOOKED_UP), *self.near(entry)]

    def write(self, settled: Settled, options: ExportOptions) -> dict[str, Any]:
        """Flags, and the adaptive configuration or None."""
        lengths = [drafted_tokens(policy) for policy in settled.policies]
        batch_ends(settled.choices, options.max_batch)
        if not any(lengths):
            return {"flags": {}, "adaptive_config": None}
        running = {} if options.max_batch is None else {"max-running-requests": options.max_batch}
        if settled.family.startswith("retrieval"):
            return {"flags": self._ngram_flags(lengths[0]) | running, "adaptive_config": None}
        longest, algorithm = max(lengths), options.method or "STANDALONE"
        flags = _neural_flags(algorithm, draft_model(settled.plan), steps=longest, topk=1, nodes=longest) | running
        if len(set(lengths)) == 1:
            return {"flags": flags, "adaptive_config": None}
        return {"flags": flags | {"speculative-adaptive": True}, "adaptive_config": _slots(settled.choices, lengths)}

    def notes(self, settled: Settled, options: ExportOptions) -> list[str]:
        """Its cap on running requests, and when it drops the lengths by batch."""
        most = self.format.limits["running_requests"]
        notes: list[str] = []
        if options.max_batch is None:
            notes.append(
                f"SGLang caps running requests at {most} when it speculates: give --max-batch, which becomes "
                "--max-running-requests, to serve more at once"
            )
        if settled.family == "chains" and len({drafted_tokens(policy) for policy in settled.policies}) > 1:
            notes.append(
                "SGLang drops --speculative-adaptive, and drafts the longest at every batch, under attention data "
                "parallelism, two-batch overlap, multi-layer EAGLE and PD multiplexing"
            )
        if settled.family.startswith("retrieval"):
            notes.append("NGRAM switches mixed chunked prefill off, and does not run under attention data parallelism")
        if settled.family.startswith("chain") and options.method in _BLOCKS:
            notes.append(f"{options.method} drafts its block in one forward, whatever its length: calibrate it as one")
        return notes

    def dynamic_tree(self, plan: Plan, workload: str, options: ExportOptions) -> dict[str, Any]:
        """Flags for a dynamic tree with the depth, greatest width and node count of the plan's tree.

        Raises
        ------
        UnsupportedByEngineError
            If the entry has no tree, has retrieval, or holds more nodes than steps and topk allow.
        """
        algorithm = self.format.choice("algorithm", options.method or "EAGLE3", "tree_algorithms")
        policy = plan.entry(workload, options.batch).policy
        tree = policy.tree
        topk = max(len(tree.children(node)) for node in range(len(tree)))
        most = topk + (tree.depth - 1) * topk**2
        require(
            policy.kind == "static" and topk > 1 and tree.nodes <= most,
            f"{self.format.title} must be given a fixed tree without retrieval, of at most topk + (steps - 1) topk^2 "
            "nodes",
            got=f"{policy.name}, topk {topk}, at most {most} nodes",
            fix="Export a chain, without `--dynamic-tree`.",
            error=UnsupportedByEngineError,
        )
        flags = _neural_flags(algorithm, draft_model(plan), steps=tree.depth, topk=topk, nodes=tree.nodes)
        running = {} if options.max_batch is None else {"max-running-requests": options.max_batch}
        return {"flags": flags | running, "adaptive_config": None}

    def files(self, config: Any) -> dict[str, Any]:
        """The flags, and beside them the adaptive configuration that they name."""
        beside = {} if config["adaptive_config"] is None else {".adaptive.json": config["adaptive_config"]}
        return {".json": config["flags"]} | beside

    def command_line(self, config: Any, files: Mapping[str, str]) -> str:
        """The launch command."""
        if not config["flags"]:
            return super().command_line({}, files)
        return f"python -m sglang.launch_server ... {sglang_flags(config, files.get('.adaptive.json', ''))}"

    def _ngram_flags(self, length: int) -> dict[str, Any]:
        return {
            "speculative-algorithm": "NGRAM",
            "speculative-num-draft-tokens": length + 1,
            "speculative-ngram-min-bfs-breadth": 1,
            "speculative-ngram-max-bfs-breadth": 1,
            "speculative-ngram-match-type": "BFS",
            "speculative-ngram-max-trie-depth": length + self.format.limits["trie_match_tokens"],
        }


def reserved_kv_slots(flags: dict[str, Any]) -> int:
    """KV slots that SGLang reserves for each request's drafts under `flags`."""
    if not flags:
        return 0
    steps, topk = flags.get("speculative-num-steps", 0), flags.get("speculative-eagle-topk", 1)
    factor: int = engine_format("sglang").limits["reserve_factor"]
    return factor * max(steps * topk, flags["speculative-num-draft-tokens"])


def sglang_flags(export: dict[str, Any], adaptive_config_path: str = "adaptive.json") -> str:
    """The export as it is typed in a shell; empty when there is nothing to say."""
    flags = dict(export["flags"] or {})
    if export["adaptive_config"] is not None:
        flags["speculative-adaptive-config"] = adaptive_config_path
    words = [f"--{name}" if value is True else f"--{name} {shlex.quote(str(value))}" for name, value in flags.items()]
    return " ".join(words)


def _is_chain(length: int, policy: Policy, number: int) -> bool:
    return chain_length(policy) == length


def _is_retrieval(length: int, policy: Policy, number: int) -> bool:
    retrieval = policy.retrieved
    return retrieval is not None and retrieval.min_match == 1 and constant_length(policy) == length


def _neural_flags(algorithm: str, draft: str, *, steps: int, topk: int, nodes: int) -> dict[str, Any]:
    """Flags of a draft model; one that drafts a block in one forward takes one step, however long its block."""
    return {
        "speculative-algorithm": algorithm,
        "speculative-draft-model-path": draft,
        "speculative-num-steps": 1 if algorithm in _BLOCKS else steps,
        "speculative-eagle-topk": topk,
        "speculative-num-draft-tokens": nodes + 1,
    }


def _slots(choices: tuple[Choice, ...], lengths: list[int]) -> dict[str, Any]:
    starts = [1, *(choice.entry.batch + 1 for choice in choices[:-1])]
    changed = [i for i, length in enumerate(lengths) if i == 0 or length != lengths[i - 1]]
    return {str(starts[i]): {"candidate_steps": [lengths[i]]} for i in changed}
