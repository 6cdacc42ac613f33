"""transformers: fields of `GenerationConfig` for assisted generation. Chains only, batch 1 only.

Format: `transformers.GenerationConfig`, field list and constraints in ``transformers.json``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from optimizer.export.base import EXPORTERS, Exporter, ExportOptions, Settled
from optimizer.export.lengths import (
    LOOKED_UP,
    chain_length,
    constant,
    constant_length,
    draft_model,
    retrieved_kin,
    static_chains,
)
from optimizer.export.settle import Family
from reader_theory.documents import Plan, PlanEntry, Policy
from reader_theory.errors import UnsupportedByEngineError, require

__all__ = ["Transformers"]


@EXPORTERS.register
class Transformers(Exporter):
    """Generation configuration for the plan's entry at batch 1, for ``GenerationConfig(**export)``.

    A chain also needs the draft itself: pass it to `generate` as ``assistant_model``, and give *its* generation
    configuration the same fields, because that is where transformers looks for them. The schedule is held constant and
    the confidence threshold at 0, so that every step drafts what the plan says. Empty, or sampling alone, when the plan
    drafts nothing.
    """

    name = "transformers"
    one_entry = True

    def families(self, policies: Iterable[Policy], options: ExportOptions) -> Mapping[str, Family]:
        """What is run: one family."""
        return {"chain": self._runs}

    def near(self, entry: PlanEntry) -> list[Policy]:
        """Prompt lookup of the plan's mean length."""
        return [*retrieved_kin(entry)]

    def space(self, entry: PlanEntry) -> list[Policy]:
        """Chains of every length, and looked-up ones."""
        return [*static_chains(entry), *map(constant, LOOKED_UP), *self.near(entry)]

    def write(self, settled: Settled, options: ExportOptions) -> dict[str, Any]:
        """Sampling as planned, and the drafting."""
        plan = settled.plan
        sampling: dict[str, Any] = {"do_sample": True, "temperature": plan.temperature} if plan.temperature > 0 else {}
        return sampling | self._drafting(plan, settled.policies[0])

    def notes(self, settled: Settled, options: ExportOptions) -> list[str]:
        """How look-ups choose among matches."""
        if settled.policies[0].retrieved is None:
            return []
        return ["prompt lookup takes the oldest match, where the plan takes the newest: tokens a step may be fewer"]

    def command_line(self, config: Any, files: Mapping[str, str]) -> str:
        """How the file becomes a configuration."""
        if not config:
            return super().command_line(config, files)
        return f"GenerationConfig(**json.load(open({files['.json']!r}))), for the model and for its assistant"

    def _runs(self, policy: Policy, number: int) -> bool:
        looked_up = policy.retrieved is not None and policy.retrieved.min_match == 1
        return (looked_up and constant_length(policy) is not None) or chain_length(policy) is not None

    def _drafting(self, plan: Plan, policy: Policy) -> dict[str, Any]:
        if policy.retrieved is not None:
            return {
                "prompt_lookup_num_tokens": constant_length(policy),
                "max_matching_ngram_size": self.format.limits["longest_ngram"],
            }
        if not (length := chain_length(policy)):
            return {}
        draft_model(plan)
        return {
            "num_assistant_tokens": length,
            "num_assistant_tokens_schedule": "constant",
            "assistant_confidence_threshold": 0.0,
        }

    def check(self, plan: Plan, workload: str) -> None:
        """Refuse a plan without an entry for batch 1."""
        require(
            plan.entry(workload, 1).batch == self.format.limits["batch"],
            f"{self.format.title} must be given a plan for batch 1: assisted generation runs no other",
            got=f"batches {[entry.batch for entry in plan.entries if entry.workload == workload]}",
            fix="Plan again with batch 1 among the batches.",
            error=UnsupportedByEngineError,
        )
