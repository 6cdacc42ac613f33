"""One speculative step on one device or several, term by term, each with its interval.

Prefer it before anything was measured: it needs a model's configuration and a device. `calibrate` then scales its terms
to as few measured steps as there are; `runs` fits an engine's own logs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from pydantic import Field

from reader_theory.cost.communication import assumed_all_reduce
from reader_theory.cost.device import Device
from reader_theory.cost.head import DrafterHead
from reader_theory.cost.model import ModelShape, Operator
from reader_theory.cost.padding import VLLM_SIZES, padded_tokens
from reader_theory.cost.roofline import Roofline
from reader_theory.documents.base import Frozen
from reader_theory.errors import require
from reader_theory.estimate import Estimate

__all__ = ["TERMS", "StepConditions", "StepCost"]

TERMS = (
    "target linear",
    "target attention",
    "target head",
    "padding",
    "drafter",
    "drafter head",
    "retrieval",
    "verification",
    "commit",
    "launch",
    "all-reduce",
)
ASSUMED_SPREAD = {
    "target linear": 0.15,
    "target attention": 0.4,
    "target head": 0.2,
    "padding": 0.5,
    "drafter": 0.3,
    "drafter head": 0.3,
    "all-reduce": 0.5,
}
"""Relative half-width of each term's 95 % interval before calibration; 0.8 where a term is not listed."""


class StepConditions(Frozen):
    """What a step is asked to do.

    Parameters
    ----------
    batch : float
        Requests.
    context : float
        Mean cached tokens of a request.
    level_widths : tuple of int
        Nodes of each level of the draft tree of one request, first level first; empty when speculation is off.
    drafted_levels : int, optional
        Levels that cost the drafter a step; all of them when None (retrieval's levels cost none).
    retrieval_queries : int
        Look-ups a request in a suffix structure.
    prefill_tokens : float
        Tokens of prompts in the same step.
    """

    batch: float = Field(default=1.0, gt=0)
    context: float = Field(default=512.0, ge=0)
    level_widths: tuple[int, ...] = ()
    drafted_levels: int | None = None
    retrieval_queries: int = 0
    prefill_tokens: float = 0.0

    @property
    def verified(self) -> float:
        """Tokens that the target computes, roots included."""
        return self.batch * (1 + sum(self.level_widths))

    @property
    def drafter_widths(self) -> tuple[int, ...]:
        """Nodes that enter the drafter at each of its steps: the root, then each level but the last."""
        levels = len(self.level_widths) if self.drafted_levels is None else self.drafted_levels
        return (1, *self.level_widths)[: min(levels, len(self.level_widths))]


@dataclass(frozen=True)
class StepCost:
    """Seconds of a step by term.

    Parameters
    ----------
    target, device : ModelShape, Device
        What runs, where.
    drafter, drafter_head : optional
        Drafter, and its head when it is not the full one of its configuration.
    linear, attention : Roofline
        Coefficients of the two operator classes.
    split_kv : bool
        Whether attention over several query tokens splits the context; without it each block walks it alone.
    graphs : bool
        Whether launches are captured in graphs of the `graph_sizes`.
    launch_s, graph_launch_s, host_s : float
        A kernel launch, a graph launch, and what the host adds to each step.
    query_s : float
        One look-up in a suffix structure.
    scale, spread : mapping
        By term: factor and relative half-width, as `calibrate` sets them.
    """

    target: ModelShape
    device: Device
    drafter: ModelShape | None = None
    drafter_head: DrafterHead | None = None
    linear: Roofline = field(default_factory=lambda: Roofline(0.85, 0.65, 4.0, 0.0))
    attention: Roofline = field(default_factory=lambda: Roofline(0.7, 0.4, 3.0, 0.0))
    split_kv: bool = True
    graphs: bool = True
    graph_sizes: tuple[int, ...] = VLLM_SIZES
    tensor_parallel: int = 1
    launch_s: float = 5e-6
    graph_launch_s: float = 1e-6
    host_s: float = 3e-4
    query_s: float = 2e-5
    walk_s: float = 3e-8
    kv_bits: float = 16.0
    scale: Mapping[str, float] = field(default_factory=dict[str, float])
    spread: Mapping[str, float] = field(default_factory=lambda: dict(ASSUMED_SPREAD))

    def terms(self, conditions: StepConditions) -> dict[str, Estimate]:
        """Every term of a step, in seconds, with its interval; the names are `TERMS`."""
        out: dict[str, Estimate] = {}
        for name, raw in self.raw_terms(conditions).items():
            value, wide = raw * self.scale.get(name, 1.0), self.spread.get(name, 0.8)
            origin = "fitted" if name in self.scale else "predicted"
            out[name] = Estimate(value=value, low=max(value * (1 - wide), 0.0), high=value * (1 + wide), origin=origin)
        return out

    def seconds(self, conditions: StepConditions) -> Estimate:
        """The whole step; terms' errors are taken as independent, so their half-widths add in squares."""
        terms = self.terms(conditions).values()
        total = math.fsum(term.value for term in terms)
        half = math.sqrt(math.fsum((term.high - term.value) ** 2 for term in terms))
        origin = "fitted" if self.scale else "predicted"
        return Estimate(value=total, low=max(total - half, 0.0), high=total + half, origin=origin)

    def raw_terms(self, conditions: StepConditions) -> dict[str, float]:
        """Seconds of each term before scaling."""
        asked, batch = conditions.verified + conditions.prefill_tokens, conditions.batch
        computed = float(padded_tokens(asked, self.graph_sizes)) if self.graphs else asked
        plain, padded = self._forward(self.target, asked, conditions), self._forward(self.target, computed, conditions)
        drafter, drafter_head, drafter_launches = self._drafting(conditions)
        target_launches = sum(operator.launches for operator in plain[3])
        launches = target_launches + drafter_launches
        each = self.graph_launch_s if self.graphs and computed <= self.graph_sizes[-1] else self.launch_s
        vocabulary = self.target.vocabulary / self.tensor_parallel
        bandwidth = self.device.bandwidth_bytes_per_s.value
        moved = self.target.kv_bytes_per_token(bits=self.kv_bits, tensor_parallel=self.tensor_parallel)
        return {
            "target linear": plain[0],
            "target attention": plain[1],
            "target head": plain[2],
            "padding": max(padded[0] - plain[0], 0.0),
            "drafter": drafter,
            "drafter head": drafter_head,
            "retrieval": self.query_s * conditions.retrieval_queries * batch,
            "verification": 4 * 4.0 * conditions.verified * vocabulary / bandwidth,
            "commit": 2.0 * moved * conditions.verified / bandwidth,
            "launch": self.host_s + each * launches,
            "all-reduce": self._all_reduce(asked),
        }

    def _forward(
        self, shape: ModelShape, tokens: float, conditions: StepConditions
    ) -> tuple[float, float, float, tuple[Operator, ...]]:
        """Seconds of linear operators, attention and head, and the operators themselves."""
        operators = shape.operators(
            tokens,
            batch=min(conditions.batch, tokens),
            context=conditions.context,
            tensor_parallel=self.tensor_parallel if shape is self.target else 1,
            kv_bits=self.kv_bits,
        )
        linear = attention = head = 0.0
        for operator in operators:
            roof = self.attention if operator.kind == "attention" else self.linear
            seconds = float(roof.seconds(operator.moved_bytes, operator.flops, self.device))
            if operator.kind == "attention":
                attention += max(seconds, self._walk(shape, tokens, conditions))
            elif operator.kind == "head":
                head += seconds
            else:
                linear += seconds
        return linear, attention, head, operators

    def _walk(self, shape: ModelShape, tokens: float, conditions: StepConditions) -> float:
        """Without split-KV: waves of blocks, each walking the whole context, in every layer."""
        if self.split_kv or tokens <= conditions.batch:
            return 0.0
        blocks = conditions.batch * shape.heads / self.tensor_parallel * math.ceil(tokens / conditions.batch / 64)
        waves = math.ceil(blocks / self.device.multiprocessors.value)
        return shape.layers * waves * self.walk_s * (conditions.context + tokens / conditions.batch)

    def _drafting(self, conditions: StepConditions) -> tuple[float, float, int]:
        """Seconds of the drafter's layers and heads over its steps, and its launches."""
        widths = conditions.drafter_widths
        if self.drafter is None or not widths:
            return 0.0, 0.0, 0
        body = head = 0.0
        launches = 0
        for width in widths:
            rows = conditions.batch * width
            linear, attention, full_head, operators = self._forward(self.drafter, rows, conditions)
            launches += sum(operator.launches for operator in operators)
            body += linear + attention
            chosen = self.drafter_head
            head += (
                full_head
                if chosen is None
                else float(self.linear.seconds(chosen.bytes_moved(rows), chosen.flops(rows), self.device))
            )
        return body, head, launches

    def _all_reduce(self, tokens: float) -> float:
        if self.tensor_parallel == 1:
            return 0.0
        one = assumed_all_reduce(self.device).seconds(2.0 * tokens * self.target.hidden, self.tensor_parallel)
        return 2 * self.target.layers * float(one)

    def __post_init__(self) -> None:
        unknown = sorted((set(self.scale) | set(self.spread)) - set(TERMS))
        require(
            not unknown, "`scale` and `spread` must name terms of a step", got=unknown, fix=f"Use {', '.join(TERMS)}."
        )
