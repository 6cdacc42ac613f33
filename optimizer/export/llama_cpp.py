"""llama.cpp: flags of ``llama-server``. One chain for all batches.

Format: arguments of llama.cpp, field list and constraints in ``llama.cpp.json``.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

from optimizer.export.base import EXPORTERS, Exporter, ExportOptions, Settled
from optimizer.export.lengths import (
    LOOKED_UP,
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

__all__ = ["LlamaCpp"]


@EXPORTERS.register
class LlamaCpp(Exporter):
    """Flags without their dashes, empty when the plan drafts nothing.

    A draft model alone drafts nothing: the type of speculation is said as well, ``draft-simple`` unless `method` says.
    A draft is cut neither by its own probability nor to a least length, so that every step drafts what the plan says.
    """

    name = "llama.cpp"
    takes = frozenset({"method", "synthetic"})
    one_entry = True

    def families(self, policies: Iterable[Policy], options: ExportOptions) -> Mapping[str, Family]:
        """Chains of one length throughout; looked-up ones of one length and shortest match."""
        found: dict[str, Family] = {}
        for policy in policies:
            if (length := chain_length(policy)) is not None:
                found[f"chain {length}"] = partial(_is_chain, length)
            elif (retrieved := policy.retrieved) is not None and constant_length(policy) is not None:
                found[f"ngram {retrieved.min_match} {constant_length(policy)}"] = partial(_is_same, retrieved)
        return found

    def near(self, entry: PlanEntry) -> list[Policy]:
        """ngram-simple of the plan's mean length."""
        retrieved = entry.policy.retrieved
        return [*retrieved_kin(entry, 1 if retrieved is None else retrieved.min_match)]

    def space(self, entry: PlanEntry) -> list[Policy]:
        """Chains of every length, and looked-up ones."""
        return [*static_chains(entry), *map(constant, LOOKED_UP), *self.near(entry)]

    def write(self, settled: Settled, options: ExportOptions) -> dict[str, Any]:
        """Flags of the one chain."""
        policy = settled.policies[0]
        length = drafted_tokens(policy)
        if not length:
            return {}
        synthetic: dict[str, Any] = {}
        if options.synthetic:
            synthetic["spec-synth-rates"] = ",".join(f"{rate:.6g}" for rate in synthetic_rates(settled.choices))
        if (retrieved := policy.retrieved) is not None:
            return {"spec-type": "ngram-simple", "spec-ngram-simple-size-n": retrieved.min_match,
                    "spec-ngram-simple-size-m": length}  # fmt: skip
        method = self.format.choice("method", options.method or "draft-simple", "methods")
        return {"spec-type": method, "spec-draft-model": draft_model(settled.plan), "spec-draft-n-max": length,
                "spec-draft-n-min": 0, "spec-draft-p-min": 0.0, **synthetic}  # fmt: skip

    def notes(self, settled: Settled, options: ExportOptions) -> list[str]:
        """What it takes for a model."""
        if settled.policies[0].retrieved is not None:
            return []
        synthetic = synthetic_note(settled.choices, synthetic_rates(settled.choices)) if options.synthetic else []
        return ["--spec-draft-model takes a GGUF file: convert the draft first", *synthetic]

    def command_line(self, config: Any, files: Mapping[str, str]) -> str:
        """The server's command."""
        if not config:
            return super().command_line(config, files)
        return "llama-server ... " + " ".join(f"--{name} {shlex.quote(str(value))}" for name, value in config.items())


def _is_chain(length: int, policy: Policy, number: int) -> bool:
    return chain_length(policy) == length


def _is_same(wanted: Chain, policy: Policy, number: int) -> bool:
    retrieved = policy.retrieved
    same = retrieved is not None and retrieved.min_match == wanted.min_match
    return same and constant_length(policy) == constant_length(wanted)
