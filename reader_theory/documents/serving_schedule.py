"""ServingSchedule: what to draft at every batch and context, and where a request rate settles on that table."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal, cast

from pydantic import Field, model_validator

from reader_theory.documents.base import Document, Frozen
from reader_theory.documents.plan import Candidate, Plan, PlanEntry, Prediction
from reader_theory.documents.policy import DRAFT, RETRIEVAL, Policy
from reader_theory.errors import require
from reader_theory.estimate import Estimate

__all__ = ["OperatingPoint", "ScheduleCell", "ServingSchedule"]


class ScheduleCell(Frozen):
    """The choice at one batch and context; no policy where nothing fits memory or meets the target."""

    workload: str
    context: int = Field(ge=0, description="cached tokens of a request")
    batch: int = Field(ge=1)
    policy: Policy | None
    tokens_per_step: Estimate | None
    step_s: float | None
    tokens_per_s: float = Field(description="of the whole batch; 0 where nothing is feasible")
    speed_up: float | None = Field(description="over plain decoding at the same batch; None where a limit forbids it")
    price: float = Field(description="tokens that one more verified node must bring to pay for its time")
    gap: float = Field(ge=0, description="certified gap of the tree under the fitted acceptance and the tabulated cost")
    nodes_per_step: float | None = Field(
        default=None, description="mean verified nodes a row; None for the nodes of the policy's tree"
    )
    binding: tuple[str, ...] = Field(default=(), description="limits that the policy stops at: a wider one may gain")
    candidates: tuple[Candidate, ...] = Field(default=(), description="chains and off that the limits allow")
    alternatives: dict[str, Candidate] = Field(
        default_factory=dict[str, Candidate], description="by drafter, and off: the best that it gives, chosen or not"
    )
    extrapolated: dict[str, float] = Field(
        default_factory=dict[str, float], description="how many times beyond the measured axes the cost was asked"
    )


class OperatingPoint(Frozen):
    """Where the asked rate settles: Little's law on the schedule."""

    workload: str
    context: int
    sustained: bool = Field(description="whether some batch of the schedule serves the rate within the target")
    batch: int | None = Field(description="row of the schedule that serves it")
    running: float | None = Field(description="mean requests in the engine")
    latency_s: float | None = Field(description="mean seconds from arrival to the last token")
    seconds_per_token: float | None
    capacity_per_s: float = Field(description="largest rate that any row within the target sustains")
    off_capacity_per_s: float = Field(description="the same for plain decoding")
    off_from_batch: int | None = Field(description="smallest batch from which nothing is drafted; None if all draft")
    stops_paying_per_s: float | None = Field(description="rate that the last drafting row sustains; None if all draft")


class ServingSchedule(Document):
    """The document that `plan --rate --slo` writes: what to draft over batch and context."""

    newest: ClassVar[int] = 4
    oldest: ClassVar[int] = 3
    made_by: ClassVar[str] = "reader plan --rate"
    kind: Literal["serving_schedule"] = "serving_schedule"
    schema_version: int = 4
    target: str
    drafters: dict[str, str | None] = Field(description="what each drafter runs, by name; None for look-ups")
    device: str
    dtype: str
    temperature: float
    fit: str = Field(description="fingerprint of the AcceptanceFit")
    cost: str = Field(description="fingerprint of the Cost")
    rate_per_s: float = Field(gt=0, description="requests a second")
    slo_s: float | None = Field(description="most seconds a token of one request; None for no target")
    output_tokens: float
    prompt_tokens: float
    kv_tokens: int | None = Field(description="capacity of the cache that capped the batch; None where none was given")
    solver: str
    cells: tuple[ScheduleCell, ...]
    points: tuple[OperatingPoint, ...]

    @model_validator(mode="before")
    @classmethod
    def _older(cls, raw: object) -> object:
        """Version 3 had one model that drafts."""
        told: dict[str, Any] = dict(cast("dict[str, Any]", raw)) if isinstance(raw, dict) else {}
        if "draft" not in told:
            return cast(object, raw)
        return told | {"drafters": {DRAFT: told.pop("draft"), RETRIEVAL: None}, "schema_version": cls.newest}

    def cell(self, workload: str, context: float, batch: int) -> ScheduleCell:
        """The cell at the nearest context, and at the smallest batch >= `batch` or the largest there is.

        Raises
        ------
        InvalidInputError
            If the schedule knows no such workload.
        """
        known = [cell for cell in self.cells if cell.workload == workload]
        require(
            bool(known),
            "`workload` must be one that was scheduled",
            got=f"{workload!r}; there are {sorted({cell.workload for cell in self.cells})}",
            fix="Choose one of these.",
        )
        nearest = min({cell.context for cell in known}, key=lambda there: abs(there - context))
        row = sorted((cell for cell in known if cell.context == nearest), key=lambda cell: cell.batch)
        return next((cell for cell in row if cell.batch >= batch), row[-1])

    def plan(self, context: float) -> Plan:
        """The schedule at the nearest context as a Plan, for engines and exports; infeasible cells are left out.

        Raises
        ------
        InvalidInputError
            If nothing is feasible at that context.
        """
        nearest = min({cell.context for cell in self.cells}, key=lambda there: abs(there - context))
        entries = [
            _entry(cell, self.solver) for cell in self.cells if cell.context == nearest and cell.policy is not None
        ]
        require(
            bool(entries),
            "`context` must be one at which some batch is feasible",
            got=f"{nearest} tokens",
            fix="Loosen the target, or give the cache more room.",
        )
        return Plan(
            stamp=self.stamp, target=self.target, drafters=self.drafters, device=self.device, dtype=self.dtype,
            temperature=self.temperature, verification="greedy" if self.temperature == 0 else "target_only",
            fit=self.fit, cost=self.cost, prompts_per_workload=1, new_tokens=max(1, round(self.output_tokens)),
            entries=tuple(entries),
        )  # fmt: skip


def _entry(cell: ScheduleCell, solver: str) -> PlanEntry:
    tokens, step_s = cell.tokens_per_step, cell.step_s
    assert cell.policy is not None and tokens is not None and step_s is not None, "only feasible cells are entries"
    far = math.prod(cell.extrapolated.values())
    rate = tokens.scaled(cell.batch / step_s).widened(far)
    gain = cell.speed_up or 1.0
    return PlanEntry(
        workload=cell.workload,
        batch=cell.batch,
        policy=cell.policy,
        prediction=Prediction(
            tokens_per_step=tokens,
            step_s=Estimate.exact(step_s, "predicted").widened(far),
            tokens_per_s=rate,
            speed_up=rate.scaled(gain / rate.value),
            nodes_per_step=float(cell.policy.most_nodes) if cell.nodes_per_step is None else cell.nodes_per_step,
            terms_s={"step": step_s},
            accepted=next((each.accepted for each in cell.candidates if each.policy == cell.policy), ()),
        ),
        price=max(cell.price, 0.0),
        upper_bound_tokens_per_s=cell.tokens_per_s / (1 - cell.gap),
        gap=cell.gap,
        solver=solver,
        certified=not cell.extrapolated,
        extrapolated=cell.extrapolated,
        binding=cell.binding,
        candidates=cell.candidates,
        alternatives=cell.alternatives,
    )
