"""TensorRT-LLM: the ``speculative_config`` of an LLM API options file, as a dictionary that is JSON and so YAML.

Format: decoding configurations of TensorRT-LLM, field list and constraints in ``tensorrt_llm.json``; no field counts
the root.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

from optimizer.export.base import EXPORTERS, Exporter, ExportOptions, Settled
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
from optimizer.export.settle import Family
from reader_theory.documents import Plan, PlanEntry, Policy, Static, Union
from reader_theory.errors import UnsupportedByEngineError, require
from reader_theory.trees.tree import TokenTree

__all__ = ["TensorRtLlm"]

_RETRIEVED = ("NGram", "SA")


@EXPORTERS.register
class TensorRtLlm(Exporter):
    """Speculative configuration of TensorRT-LLM, empty when the plan drafts nothing.

    ``draft_len_schedule`` maps the *largest* batch of each bucket to its length, its smallest key must hold the
    longest, and batches above its largest key draft nothing. A suffix automaton beside a neural chain (``sa_config``)
    is a union whose draft rests at long matches.
    """

    name = "tensorrt-llm"
    takes = frozenset({"method", "max_batch", "dynamic_tree"})

    def families(self, policies: Iterable[Policy], options: ExportOptions) -> Mapping[str, Family]:
        """For each length: that of the smallest batch, which none may exceed; with an automaton, for each threshold."""
        method = self._method(options)
        every = list(policies)
        found: dict[str, Family] = {}
        if method in self.format.limits["automaton_types"]:
            for policy in every:
                if (told := _automaton(policy)) is not None:
                    found[f"automaton {told}"] = partial(_automaton_to, told)
        chains = {length for length in map(chain_length, every) if length is not None}
        looked_up = {constant_length(p) for p in every if p.retrieved is not None and p.retrieved.min_match == 1}
        found |= {f"chain {k}": partial(_chain_to, k) for k in sorted(chains)}
        return found | {f"retrieval {k}": partial(_retrieval_to, k) for k in sorted(k for k in looked_up if k)}

    def near(self, entry: PlanEntry) -> list[Policy]:
        """The plan's chain with an automaton for its retrieval, then a retrieved chain of its mean length."""
        return [*_unions(entry.policy), *retrieved_kin(entry)]

    def space(self, entry: PlanEntry) -> list[Policy]:
        """Chains of every length, with an automaton from matches of 2 to 8 on or without, and retrieved ones."""
        chains = static_chains(entry)
        unions = [_with_automaton(chain, t) for chain in chains if chain.kind == "static" for t in (2, 4, 8)]
        looked_up = map(constant, LOOKED_UP)
        return [*chains, *looked_up, *(unions if entry.policy.retrieved else []), *self.near(entry)]

    def write(self, settled: Settled, options: ExportOptions) -> dict[str, Any]:
        """A decoding configuration by its type."""
        lengths = [drafted_tokens(policy) for policy in settled.policies]
        ends = batch_ends(settled.choices, options.max_batch)
        if not any(lengths):
            return {}
        config = self._retrieved(options) if settled.family.startswith("retrieval") else self._neural(settled, options)
        config |= {"max_draft_len": lengths[0], "max_total_draft_tokens": lengths[0]}
        if len(set(lengths)) > 1:
            config["draft_len_schedule"] = _schedule(ends, lengths)
        return config

    def notes(self, settled: Settled, options: ExportOptions) -> list[str]:
        """Defaults that a plan departs from, and what cannot be had together."""
        method, notes = self._method(options), list[str]()
        if settled.family.startswith("retrieval") and options.method != "SA":
            notes.append(
                "NGram takes the oldest match of a pool that all requests share, of at most two tokens, unless told: "
                "this configuration takes the newest of each request's own; it needs disable_overlap_scheduler: true"
            )
        if settled.family.startswith("automaton"):
            notes.append(
                "with sa_config TensorRT-LLM switches rejection sampling off: sampled drafts are matched instead"
            )
        if settled.family.startswith("chain") and method in ("PARD", "DFlash"):
            notes.append(f"{method} drafts its block in one forward, whatever its length: calibrate it as one")
        return notes

    def dynamic_tree(self, plan: Plan, workload: str, options: ExportOptions) -> dict[str, Any]:
        """A dynamic tree with the depth, greatest width and node count of the plan's tree.

        Raises
        ------
        UnsupportedByEngineError
            If the entry has no tree, has retrieval, or holds more nodes than topK times depth.
        """
        method = self.format.choice("decoding_type", options.method or "Eagle3", "tree_types")
        policy = plan.entry(workload, options.batch).policy
        tree = policy.tree
        topk = max(len(tree.children(node)) for node in range(len(tree)))
        require(
            policy.kind == "static" and topk > 1 and tree.nodes <= topk * tree.depth,
            f"{self.format.title} must be given a fixed tree without retrieval, of at most topK * depth nodes",
            got=f"{policy.name}, {topk} * {tree.depth} = {topk * tree.depth} nodes",
            fix="Export a chain, without `--dynamic-tree`.",
            error=UnsupportedByEngineError,
        )
        return {
            "decoding_type": method,
            "speculative_model": draft_model(plan),
            "max_draft_len": tree.depth,
            "max_total_draft_tokens": tree.nodes,
            "use_dynamic_tree": True,
            "dynamic_tree_max_topK": topk,
        }

    def command_line(self, config: Any, files: Mapping[str, str]) -> str:
        """Where the configuration goes."""
        if not config:
            return super().command_line(config, files)
        return f"speculative_config: in the file of trtllm-serve --config, the content of {files['.json']}"

    def _method(self, options: ExportOptions) -> str:
        """Type of a neural draft; Draft_Target beside a method of retrieval."""
        if options.method in _RETRIEVED:
            return "Draft_Target"
        return self.format.choice("decoding_type", options.method or "Draft_Target", "neural_types")

    def _retrieved(self, options: ExportOptions) -> dict[str, Any]:
        if options.method == "SA":
            return {"decoding_type": "SA"}
        return {
            "decoding_type": "NGram",
            "max_matching_ngram_size": self.format.limits["longest_ngram"],
            "is_keep_all": True,
            "is_use_oldest": False,
            "is_public_pool": False,
        }

    def _neural(self, settled: Settled, options: ExportOptions) -> dict[str, Any]:
        method = self._method(options)
        bundled = method == "MTP"
        config: dict[str, Any] = {"decoding_type": method}
        config |= {} if bundled else {"speculative_model": draft_model(settled.plan)}
        if settled.family.startswith("automaton"):
            told = next(t for policy in settled.policies if (t := _automaton(policy)) is not None)
            config["sa_config"] = {"threshold": told}
        return config


def _chain_to(longest: int, policy: Policy, number: int) -> bool:
    length = chain_length(policy)
    return length is not None and (length == longest if number == 0 else length <= longest)


def _retrieval_to(longest: int, policy: Policy, number: int) -> bool:
    if policy.retrieved is None:
        return chain_length(policy) == 0 and number > 0
    length = constant_length(policy)
    fits = length is not None and (length == longest if number == 0 else length <= longest)
    return fits and policy.retrieved.min_match == 1


def _automaton_to(threshold: int, policy: Policy, number: int) -> bool:
    """One length throughout: what the automaton offers is as long as the chain."""
    return _automaton(policy) == threshold


def _automaton(policy: Policy) -> int | None:
    """Match from which an automaton's chain takes the place of the draft's, of one length; None for anything else."""
    if policy.kind != "union":
        return None
    length, chain = chain_length(policy.static), policy.chain
    alike = length is not None and constant_length(chain) == length and policy.skip_at_match == chain.min_match
    return chain.min_match if alike else None


def _with_automaton(static: Static, threshold: int) -> Union:
    length = static.most_nodes
    return Union(static=static, chain=constant(length, threshold), skip_at_match=threshold)


def _unions(policy: Policy) -> list[Policy]:
    if policy.kind != "union":
        return []
    spine = Static.of(TokenTree.chain(policy.static.tree.depth), policy.static.drafter)
    return [_with_automaton(spine, policy.skip_at_match or policy.chain.min_match)]


def _schedule(ends: list[int], lengths: list[int]) -> dict[str, int]:
    last = [i for i in range(len(ends)) if i + 1 == len(ends) or lengths[i + 1] != lengths[i]]
    return {str(ends[i]): lengths[i] for i in last}
