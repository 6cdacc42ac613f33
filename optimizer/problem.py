"""What is to be decided: one tree, a batch of trees, tree and batch under memory, several workloads, or a schedule."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from optimizer.acceptance import Acceptance, ForestAcceptance
from optimizer.cost import LevelCost, Memory, Objective, TabulatedCost
from reader_theory.acceptance.rank_table import RankTable
from reader_theory.errors import require
from reader_theory.trees.tree import TokenTree

__all__ = [
    "BatchProblem",
    "JointProblem",
    "Problem",
    "RobustProblem",
    "Rule",
    "SideConstraints",
    "TreeProblem",
    "ranks_are_free",
]

Rule = Literal["any", "first"]
"""Children of a node: any ranks, or ranks 0..b-1 (what drafts sampled without replacement allow)."""


def ranks_are_free(acceptance: Acceptance, rule: Rule) -> bool:
    """Whether the best nodes, taken in order, obey the rule by themselves: any ranks may be chosen, or they fall."""
    return rule == "any" or not isinstance(acceptance, RankTable) or acceptance.is_monotone


def _check_size(max_nodes: int, rule: str = "any", batch: int = 1) -> None:
    require(
        max_nodes >= 1 and batch >= 1 and rule in ("any", "first"),
        '`max_nodes` and `batch` must be >= 1, `rule` "any" or "first"',
        got=f"max_nodes {max_nodes}, batch {batch}, rule {rule!r}",
        fix="To plan for no draft at all there is nothing to solve: the empty tree gives one token a step.",
    )


@dataclass(frozen=True, eq=False)
class TreeProblem:
    """One tree for every request of a batch.

    Parameters
    ----------
    acceptance : RankTable or ForestAcceptance
    cost : TabulatedCost or LevelCost
        Seconds a step of the whole batch.
    max_nodes : int, >= 1
    max_depth : int, optional
        As deep as acceptance and cost are known, when left out.
    rule : {"any", "first"}
    objective : Objective
    batch : int, >= 1
    context_tokens : float
        Tokens a request already holds; read by `memory` only.
    memory : Memory, optional
    """

    acceptance: Acceptance
    cost: TabulatedCost | LevelCost
    max_nodes: int
    max_depth: int | None = None
    rule: Rule = "any"
    objective: Objective = field(default_factory=Objective)
    batch: int = 1
    context_tokens: float = 0.0
    memory: Memory | None = None

    def __post_init__(self) -> None:
        _check_size(self.max_nodes, self.rule, self.batch)
        require(
            self.max_depth is None or self.max_depth >= 1,
            "`max_depth` must be >= 1",
            got=self.max_depth,
            fix="Leave it out to search as deep as acceptance and cost are known.",
        )
        require(
            self.rule == "any" or isinstance(self.acceptance, RankTable),
            'explicit candidates must be planned under rule "any"',
            got=f"rule {self.rule!r} with {type(self.acceptance).__name__}",
            fix="Describe sampled drafts by RankTable: the candidates of a forest may each be left out.",
        )

    @property
    def nodes_limit(self) -> int:
        """Most nodes that budget, cost table and memory allow; negative when plain decoding does not fit."""
        limit = min(self.max_nodes, self.cost.nodes)
        if self.memory is not None:
            limit = min(limit, self.memory.most_nodes(self.batch, self.context_tokens))
        return limit

    @property
    def depth_limit(self) -> int:
        """Deepest level that acceptance, cost table and `max_depth` allow."""
        known = [self.acceptance.depth, self.cost.depth, self.max_depth]
        return min(limit for limit in known if limit is not None)

    def binding(self, tree: TokenTree) -> tuple[str, ...]:
        """Names of the limits that `tree` stops at; explicit candidates limit nothing but themselves."""
        if not tree.nodes:
            return ()
        depth = self.acceptance.depth if isinstance(self.acceptance, RankTable) else None
        nodes = {"max_nodes": self.max_nodes, "nodes of the cost table": self.cost.nodes}
        if self.memory is not None:
            nodes["memory"] = self.memory.most_nodes(self.batch, self.context_tokens)
        depths = {"max_depth": self.max_depth, "depth of the cost table": self.cost.depth, "depth of acceptance": depth}
        full = [name for name, limit in nodes.items() if limit == tree.nodes == self.nodes_limit]
        return (*full, *(name for name, limit in depths.items() if limit == tree.depth == self.depth_limit))


@dataclass(frozen=True, eq=False)
class SideConstraints:
    """Service classes of a batch: what each class may spend, and must get.

    Parameters
    ----------
    classes : (B,) ints, 0..K-1
        Class of each request.
    max_nodes : (K,) float64
        Shared budget of nodes of each class; inf where there is none.
    min_tokens_per_step : (K,) float64
        Mean tokens a step that each class must get; 1 where nothing is promised.
    """

    classes: tuple[int, ...]
    max_nodes: tuple[float, ...]
    min_tokens_per_step: tuple[float, ...]

    def __post_init__(self) -> None:
        k = len(self.max_nodes)
        require(
            len(self.min_tokens_per_step) == k
            and all(0 <= c < k for c in self.classes)
            and min(self.max_nodes, default=0) >= 0,
            "`classes` must index `max_nodes` (>= 0) and `min_tokens_per_step`",
            got=f"classes up to {max(self.classes, default=-1)}, {k} budgets, {len(self.min_tokens_per_step)} promises",
            fix="Give one budget and one promise a class, and one class a request.",
        )


@dataclass(frozen=True, eq=False)
class BatchProblem:
    """A tree for each request of a batch, out of its own candidates, under one cost of all nodes together.

    Parameters
    ----------
    requests : tuple of ForestAcceptance, length B
    cost : TabulatedCost
        Seconds a step by nodes summed over the batch (and by the deepest level drafted).
    max_nodes : int
        Most nodes over the whole batch.
    side : SideConstraints, optional
    """

    requests: tuple[ForestAcceptance, ...]
    cost: TabulatedCost
    max_nodes: int
    objective: Objective = field(default_factory=Objective)
    context_tokens: float = 0.0
    memory: Memory | None = None
    side: SideConstraints | None = None

    def __post_init__(self) -> None:
        _check_size(self.max_nodes, batch=len(self.requests))
        require(
            self.side is None or len(self.side.classes) == len(self.requests),
            "`side.classes` must name one class a request",
            got=f"{0 if self.side is None else len(self.side.classes)} classes for {len(self.requests)} requests",
            fix="Give each request its class.",
        )

    @property
    def batch(self) -> int:
        """B."""
        return len(self.requests)

    @property
    def nodes_limit(self) -> int:
        """Most nodes over the batch; negative when plain decoding does not fit."""
        limit = min(self.max_nodes, self.cost.nodes, sum(request.tree.nodes for request in self.requests))
        if self.memory is None:
            return limit
        plain = self.memory.used_bytes(self.batch, self.context_tokens, 0)
        each = self.memory.kv_bytes_per_token + self.memory.scratch_bytes_per_node
        return min(limit, int(np.floor((self.memory.capacity_bytes - plain) / each + 1e-12)))

    @property
    def depth_limit(self) -> int:
        """Deepest level drafted for any request."""
        deepest = max(request.depth for request in self.requests)
        return deepest if self.cost.depth is None else min(deepest, self.cost.depth)


@dataclass(frozen=True, eq=False)
class JointProblem:
    """The batch and the tree together, under memory: more requests, or more nodes for each?

    Parameters
    ----------
    acceptance : RankTable
    costs : dict from batch to TabulatedCost
        Seconds a step of that batch, by depth and by nodes of each request.
    memory : Memory
    context_tokens : float
        Tokens that a request holds.
    """

    acceptance: RankTable
    costs: dict[int, TabulatedCost]
    memory: Memory
    context_tokens: float
    max_nodes: int
    max_depth: int | None = None
    rule: Rule = "any"
    objective: Objective = field(default_factory=Objective)

    def __post_init__(self) -> None:
        _check_size(self.max_nodes, self.rule, min(self.costs, default=0))

    def at_batch(self, batch: int) -> TreeProblem:
        """The tree problem of one batch."""
        return TreeProblem(
            self.acceptance, self.costs[batch], self.max_nodes, self.max_depth, self.rule, self.objective, batch,
            self.context_tokens, self.memory,
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class RobustProblem:
    """One tree for several workloads: the worst scaled tokens a second, made best.

    Parameters
    ----------
    workloads : tuple of RankTable, length W
    cost : TabulatedCost
    max_nodes : int, >= 1
    scale : (W,) float64, > 0, optional
        Worth of a token of each workload. One over its own optimum makes the answer the least regret.
    """

    workloads: tuple[RankTable, ...]
    cost: TabulatedCost
    max_nodes: int
    max_depth: int | None = None
    scale: tuple[float, ...] = ()
    batch: int = 1

    def __post_init__(self) -> None:
        _check_size(self.max_nodes, batch=self.batch)
        good = (
            len(self.workloads) >= 1 and len(self.scale) in (0, len(self.workloads)) and all(s > 0 for s in self.scale)
        )
        require(
            good,
            "`workloads` must be at least one, `scale` one positive number a workload",
            got=f"{len(self.workloads)} workloads, scale {self.scale}",
            fix="Leave `scale` out to weigh all alike.",
        )

    @property
    def scales(self) -> NDArray[np.float64]:
        """(W,) float64."""
        return np.array(self.scale or (1.0,) * len(self.workloads))

    @property
    def nodes_limit(self) -> int:
        """Most nodes that budget and cost table allow."""
        return min(self.max_nodes, self.cost.nodes)

    @property
    def depth_limit(self) -> int:
        """Deepest level that every workload, the cost table and `max_depth` allow."""
        known = [min(w.depth for w in self.workloads), self.cost.depth, self.max_depth]
        return min(limit for limit in known if limit is not None)


Problem = TreeProblem | BatchProblem | JointProblem | RobustProblem
