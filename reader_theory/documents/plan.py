"""Plan: what to draft for each workload and batch, with what it predicts, how sure it is, and how far from the best."""

from __future__ import annotations

import math
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from reader_theory.documents.base import Document, Frozen
from reader_theory.documents.cost import Reference
from reader_theory.documents.judge import Judged
from reader_theory.documents.policy import DRAFT, Policy
from reader_theory.errors import DocumentError, InvalidInputError, require
from reader_theory.estimate import Estimate

__all__ = ["JUDGED", "RISK", "Candidate", "Plan", "PlanEntry", "Prediction"]

JUDGED = "judge_lossy"
"""The rule that a plan names when it has a judge."""
RISK = 0.1
"""Greatest chance of being no faster than plain decoding that is taken where nobody says another."""


class Prediction(Frozen):
    """What the plan says will be measured. Every number is predicted."""

    tokens_per_step: Estimate
    step_s: Estimate
    tokens_per_s: Estimate
    speed_up: Estimate = Field(description="over plain decoding at the same batch on the same engine")
    nodes_per_step: float = Field(description="mean verified draft nodes a row and step")
    terms_s: dict[str, float] = Field(description="mean seconds a step of each named term")
    accepted: tuple[float, ...] = Field(
        default=(), description="share of a row's steps that accept 1, 2, ... tokens or more; empty where not known"
    )


class Candidate(Frozen):
    """One policy that was weighed, and what it was predicted to give."""

    policy: Policy
    tokens_per_step: float
    tokens_per_s: float
    spread: float = Field(
        default=0.0, ge=0, description="standard error of `tokens_per_s` over it, from document to document"
    )
    accepted: tuple[float, ...] = Field(
        default=(), description="share of a row's steps that accept 1, 2, ... tokens or more; empty where not known"
    )


class PlanEntry(Frozen):
    """The choice for one workload and batch."""

    workload: str
    batch: int = Field(ge=1)
    context_tokens: int | None = Field(
        default=None, ge=1, description="mean context, in tokens a row, up to which the entry is meant; None for any"
    )
    policy: Policy
    prediction: Prediction
    price: float = Field(ge=0, description="tokens that one more verified node must bring to pay for its time")
    upper_bound_tokens_per_s: float = Field(description="no policy of the searched family was predicted above this")
    gap: float = Field(ge=0, description="certified gap of the best neural tree under the fit; 0 without a draft")
    solver: str
    certified: bool = Field(
        description="whether the independent certificate of that tree stands, under a cost that was measured there"
    )
    certifies: str = Field(default="", description="what was proved of this entry, and what was only compared")
    loss_chance: float = Field(
        default=0.0, ge=0, le=1, description="chance that the policy is no faster than plain decoding, off's own is 0"
    )
    extrapolated: dict[str, float] = Field(
        default_factory=dict[str, float],
        description="how many times beyond the measured batch, tokens or context the cost was asked: never certified",
    )
    binding: tuple[str, ...] = Field(
        default=(), description="limits of the search that the policy stops at: a wider one may gain"
    )
    candidates: tuple[Candidate, ...]
    alternatives: dict[str, Candidate] = Field(
        default_factory=dict[str, Candidate],
        description="by drafter, and off: the best policy that it drafts in, chosen or not",
    )


class Plan(Document):
    """The document that `plan` writes and an engine runs; validation needs nothing but it and a RunRecord."""

    newest: ClassVar[int] = 3
    oldest: ClassVar[int] = 2
    made_by: ClassVar[str] = "reader plan"
    kind: Literal["plan"] = "plan"
    schema_version: int = 3
    target: str
    kv: str = Field(default="plain", description="cache of the target, as `--kv` names it")
    drafters: dict[str, str | None] = Field(description="what each drafter runs, by name; None for look-ups")
    device: str
    dtype: str
    temperature: float
    verification: str = Field(description="rule that the prediction is for: greedy, target_only, or judge_lossy")
    fit: str = Field(description="fingerprint of the AcceptanceFit")
    cost: str = Field(description="fingerprint of the Cost")
    prompts_per_workload: int = Field(
        description="prompts that the prediction's interval allows for in the measurement"
    )
    new_tokens: int
    reference: Reference | None = Field(
        default=None, description="the fixed step whose pace all predicted seconds are stated at"
    )
    risk: float = Field(
        default=RISK, ge=0, le=1, description="greatest chance of being no faster than plain decoding that is taken"
    )
    notes: tuple[str, ...] = Field(default=(), description="what is assumed, and where it comes from")
    judged: Judged | None = Field(
        default=None, exclude_if=lambda each: each is None, description="LOSSY: the judge, where a plan has one"
    )
    entries: tuple[PlanEntry, ...]

    @model_validator(mode="after")
    def _named(self) -> Self:
        require(
            (self.verification == JUDGED) == (self.judged is not None),
            f"a plan must be verified by {JUDGED} where it has a judge, and nowhere else",
            got=f"{self.verification}, {'a' if self.judged else 'no'} judge",
            fix="Plan again: `reader plan CURVE COST --quality-budget POINTS` makes the plans with a judge.",
            error=DocumentError,
        )
        return self

    @property
    def draft(self) -> str | None:
        """The model behind the drafter called "draft"."""
        return self.drafters.get(DRAFT)

    @property
    def workloads(self) -> tuple[str, ...]:
        """Workloads that the plan has entries for, in order."""
        return tuple(dict.fromkeys(entry.workload for entry in self.entries))

    def entry(self, workload: str, batch: int, context_tokens: float = 0.0) -> PlanEntry:
        """The entry of `workload` for the smallest planned batch >= `batch`, or the largest there is.

        Where the plan tells contexts apart, only entries of the smallest planned context >= `context_tokens` (or the
        largest there is) are looked at.

        Raises
        ------
        InvalidInputError
            If the plan knows no such workload.
        """
        known = [entry for entry in self.entries if entry.workload == workload]
        require(
            bool(known),
            "`workload` must be one the plan was made for",
            got=f"{workload!r}; the plan has {list(self.workloads)}",
            fix="Choose one of these, or plan again from a trace that records this workload.",
            error=InvalidInputError,
        )
        contexts = sorted({_context(entry) for entry in known})
        context = next((c for c in contexts if c >= context_tokens), contexts[-1])
        here = sorted((e for e in known if _context(e) == context), key=lambda entry: entry.batch)
        return next((e for e in here if e.batch >= batch), here[-1])


def _context(entry: PlanEntry) -> float:
    return math.inf if entry.context_tokens is None else float(entry.context_tokens)
