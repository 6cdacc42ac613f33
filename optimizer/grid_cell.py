"""Plans for cards that nobody has measured: acceptance from a fit, seconds and memory from configurations and peaks.

Prefer `optimizer.plan` where a Cost was measured; this one answers "which card, which drafter, which batch" before.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from optimizer.cost import LevelCost, Memory, level_cost
from optimizer.problem import TreeProblem
from optimizer.solution import Solution, Status
from optimizer.solving import solve
from reader_theory.acceptance.rank_table import RankTable
from reader_theory.cost.device import Device
from reader_theory.cost.model import ModelShape
from reader_theory.cost.step import DRAFT, StepCost
from reader_theory.cost.terms import StepConditions
from reader_theory.errors import require
from reader_theory.memory.budget import memory_budget

__all__ = ["NO_DRAFTER", "PredictedCells"]

NO_DRAFTER = "none"


@dataclass(frozen=True)
class PredictedCells:
    """A function from one cell of a grid to its plan; it travels to other processes and machines with what it needs.

    Parameters
    ----------
    acceptance : mapping from workload to RankTable
        Trees are no deeper than it; a table that was `extended` lets them, and the row says by how many levels.
    models : mapping from name to ModelShape
        Targets and drafters.
    devices : mapping from name to Device
    max_nodes, max_depth : int
        Largest tree.
    """

    acceptance: Mapping[str, RankTable]
    models: Mapping[str, ModelShape]
    devices: Mapping[str, Device]
    max_nodes: int = 32
    max_depth: int = 8

    def __call__(self, cell: Mapping[str, Any]) -> dict[str, Any]:
        """Plan one cell.

        Parameters
        ----------
        cell : mapping
            ``workload``, ``model``, ``drafter`` ("none" for plain decoding), ``device``, ``batch``, ``context``, and
            ``tensor_parallel`` where it is not 1.

        Returns
        -------
        dict
            Policy, tokens a step, seconds a step with their interval and the share of them whose terms are assumed,
            as no measurement of this card's like was fitted, tokens a second, speed-up over plain decoding, gap and
            certificate; ``status`` "infeasible" with advice where the cell does not fit the device.
        """
        table, step, devices = self._table(cell), self._step(cell), int(cell.get("tensor_parallel", 1))
        batch, context = int(cell["batch"]), float(cell["context"])
        drafters = () if step.drafter is None else (step.drafter,)
        budget = memory_budget(step.device, step.target, drafters, tensor_parallel=devices)
        if budget.free_bytes <= 0:
            short = -budget.free_bytes / 2**30
            return {"status": Status.INFEASIBLE.value, "advice": f"The weights alone are {short:.1f} GiB too many."}
        cost = level_cost(
            step.model, step.model, DRAFT, batch=batch, context=context, nodes=self.max_nodes, depth=self.max_depth
        )
        if not drafters:  # nothing but the target could draft, and what is drafted is never right
            cost = LevelCost(np.full_like(cost.draft_s, cost.verify_s[0]), cost.verify_s)
        problem = TreeProblem(
            table if drafters else RankTable.stationary([0.0], self.max_depth),
            cost,
            self.max_nodes,
            max_depth=self.max_depth,
            batch=batch,
            context_tokens=context,
            memory=Memory(budget.free_bytes, budget.bytes_per_token),
        )  # fmt: skip
        return self._row(solve(problem), problem, step)

    def _step(self, cell: Mapping[str, Any]) -> StepCost:
        drafter = None if cell["drafter"] == NO_DRAFTER else self.models[cell["drafter"]]
        target, device = self.models[cell["model"]], self.devices[cell["device"]]
        return StepCost(target, device, drafter=drafter, tensor_parallel=int(cell.get("tensor_parallel", 1)))

    def _table(self, cell: Mapping[str, Any]) -> RankTable:
        require(
            cell["workload"] in self.acceptance,
            "`workload` must be one whose drafter was fitted",
            got=f"{cell['workload']!r}; there are {sorted(self.acceptance)}",
            fix="Name one of these, or fit a trace that was recorded with a draft.",
        )
        return self.acceptance[cell["workload"]]

    def _row(self, answer: Solution, problem: TreeProblem, step: StepCost) -> dict[str, Any]:
        if answer.status is Status.INFEASIBLE:
            return {"status": answer.status.value, "advice": answer.advice}
        assert answer.certificate is not None, "the planner certifies every answer"
        conditions = StepConditions.of_levels(
            answer.tree.level_widths.tolist(), batch=problem.batch, context=problem.context_tokens
        )
        whole, off = step.model.estimate(conditions), float(problem.cost.verify_s[0])  # type: ignore[union-attr]
        return {
            "status": answer.status.value,
            "policy": f"{answer.shape} {answer.tree.nodes}x{answer.tree.depth}" if answer.tree.nodes else "off",
            "extrapolated_depth": answer.statistics["extrapolated_depth"],
            "tokens_per_step": answer.tokens_per_step,
            "step_s": answer.step_s,
            "step_s_low": answer.step_s * whole.low / whole.value,
            "step_s_high": answer.step_s * whole.high / whole.value,
            "assumed": _assumed(step, conditions),
            "tokens_per_s": answer.value,
            "speed_up": answer.value * off / problem.batch,
            "gap": answer.gap,
            "solver": answer.solver,
            "certified": answer.certificate.valid,
            "parents": answer.tree.parents.tolist(),
            "ranks": answer.tree.ranks.tolist(),
        }


def _assumed(step: StepCost, conditions: StepConditions) -> float:
    """Share of a step's seconds in terms that no measurement was fitted for."""
    terms = step.model.estimates(conditions).values()
    return sum(term.value for term in terms if term.origin == "assumed") / sum(term.value for term in terms)
