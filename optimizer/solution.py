"""What was decided, what it is worth, and how far from the best it can be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum

from reader_theory.trees.tree import TokenTree

__all__ = ["TOLERANCE", "Certificate", "Solution", "Status"]

TOLERANCE = 1e-9
"""Relative difference of two rates that rounding may leave."""


@dataclass(frozen=True)
class Certificate:
    """What an independent check found; it speaks of feasibility, value and bound, and of nothing else (not of `price`).

    Parameters
    ----------
    violations : tuple of str
        Rules that the answer breaks, claims that are false, and better answers that were missed; empty when it stands.
    value : float, tokens a second
        Recomputed from the trees.
    upper_bound : float, tokens a second
        No answer of the problem can exceed it.
    attained : bool
        Whether the bound is one that some answer attains, so that any gap is the solver's fault.
    """

    violations: tuple[str, ...]
    value: float
    upper_bound: float
    attained: bool

    @property
    def valid(self) -> bool:
        """Whether nothing speaks against the answer."""
        return not self.violations

    @property
    def gap(self) -> float:
        """(bound - value) / bound, >= 0."""
        return max(0.0, 1 - self.value / self.upper_bound) if self.upper_bound > 0 else 0.0

    def proves_optimal(self, tolerance: float = TOLERANCE) -> bool:
        """Whether the answer stands and the gap is closed."""
        return self.valid and self.gap <= tolerance

    @property
    def says(self) -> str:
        """What is certified, in words."""
        if not self.valid:
            return "The answer does not stand."
        if self.proves_optimal():
            return "No answer to this problem gives more."
        return (
            f"The answer gives what it says; the best, which is not known, gives at most {self.gap:.2%} more than that."
        )


class Status(Enum):
    """An outcome as the solver claims it, with the advice that goes with it; `Solution.gap` says what is proved."""

    OPTIMAL = "optimal"
    FEASIBLE = "feasible"
    INFEASIBLE = "infeasible"


@dataclass(frozen=True)
class Solution:
    """An answer.

    Parameters
    ----------
    trees : tuple of TokenTree
        One for every request of a `BatchProblem`; else one for all.
    depth : int
        Levels that the step drafts; no tree is deeper.
    batch : int
    tokens_per_step : float
        Mean a request; the worst scaled workload's for a `RobustProblem`.
    step_s : float
    value, upper_bound : float, tokens a second of the batch
        What the answer gives, and what no answer can exceed.
    price : float, tokens
        The water level: what one more verified node must bring to pay for its time.
    status : Status
    solver : str
    advice : str
        What to do next, when there is something.
    statistics : mapping
        Iterations, seconds, nodes expanded, and whatever else the solver counts.
    certificate : Certificate, optional
        Present on every answer of the planner.
    binding : tuple of str
        Limits that the best tree stops at, so that a wider one may gain: ``"max_nodes"``, ``"depth of acceptance"``.
    """

    trees: tuple[TokenTree, ...]
    depth: int
    batch: int
    tokens_per_step: float
    step_s: float
    value: float
    upper_bound: float
    price: float
    status: Status
    solver: str
    advice: str = ""
    statistics: Mapping[str, float] = field(default_factory=dict[str, float])
    certificate: Certificate | None = None
    binding: tuple[str, ...] = ()

    @property
    def tree(self) -> TokenTree:
        """The one tree, or the first request's."""
        return self.trees[0]

    @property
    def gap(self) -> float:
        """(bound - value) / bound, >= 0; 1 when nothing is feasible."""
        return max(0.0, 1 - self.value / self.upper_bound) if self.upper_bound > 0 else 1.0

    @property
    def shape(self) -> str:
        """ "off", "chain" or "tree"."""
        if not any(tree.nodes for tree in self.trees):
            return "off"
        return "chain" if all(tree.is_chain for tree in self.trees) else "tree"

    def certified(self, certificate: Certificate) -> Solution:
        """The same answer under its certificate's bound: what a solver claims of its own is no proof."""
        return replace(self, certificate=certificate, upper_bound=max(certificate.upper_bound, self.value))

    def counted(self, **statistics: float) -> Solution:
        """The same answer with more statistics."""
        return replace(self, statistics={**self.statistics, **statistics})

    @classmethod
    def found(
        cls, solver: str, trees: tuple[TokenTree, ...], depth: int, batch: int, tokens_per_step: float, step_s: float,
        *, value: float | None = None, bound: float | None = None, price: float = 0.0, advice: str = "",
        **statistics: float,
    ) -> Solution:  # fmt: skip
        """An answer, worth the batch's tokens over its seconds; called optimal where no `bound` above it is given."""
        worth = batch * tokens_per_step / step_s if value is None else value
        status, most = (Status.OPTIMAL, worth) if bound is None else (Status.FEASIBLE, bound)
        return cls(trees, depth, batch, tokens_per_step, step_s, worth, most, price, status, solver, advice, statistics)

    @classmethod
    def infeasible(cls, solver: str, advice: str, batch: int = 1) -> Solution:
        """No answer, and what to change."""
        return cls((), 0, batch, 0.0, float("inf"), 0.0, 0.0, 0.0, Status.INFEASIBLE, solver, advice)
