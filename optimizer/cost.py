"""What a planner is told about cost and room: seconds by size or by level width, memory, and the objective."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from optimizer.acceptance import frozen
from reader_theory.cost.terms import Forwards, StepConditions, StepModel
from reader_theory.documents.forwards import DraftForwards
from reader_theory.errors import InvalidInputError, require

__all__ = ["LevelCost", "Memory", "Objective", "TabulatedCost", "level_cost", "level_seconds", "tabulated"]

Floats = NDArray[np.float64]
ONE_A_LEVEL = DraftForwards()


def check_seconds(name: str, seconds: Floats) -> None:
    """Raise unless every entry of `seconds` is finite and above 0."""
    bad = ~(np.isfinite(seconds) & (seconds > 0))
    require(
        seconds.size > 0 and not bool(bad.any()),
        f"`{name}` must be finite and above 0",
        got=f"{seconds[bad][:3].tolist()} at {np.argwhere(bad)[:3].tolist()}, shape {seconds.shape}",
        fix="Measure or predict every size; leave sizes that cannot run out of the table by `max_nodes`.",
    )


@dataclass(frozen=True, eq=False)
class TabulatedCost:
    """Seconds a step for every number of nodes, and of levels: any staircase.

    Parameters
    ----------
    seconds : (N + 1,) or (D + 1, N + 1) float64, finite, > 0
        ``seconds[d, n]``: a step that drafts d levels and verifies n nodes; ``[0, 0]`` is plain decoding. One row:
        depth is free.

    Raises
    ------
    InvalidInputError
        On a zero, negative, NaN or infinite entry.
    """

    seconds: Floats

    def __init__(self, seconds: ArrayLike) -> None:
        object.__setattr__(self, "seconds", frozen(np.atleast_2d(np.asarray(seconds, dtype=np.float64))))
        check_seconds("seconds", self.seconds)

    @property
    def nodes(self) -> int:
        """N, the largest tree in the table."""
        return self.seconds.shape[1] - 1

    @property
    def depth(self) -> int | None:
        """D, the deepest tree in the table; None when depth is free."""
        return None if self.seconds.shape[0] == 1 else self.seconds.shape[0] - 1

    def table(self, depth: int, nodes: int) -> Floats:
        """(depth + 1, nodes + 1) float64 seconds."""
        rows = self.seconds[: depth + 1, : nodes + 1]
        return rows if self.depth is not None else np.broadcast_to(rows, (depth + 1, nodes + 1))

    def step_s(self, nodes: int, depth: int) -> float:
        """Seconds of a step that drafts `depth` levels and verifies `nodes` nodes."""
        return float(self.seconds[depth if self.depth is not None else 0, nodes])


@dataclass(frozen=True, eq=False)
class LevelCost:
    """Drafting whose cost depends on each level's width, and verification whose cost depends on the nodes.

    Parameters
    ----------
    draft_s : (D, W + 1) float64, >= 0
        ``draft_s[d, w]``: seconds of the draft's forward over the w nodes at depth d, which offers level d + 1. Depth
        0 is the root alone, ``draft_s[0, 1]``. No level may be wider than W.
    verify_s : (N + 1,) float64, > 0
        Everything else of a step that verifies n nodes; ``verify_s[0]`` is plain decoding.
    """

    draft_s: Floats
    verify_s: Floats

    def __init__(self, draft_s: ArrayLike, verify_s: ArrayLike) -> None:
        object.__setattr__(self, "draft_s", frozen(draft_s))
        object.__setattr__(self, "verify_s", frozen(verify_s))
        check_seconds("verify_s", self.verify_s)
        d = self.draft_s
        require(
            d.ndim == 2 and d.shape[1] >= 2 and bool((np.isfinite(d) & (d >= 0)).all()) and self.verify_s.ndim == 1,
            "`draft_s` must be (depths, widths + 1), finite and >= 0, and `verify_s` one row",
            got=f"draft_s of shape {d.shape}, least {d.min(initial=0)}; verify_s of shape {self.verify_s.shape}",
            fix="Give draft_s[d, w], the seconds of drafting from w nodes at depth d; column 0 is never read.",
        )

    @property
    def nodes(self) -> int:
        """N, the largest tree in the table."""
        return len(self.verify_s) - 1

    @property
    def depth(self) -> int:
        """D, the deepest tree in the table."""
        return self.draft_s.shape[0]

    @property
    def width(self) -> int:
        """W, the widest level in the table."""
        return self.draft_s.shape[1] - 1

    def step_s(self, level_widths: ArrayLike) -> float:
        """Seconds of a step whose tree has these widths at depth 1, 2, ..."""
        widths = np.asarray(level_widths, dtype=np.int64)
        forwarded = np.concatenate([[1], widths[:-1]]) if widths.size else widths
        return float(self.verify_s[widths.sum()] + self.draft_s[np.arange(len(widths)), forwarded].sum())


def tabulated(cost: TabulatedCost | LevelCost) -> TabulatedCost:
    """`cost` itself where it is a table over nodes and depth; raise otherwise."""
    if isinstance(cost, TabulatedCost):
        return cost
    raise InvalidInputError(
        "`cost` must be a table over nodes and depth",
        got=type(cost).__name__,
        fix="Use the solver `levels` or `relaxation` for drafting that is paid by level width.",
    )


def level_seconds(
    plain: StepModel, drafting: StepModel, drafter: str, forwards: DraftForwards, *, batch: ArrayLike,
    context: ArrayLike, nodes: int, depth: int,
) -> tuple[Floats, Floats]:  # fmt: skip
    """Seconds of a step by level and what is drafted there, and by what is verified.

    Parameters
    ----------
    plain, drafting : StepModel
        The equation of a step of plain decoding, and of one in which `drafter` drafts.
    forwards : DraftForwards
        What `drafter` takes for a tree.
    batch, context : (...)
        Rows, and cached tokens of each; broadcast against one another.
    nodes, depth : int
        N and D, of the largest tree.

    Returns
    -------
    draft_s : (..., D, max(N, 2) + 1)
        Seconds that drafting one level more adds, by the w nodes above it; below none is never read.
    verify_s : (..., N + 1)
        Everything else of a step that verifies n nodes; plain decoding at 0.
    """
    rows, cached = (np.asarray(x, dtype=np.float64)[..., None] for x in (batch, context))
    widths, sizes = np.maximum(np.arange(max(nodes, 2) + 1), 1), np.arange(nodes + 1)
    alone = StepConditions(batch=rows, context=cached, tokens=2.0, drafting=True)
    without = drafting.seconds(alone)

    def one(tokens: ArrayLike) -> Floats:
        asked = replace(alone, forwards={drafter: Forwards(np.asarray(tokens)[..., None])})
        return forwards.times * np.maximum(drafting.seconds(asked) - without, 0.0)

    if forwards.kind == "levels":
        each = one(widths)[..., None, :]
    else:  # what a deeper block takes more than a shallower one, whatever stands on its levels
        whole = one([forwards.sizes(np.ones(levels))[0] for levels in range(1, depth + 1)])
        each = np.maximum(np.diff(whole, axis=-1, prepend=0.0), 0.0)[..., None]
    draft_s = np.broadcast_to(each, (*each.shape[:-2], depth, len(widths)))
    verify_s = np.where(
        sizes > 0,
        drafting.seconds(StepConditions(batch=rows, context=cached, tokens=sizes + 1, drafting=True)),
        plain.seconds(StepConditions(batch=rows, context=cached)),
    )
    return draft_s, verify_s


def level_cost(
    plain: StepModel, drafting: StepModel, drafter: str, forwards: DraftForwards = ONE_A_LEVEL, *, batch: float,
    context: float, nodes: int, depth: int,
) -> LevelCost:  # fmt: skip
    """`level_seconds` at one batch and context, as a planner takes them."""
    draft_s, verify_s = level_seconds(
        plain, drafting, drafter, forwards, batch=batch, context=context, nodes=nodes, depth=depth
    )
    return LevelCost(draft_s[:, : nodes + 1] if nodes > 0 else draft_s, verify_s)


@dataclass(frozen=True)
class Memory:
    """Room for keys and values: what decides the batch at high load.

    A batch of B requests with c tokens of context and n nodes each takes ``B ((c + 1 + n) kv + n scratch)`` bytes.
    """

    capacity_bytes: float
    kv_bytes_per_token: float
    scratch_bytes_per_node: float = 0.0

    def __post_init__(self) -> None:
        fields = (self.capacity_bytes, self.kv_bytes_per_token, self.scratch_bytes_per_node)
        require(
            bool(np.isfinite(fields).all())
            and self.capacity_bytes > 0
            and self.kv_bytes_per_token > 0
            and fields[2] >= 0,
            "`capacity_bytes` and `kv_bytes_per_token` must be finite and above 0, `scratch_bytes_per_node` >= 0",
            got=fields,
            fix="kv_bytes_per_token is 2 layers kv_heads head_dim bytes, of target and draft together.",
        )

    def used_bytes(self, batch: int, context_tokens: float, nodes: float) -> float:
        """Bytes that `batch` requests take, each with `nodes` nodes."""
        row = (context_tokens + 1 + nodes) * self.kv_bytes_per_token + nodes * self.scratch_bytes_per_node
        return batch * row

    def most_nodes(self, batch: int, context_tokens: float) -> int:
        """Most nodes a request that still fit; negative when not even plain decoding fits."""
        room = self.capacity_bytes / batch - (context_tokens + 1) * self.kv_bytes_per_token
        return int(np.floor(room / (self.kv_bytes_per_token + self.scratch_bytes_per_node) + 1e-12))


@dataclass(frozen=True)
class Objective:
    """What is best.

    Every kind ranks feasible answers by tokens a second; they differ in what is feasible and in what is reported.

    Parameters
    ----------
    kind : {"tokens_per_s", "latency", "goodput", "cost_per_token"}
        ``latency``: seconds a token of one request, no step longer than `step_cap_s`. ``goodput``: tokens a second of
        requests whose seconds a token stay within `latency_target_s`. ``cost_per_token``: `price_per_s` over tokens a
        second.
    """

    kind: Literal["tokens_per_s", "latency", "goodput", "cost_per_token"] = "tokens_per_s"
    step_cap_s: float = float("inf")
    latency_target_s: float = float("inf")
    price_per_s: float = 1.0

    def __post_init__(self) -> None:
        positive = all(x > 0 for x in (self.step_cap_s, self.latency_target_s, self.price_per_s))
        known = ("tokens_per_s", "latency", "goodput", "cost_per_token")
        require(
            positive and self.kind in known,
            f"`kind` must be one of {known}, and `step_cap_s`, `latency_target_s`, `price_per_s` above 0",
            got=(self.kind, self.step_cap_s, self.latency_target_s, self.price_per_s),
            fix="Leave a limit out where there is none.",
        )

    def allows(self, tokens_per_step: Floats | float, step_s: Floats | float) -> NDArray[np.bool_]:
        """Where a request's mean `tokens_per_step` at `step_s` meets the limits; broadcast together."""
        seconds = np.asarray(step_s)
        return (seconds <= self.step_cap_s) & (seconds <= self.latency_target_s * np.asarray(tokens_per_step))

    def reported(self, tokens_per_s: float, batch: int) -> float:
        """The objective in its own unit: tokens/s, seconds a token of one request, or price a token."""
        if tokens_per_s <= 0:
            return float("nan")
        if self.kind == "latency":
            return batch / tokens_per_s
        return self.price_per_s / tokens_per_s if self.kind == "cost_per_token" else tokens_per_s
