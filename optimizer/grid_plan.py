"""Rows of `reader plan --grid` as a Plan, for the exporters: one model, drafter and card at every batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from optimizer.grid import Row
from optimizer.grid_cell import NO_DRAFTER
from reader_theory.documents import Candidate, Off, Plan, PlanEntry, Policy, Prediction, Stamp, Static
from reader_theory.documents.policy import DRAFT
from reader_theory.errors import require
from reader_theory.estimate import Estimate

__all__ = ["plan_of_rows"]

FREE = ("batch", "workload", "inputs")
"""Axes along which a plan has entries, and the mark of what a row was made from."""


def plan_of_rows(rows: Sequence[Row], where: Mapping[str, str]) -> Plan:
    """The plan that the feasible rows of a grid are, of the cells that `where` leaves.

    Parameters
    ----------
    rows : of `optimizer.grid`, whose function was `PredictedCells`
    where : axis to value, as text
        An axis with one value in the grid need not be named. Of a batch or workload, that entry alone is kept.

    Raises
    ------
    InvalidInputError
        If an axis is not one of the grid's, several models, drafters, cards or contexts are left, or nothing is.
    """
    known = {name: _values(rows, name) for row in rows[:1] for name in row.cell if name != "inputs"}
    wrong = [f"{name}={value}" for name, value in where.items() if value not in known.get(name, [])]
    require(
        not wrong,
        "`--where` must name axes of the grid and values on them",
        got=f"{', '.join(wrong)}; the grid has {_told(known)}",
        fix="Name one of these.",
    )
    kept = [row for row in rows if all(str(row.cell[name]) == value for name, value in where.items())]
    open_axes = {name: there for name in known if name not in FREE and len(there := _values(kept, name)) > 1}
    marks = {row.cell.get("inputs") for row in kept}
    require(
        not open_axes and len(marks) == 1,
        "a plan must be of one model, drafter, card and context, and of one fit",
        got=_told(open_axes) if open_axes else f"rows of {len(marks)} fits or models in one file",
        fix=" ".join(f"--where {name}={there[0]}" for name, there in open_axes.items()) or "Plan the grid again.",
    )
    entries = [_entry(row) for row in kept if "policy" in (row.result or {})]
    require(
        bool(entries),
        "a plan must have a row that fits its card",
        got=f"{len(kept)} rows, none feasible",
        fix="Name other cells with --where; the grid's advice says what is missing.",
    )
    cell = kept[0].cell
    drafter, devices = str(cell["drafter"]), cell.get("tensor_parallel", 1)
    return Plan(
        stamp=Stamp.now(seed=0),
        target=str(cell["model"]),
        drafters={} if drafter == NO_DRAFTER else {DRAFT: drafter},
        device=str(cell["device"]) if devices == 1 else f"{devices} x {cell['device']}",
        dtype="as configured",
        temperature=0.0,
        verification="greedy",
        fit=f"of the grid's rows {cell.get('inputs', '')}".strip(),
        cost="predicted from the configuration and the card",
        prompts_per_workload=1,
        new_tokens=256,
        notes=(f"rows of a grid, at {cell['context']} tokens of context a row; nothing was measured",),
        entries=tuple(entries),
    )


def _values(rows: Sequence[Row], name: str) -> list[str]:
    return list(dict.fromkeys(str(row.cell[name]) for row in rows))


def _told(axes: Mapping[str, Sequence[str]]) -> str:
    return "; ".join(f"{name}: {', '.join(there)}" for name, there in axes.items())


def _entry(row: Row) -> PlanEntry:
    cell, told = row.cell, row.result
    policy: Policy = Off()
    if len(told["parents"]) > 1:
        policy = Static(drafter=DRAFT, parents=tuple(told["parents"]), ranks=tuple(told["ranks"]))
    far = {"depth": 1.0 + told["extrapolated_depth"]} if told["extrapolated_depth"] else {}
    share = (told["step_s"] / told["step_s_high"], told["step_s"] / told["step_s_low"])
    return PlanEntry(
        workload=cell["workload"],
        batch=cell["batch"],
        context_tokens=cell["context"],
        policy=policy,
        prediction=Prediction(
            tokens_per_step=Estimate.exact(told["tokens_per_step"], "predicted"),
            step_s=Estimate(value=told["step_s"], low=told["step_s_low"], high=told["step_s_high"], origin="predicted"),
            tokens_per_s=_spread(told["tokens_per_s"], share),
            speed_up=_spread(told["speed_up"], share if policy.most_nodes else (1.0, 1.0)),
            nodes_per_step=float(policy.most_nodes),
            terms_s={"step": told["step_s"]},
        ),
        price=0.0,
        upper_bound_tokens_per_s=told["tokens_per_s"] * (1.0 + told["gap"]),
        gap=told["gap"],
        solver=told["solver"],
        certified=told["certified"] and not far,
        certifies="the tree under the fitted table and the predicted cost",
        extrapolated=far,
        candidates=_weighed(policy, told),
    )


def _weighed(policy: Policy, told: Mapping[str, Any]) -> tuple[Candidate, ...]:
    """The row's own policy, and plain decoding, which every row is compared to."""
    own = Candidate(policy=policy, tokens_per_step=told["tokens_per_step"], tokens_per_s=told["tokens_per_s"])
    if not policy.most_nodes:
        return (own,)
    off = Candidate(policy=Off(), tokens_per_step=1.0, tokens_per_s=told["tokens_per_s"] / told["speed_up"])
    return (own, off)


def _spread(value: float, share: tuple[float, float]) -> Estimate:
    """A rate whose step may take as much less or more as the cost says."""
    return Estimate(value=value, low=value * share[0], high=value * share[1], origin="predicted")
