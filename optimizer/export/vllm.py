"""vLLM: the JSON of ``--speculative-config``. Chains only; by batch size; one method a server.

Format: `SpeculativeConfig` of vLLM, field list and constraints in ``vllm.json``.
"""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

from optimizer.export.base import EXPORTERS, Exporter, ExportOptions, Settled
from optimizer.export.lengths import (
    LONGEST,
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
from optimizer.export.synthetic import synthetic_note, synthetic_rates
from reader_theory.documents import Chain, PlanEntry, Policy

__all__ = ["Vllm"]

_OWN_WEIGHTS = ("mtp", "dspark")
_BLOCKS = ("dflash", "dspark")


@EXPORTERS.register
class Vllm(Exporter):
    """Speculative configuration of vLLM.

    Entries become inclusive ranges of batches, the last of which reaches to `max_batch`. vLLM's own rejection of a
    greedily drafted chain accepts a token with its target probability, which is what the plan predicts.
    """

    name = "vllm"
    takes = frozenset({"method", "max_batch", "synthetic"})

    def families(self, policies: Iterable[Policy], options: ExportOptions) -> Mapping[str, Family]:
        """One a method, and one a shared parameter of it: the shortest match of ngram; all that suffix is told."""
        self.format.choice("method", options.method or "draft_model", "neural_methods")
        found: dict[str, Family] = {"neural": lambda policy, number: chain_length(policy) is not None}
        for policy in policies:
            if (retrieval := policy.retrieved) is not None and policy.kind == "chain":
                if retrieval.factor > 0:
                    found[f"suffix {retrieval.factor} {retrieval.max_tokens}"] = partial(_suffix, retrieval)
                found[f"ngram {retrieval.min_match}"] = partial(_ngram, retrieval.min_match)
        return found

    def near(self, entry: PlanEntry) -> list[Policy]:
        """suffix with the plan's factor, then ngram of the plan's mean length."""
        retrieved = entry.policy.retrieved
        found: list[Policy] = []
        if retrieved is not None and retrieved.factor > 0:
            found.append(Chain(min_match=1, factor=retrieved.factor, max_tokens=retrieved.max_tokens))
        return [*found, *retrieved_kin(entry, 1 if retrieved is None else retrieved.min_match)]

    def space(self, entry: PlanEntry) -> list[Policy]:
        """Chains of every length, retrieved ones from matches of 1 to 4 on, and suffix by four factors."""
        looked_up = [constant(k, least) for least in (1, 2, 3, 4) for k in LOOKED_UP]
        factors = [(f, k) for f in (0.5, 1.0, 2.0, 4.0) for k in (4, 8, 16, LONGEST)]
        suffix = [Chain(min_match=1, factor=factor, max_tokens=most) for factor, most in factors]
        return [*static_chains(entry), *looked_up, *suffix, *self.near(entry)]

    def write(self, settled: Settled, options: ExportOptions) -> dict[str, Any]:
        """Empty when the plan drafts nothing: leave the flag out."""
        lengths = [drafted_tokens(policy) for policy in settled.policies]
        if not any(lengths):
            return {}
        config: dict[str, Any] = {"num_speculative_tokens": max(lengths)}
        retrieved = [policy.retrieved for policy in settled.policies if policy.retrieved is not None]
        if not retrieved:
            config |= self._neural(settled, options.method or "draft_model")
        elif settled.family.startswith("ngram"):
            config |= self._ngram_fields(max(retrieved, key=lambda retrieval: retrieval.max_tokens))
        else:
            config |= self._suffix_fields(retrieved[0])
        ends = batch_ends(settled.choices, options.max_batch)
        if len(set(lengths)) > 1:
            config["num_speculative_tokens_per_batch_size"] = _ranges(ends, lengths)
        if options.synthetic:
            rates = synthetic_rates(settled.choices)
            config |= {"rejection_sample_method": "synthetic", "synthetic_acceptance_rates": rates}
        return config

    def notes(self, settled: Settled, options: ExportOptions) -> list[str]:
        """What each method needs, and when the schedule by batch is dropped."""
        method = options.method or "draft_model"
        notes = synthetic_note(settled.choices, synthetic_rates(settled.choices)) if options.synthetic else []
        if settled.family.startswith("suffix"):
            notes.append("`suffix` needs a package, pip install arctic-inference==0.1.1, and the first model runner")
        elif settled.family == "neural" and method == "mtp":
            notes.append("above its number of MTP layers, vLLM takes multiples of it alone as num_speculative_tokens")
        elif settled.family == "neural" and method in _BLOCKS:
            notes.append(f"`{method}` drafts its block in one forward, whatever its length: calibrate it as one")
        if len({drafted_tokens(policy) for policy in settled.policies}) > 1:
            dropped = "vLLM drops num_speculative_tokens_per_batch_size under data parallelism"
            also = f", and for `{method}` on the first model runner" if method == "dspark" else ""
            notes.append(f"{dropped}{also}: it then drafts num_speculative_tokens at every batch")
        return notes

    def command_line(self, config: Any, files: Mapping[str, str]) -> str:
        """The flag of ``vllm serve``."""
        return f"vllm serve ... {vllm_flag(config)}" if config else super().command_line(config, files)

    def _neural(self, settled: Settled, method: str) -> dict[str, Any]:
        draft = draft_model(settled.plan)
        bundled = method in _OWN_WEIGHTS and draft == settled.plan.target
        return {"method": method} if bundled else {"method": method, "model": draft}

    def _ngram_fields(self, retrieval: Chain) -> dict[str, Any]:
        longest = max(retrieval.min_match, self.format.limits["longest_ngram"])
        return {"method": "ngram", "prompt_lookup_min": retrieval.min_match, "prompt_lookup_max": longest}

    def _suffix_fields(self, retrieval: Chain) -> dict[str, Any]:
        limits = self.format.limits
        needed = retrieval.max_tokens + math.ceil(retrieval.max_tokens / retrieval.factor)
        return {
            "method": "suffix",
            "suffix_decoding_max_tree_depth": needed,
            "suffix_decoding_max_spec_factor": retrieval.factor,
            "suffix_decoding_min_token_prob": limits["suffix_min_token_prob"],
            "suffix_decoding_max_cached_requests": limits["suffix_max_cached_requests"],
        }


def vllm_flag(config: dict[str, Any]) -> str:
    """`config` as it is typed in a shell; empty when there is nothing to say."""
    return f"--speculative-config {shlex.quote(json.dumps(config))}" if config else ""


def _ngram(min_match: int, policy: Policy, number: int) -> bool:
    if (retrieval := policy.retrieved) is None:
        return chain_length(policy) == 0
    return constant_length(policy) is not None and retrieval.min_match == min_match


def _suffix(wanted: Chain, policy: Policy, number: int) -> bool:
    """The same at every batch: the model runner that has `suffix` drops a schedule, so nothing is off either."""
    if policy.kind != "chain" or policy.min_match != 1 or policy.offset != 0:
        return False
    return policy.factor == wanted.factor and policy.max_tokens == wanted.max_tokens


def _ranges(ends: list[int], lengths: list[int]) -> list[list[int]]:
    starts = [1, *(end + 1 for end in ends[:-1])]
    ranges: list[list[int]] = []
    for start, end, length in zip(starts, ends, lengths, strict=True):
        if ranges and ranges[-1][2] == length:
            ranges[-1][1] = end
        else:
            ranges.append([start, end, length])
    return ranges
