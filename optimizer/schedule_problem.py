"""What to draft at every batch and context: the problem, and the table that answers it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from optimizer.acceptance import frozen
from optimizer.cost import Memory, Objective, TabulatedCost, check_seconds
from optimizer.problem import Rule, TreeProblem
from reader_theory.acceptance.rank_table import RankTable
from reader_theory.errors import require
from reader_theory.trees.tree import TokenTree

__all__ = ["Schedule", "ScheduleProblem"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class ScheduleProblem:
    """A grid of tree problems, one for every batch and context.

    Parameters
    ----------
    acceptance : tuple of RankTable
        One for every context, or one for all.
    batches : (B,) ints, >= 1
    contexts : (C,) float64, tokens a request already holds
    verify_s : (B, C, N + 1) float64, > 0
        Seconds of everything but drafting, by nodes a request; size 0 is plain decoding.
    draft_s : (B, C, D + 1) float64, >= 0
        Seconds of drafting that many levels; 0 for none.
    memory : Memory, optional
        Cells whose plain decoding does not fit are infeasible; in the others it caps the nodes.
    """

    acceptance: tuple[RankTable, ...]
    batches: tuple[int, ...]
    contexts: tuple[float, ...]
    verify_s: Floats
    draft_s: Floats
    memory: Memory | None = None
    rule: Rule = "any"
    objective: Objective = field(default_factory=Objective)

    def __post_init__(self) -> None:
        object.__setattr__(self, "verify_s", frozen(self.verify_s))
        object.__setattr__(self, "draft_s", frozen(self.draft_s))
        check_seconds("verify_s", self.verify_s)
        grid = (len(self.batches), len(self.contexts))
        shapes_fit = self.verify_s.shape[:-1] == grid == self.draft_s.shape[:-1] and self.draft_s.shape[-1] >= 2
        require(
            shapes_fit and bool((np.isfinite(self.draft_s) & (self.draft_s >= 0)).all()) and min(self.batches) >= 1,
            "`verify_s` and `draft_s` must be (batches, contexts, ...), `draft_s` finite and >= 0",
            got=f"{grid} cells, verify_s {self.verify_s.shape}, draft_s {self.draft_s.shape}",
            fix="Tabulate the step over every batch and context of the grid; batches start at 1.",
        )
        require(
            len(self.acceptance) in (1, grid[1]) and min(a.depth for a in self.acceptance) >= self.depth,
            "`acceptance` must be one for all contexts or one each, as deep as `draft_s`",
            got=f"{len(self.acceptance)} for {grid[1]} contexts, least depth {min(a.depth for a in self.acceptance)}",
            fix="Fit acceptance to the depth that may be drafted, or cut draft_s.",
        )

    @property
    def nodes(self) -> int:
        """N, most nodes a request."""
        return self.verify_s.shape[-1] - 1

    @property
    def depth(self) -> int:
        """D, most levels."""
        return self.draft_s.shape[-1] - 1

    def acceptance_at(self, context: int) -> RankTable:
        """Acceptance of the context of that index."""
        return self.acceptance[context if len(self.acceptance) > 1 else 0]

    def most_nodes(self) -> Ints:
        """(B, C) int32: nodes a request that fit; -1 where plain decoding does not."""
        if self.memory is None:
            return np.full((len(self.batches), len(self.contexts)), self.nodes, dtype=np.int32)
        fits = [[self.memory.most_nodes(b, c) for c in self.contexts] for b in self.batches]
        return np.clip(np.array(fits), -1, self.nodes).astype(np.int32)

    def cell(self, batch: int, context: int) -> TreeProblem:
        """The tree problem of the cell of these indices."""
        table = self.draft_s[batch, context][:, None] + self.verify_s[batch, context]
        return TreeProblem(
            self.acceptance_at(context), TabulatedCost(table), max(1, self.nodes), None, self.rule, self.objective,
            self.batches[batch], self.contexts[context], self.memory,
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class Schedule:
    """The answer for every batch and context.

    Parameters
    ----------
    nodes, depth : (B, C) int32
        Size and depth of each cell's tree; -1 nodes where nothing is feasible.
    tokens_per_step, step_s, value, off_value, upper_bound, price : (B, C) float64
        As in `Solution`; `off_value` is plain decoding at the same batch, 0 where a limit forbids it.
    trees : mapping from (context index or 0, depth, nodes) to TokenTree
    """

    problem: ScheduleProblem
    nodes: Ints
    depth: Ints
    tokens_per_step: Floats
    step_s: Floats
    value: Floats
    off_value: Floats
    upper_bound: Floats
    price: Floats
    solver: str
    trees: Mapping[tuple[int, int, int], TokenTree]
    seconds: float = 0.0

    @property
    def gap(self) -> Floats:
        """(B, C) float64: (bound - value) / bound; 0 where nothing is feasible."""
        bound = np.where(self.upper_bound > 0, self.upper_bound, 1.0)
        return np.where(self.upper_bound > 0, np.maximum(0.0, 1 - self.value / bound), 0.0)

    def tree(self, batch: int, context: int) -> TokenTree:
        """Tree of the cell of these indices."""
        require(
            bool(self.nodes[batch, context] >= 0),
            "`batch` and `context` must name a feasible cell",
            got=f"batch {self.problem.batches[batch]} at context {self.problem.contexts[context]:g}",
            fix="Use a smaller batch: see `feasible_batches`.",
        )
        key = context if len(self.problem.acceptance) > 1 else 0
        return self.trees[key, int(self.depth[batch, context]), int(self.nodes[batch, context])]

    def feasible_batches(self, context: int) -> tuple[int, ...]:
        """Batches that meet memory and limits at the context of that index."""
        return tuple(b for b, n in zip(self.problem.batches, self.nodes[:, context].tolist(), strict=True) if n >= 0)
