"""One speculative step on one device or several, term by term, each with its interval.

Prefer it before anything was measured: it needs a model's configuration and a device. Operators are predicted by the
models fitted to public tables where these know the device, and by assumed rooflines, with wider intervals, where not.
`calibrate` then scales its terms to as few measured steps as there are; `runs` fits an engine's own logs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from reader_theory.cost.communication import assumed_all_reduce
from reader_theory.cost.device import Device
from reader_theory.cost.head import DrafterHead
from reader_theory.cost.model import ModelShape
from reader_theory.cost.operators import OperatorFits, shipped_fits
from reader_theory.cost.padding import VLLM_SIZES, padded_tokens
from reader_theory.cost.roofline import Roofline
from reader_theory.cost.terms import FunctionTerm, StepConditions, StepModel
from reader_theory.cost.tree_attention import BLOCK_ROWS
from reader_theory.errors import require
from reader_theory.estimate import Origin

__all__ = ["STEP_TERMS", "StepCost"]

STEP_TERMS = (
    "target linear",
    "target attention",
    "target head",
    "padding",
    "drafter",
    "drafter head",
    "drafter rows",
    "retrieval",
    "drafting",
    "verification",
    "commit",
    "step",
    "tokens",
    "launch",
    "all-reduce",
)
ASSUMED_SPREAD = {
    "target linear": 0.25,
    "target attention": 0.5,
    "target head": 0.3,
    "padding": 0.5,
    "drafter": 0.4,
    "drafter head": 0.4,
    "all-reduce": 0.5,
}
"""Relative half-width of each term's 95 % interval where nothing was fitted; `UNKNOWN_SPREAD` of those not listed."""
UNKNOWN_SPREAD = 0.8
DRAFT, RETRIEVAL = "draft", "retrieval"
"""Names of the drafters whose forwards and look-ups it prices."""
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class _Forward:
    """Seconds of a forward's operators, and how many launches they are."""

    linear: Floats
    attention: Floats
    head: Floats
    launches: int

    @property
    def body(self) -> Floats:
        """All but the head."""
        return self.linear + self.attention


@dataclass(frozen=True)
class StepCost:
    """A step before anything was measured: its `model` has a predicted term for each of `STEP_TERMS`.

    Parameters
    ----------
    target, device : ModelShape, Device
        What runs, where.
    drafter, drafter_head : optional
        Drafter, and its head when it is not the full one of its configuration.
    fits : OperatorFits, optional
        Fitted models of products and attention, used where they know the device; None for rooflines alone.
    linear, attention : Roofline
        Assumed coefficients of the operators that no fit knows: experts, latent attention, other cards.
    split_kv : bool
        Whether attention over several query tokens splits the context; without it each block walks it alone.
    graphs : bool
        Whether launches are captured in graphs of the `graph_sizes`.
    launch_s, graph_launch_s, host_s : float
        A kernel launch, a graph launch, and what the host adds to each step.
    query_s : float
        One look-up in a suffix structure.
    step_s, token_s, drafting_s, row_by_row : float
        What an engine adds to each step, to each token of the target, and to a step that has drafts, whatever they
        are; and how much of a batch's drafts it computes one row at a time (0: none, 1: all). Nothing, as long as
        nobody measured it.
    scale, spread : mapping
        By term: factor, as `calibrate` sets it, and relative half-width where it is known better than is assumed.
    covariance, misfit : optional
        Of the factors in `scale`, and the relative error of their sum, as `calibrate` sets them.
    """

    target: ModelShape
    device: Device
    drafter: ModelShape | None = None
    drafter_head: DrafterHead | None = None
    fits: OperatorFits | None = field(default_factory=shipped_fits)
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
    step_s: float = 0.0
    token_s: float = 0.0
    drafting_s: float = 0.0
    row_by_row: float = 0.0
    walk_s: float = 3e-8
    kv_bits: float = 16.0
    scale: Mapping[str, float] = field(default_factory=dict[str, float])
    spread: Mapping[str, float] = field(default_factory=dict[str, float])
    covariance: tuple[tuple[float, ...], ...] | None = None
    misfit: float = 0.0

    @property
    def model(self) -> StepModel:
        """The equation of a step, with every predicted term scaled as `calibrate` says."""
        return StepModel(
            tuple(
                FunctionTerm(name, function, self.scale.get(name, 1.0), self.spread_of(name), self.origin_of(name))
                for name, function in self._functions().items()
            ),
            covariance=self.covariance,
            misfit=self.misfit,
        )

    def spread_of(self, name: str) -> float:
        """Relative half-width of a term's 95 % interval: as calibrated, as fitted, or assumed."""
        if self.covariance is not None:
            place = STEP_TERMS.index(name)
            return 1.96 * float(np.sqrt(self.covariance[place][place])) / max(self.scale.get(name, 1.0), 1e-3)
        fitted = self._fitted_spread(name)
        assumed = ASSUMED_SPREAD.get(name, UNKNOWN_SPREAD)
        return self.spread.get(name, assumed if fitted is None else 1.96 * fitted)

    def origin_of(self, name: str) -> Origin:
        """Whether a term was fitted to measurements, of this machine or of its like, or is assumed."""
        return "fitted" if name in self.scale or self._fitted_spread(name) is not None else "assumed"

    def _fitted_spread(self, name: str) -> float | None:
        """Root mean square error of the fits behind a term; None where it has none, or leans on a roofline as well."""
        shape = self.drafter if name.startswith("drafter") else self.target
        if self.fits is None or shape is None or shape.experts is not None:
            return None
        products = self.fits.products_spread(self.device, shape)
        attention = self.fits.attention_spread(self.device, shape)
        if name in ("target linear", "target head", "padding", "drafter head"):
            return None if name == "drafter head" and self.drafter_head is not None else products
        if name == "drafter":
            return None if products is None or attention is None else max(products, attention)
        return attention if name == "target attention" else None

    @property
    def output_head(self) -> DrafterHead | None:
        """The drafter's output head: the one that was given, or the full one of its configuration."""
        if self.drafter is None or self.drafter_head is not None:
            return self.drafter_head
        return DrafterHead(hidden=self.drafter.hidden, vocabulary=self.drafter.vocabulary)

    @property
    def unscaled(self) -> StepModel:
        """The same before `scale`."""
        return replace(self, scale={}).model

    def _functions(self) -> dict[str, Callable[[StepConditions], Floats]]:
        vocabulary = self.target.vocabulary / self.tensor_parallel
        bandwidth = self.device.bandwidth_bytes_per_s.value
        moved = self.target.kv_bytes_per_token(bits=self.kv_bits, tensor_parallel=self.tensor_parallel)
        return {
            "target linear": lambda c: self._target(c).linear,
            "target attention": lambda c: self._target(c).attention,
            "target head": lambda c: self._target(c).head,
            "padding": lambda c: np.maximum(self._target(c, padded=True).linear - self._target(c).linear, 0.0),
            "drafter": lambda c: c.over(DRAFT, lambda b, n, x: self._drafter(b, n, x).body),
            "drafter head": lambda c: c.over(DRAFT, lambda b, n, x: self._drafter(b, n, x).head),
            "drafter rows": lambda c: c.over(DRAFT, self._row_by_row),
            "retrieval": lambda c: c.over(RETRIEVAL, lambda b, n, x: self.query_s * b),
            "drafting": lambda c: np.where(c.drafting, self.drafting_s, 0.0),
            "verification": lambda c: 4 * 4.0 * c.verified * vocabulary / bandwidth,
            "commit": lambda c: 2.0 * moved * c.verified / bandwidth,
            "step": lambda c: np.asarray(self.step_s),
            "tokens": lambda c: self.token_s * (c.verified + c.prefill_tokens),
            "launch": self._launch,
            "all-reduce": lambda c: self._all_reduce(c.verified + c.prefill_tokens),
        }

    def _computed(self, conditions: StepConditions) -> Floats:
        """Tokens that the target's graph computes."""
        asked = conditions.verified + conditions.prefill_tokens
        return padded_tokens(asked, self.graph_sizes) if self.graphs else asked

    def _target(self, c: StepConditions, *, padded: bool = False) -> _Forward:
        asked = self._computed(c) if padded else c.verified + c.prefill_tokens
        return self._forward(self.target, asked, np.asarray(c.batch, dtype=np.float64), np.asarray(c.context))

    def _drafter(self, batch: Floats, tokens: Floats, context: Floats) -> _Forward:
        """One forward of the drafter, with the head that it has."""
        if self.drafter is None:
            return _Forward(*(np.zeros(()) for _ in range(3)), launches=0)
        rows = batch * tokens
        found, chosen = self._forward(self.drafter, rows, batch, context), self.drafter_head
        if chosen is None:
            return found
        full = DrafterHead(hidden=self.drafter.hidden, vocabulary=self.drafter.vocabulary)
        less, whole = (
            self.linear.seconds(each.bytes_moved(rows), each.flops(rows), self.device) for each in (chosen, full)
        )
        return replace(found, head=found.head * less / whole)  # so that both are of one model of products

    def _row_by_row(self, batch: Floats, tokens: Floats, context: Floats) -> Floats:
        """What a forward for each row takes beside one forward of the batch, as far as that is done."""
        if not self.row_by_row:
            return np.zeros(())
        together, alone = self._drafter(batch, tokens, context), self._drafter(np.ones_like(batch), tokens, context)
        return self.row_by_row * np.maximum(batch * (alone.body + alone.head) - together.body - together.head, 0.0)

    def _forward(self, shape: ModelShape, tokens: Floats, batch: Floats, context: Floats) -> _Forward:
        operators = shape.operators(
            tokens,
            batch=np.minimum(batch, tokens),
            context=context,
            tensor_parallel=self.tensor_parallel if shape is self.target else 1,
            kv_bits=self.kv_bits,
        )
        parallel = self.tensor_parallel if shape is self.target else 1
        products = None if self.fits is None else self.fits.products_s(shape, tokens, self.device, parallel)
        reading = None if self.fits is None else self._fitted_attention(self.fits, shape, tokens, batch, context)
        seconds = {"attention": np.zeros(()), "head": np.zeros(()), "linear": np.zeros(())}
        for operator in operators:
            kind = operator.kind if operator.kind in seconds else "linear"
            if kind == "attention" and reading is not None:
                spent = reading
            elif products is not None and operator.kind in ("linear", "head"):
                continue
            else:
                roof = self.attention if kind == "attention" else self.linear
                spent = roof.seconds(operator.moved_bytes, operator.flops, self.device)
                if kind == "attention":
                    walks = (n * self._walk(shape, tokens, batch, seen) for n, seen in shape.reaches(context))
                    spent = np.maximum(spent, sum(walks))
            seconds[kind] = seconds[kind] + spent
        for kind, spent in zip(("linear", "head"), products or (), strict=False):
            seconds[kind] = seconds[kind] + spent
        return _Forward(**seconds, launches=sum(operator.launches for operator in operators))

    def _fitted_attention(
        self, fits: OperatorFits, shape: ModelShape, tokens: Floats, batch: Floats, context: Floats
    ) -> Floats | None:
        rows, seconds = np.minimum(batch, tokens), np.zeros(())
        for layers, seen in shape.reaches(context):
            one = fits.attention_s(
                shape, tokens / rows, rows, seen, self.device, kv_bits=self.kv_bits, split_kv=self.split_kv,
                tensor_parallel=self.tensor_parallel if shape is self.target else 1,
            )  # fmt: skip
            if one is None:
                return None
            seconds = seconds + layers * np.maximum(one, self._walk(shape, tokens, batch, seen))
        return seconds

    def _walk(self, shape: ModelShape, tokens: Floats, batch: Floats, context: Floats) -> Floats:
        """Without split-KV: waves of blocks in a layer, each walking what the layer reads."""
        if self.split_kv:
            return np.zeros(())
        queries = tokens / batch
        blocks = batch * shape.heads / self.tensor_parallel * np.ceil(queries / BLOCK_ROWS)
        waves = np.ceil(blocks / self.device.multiprocessors.value)
        return np.where(queries > 1, waves * self.walk_s * (context + queries), 0.0)

    def _launch(self, c: StepConditions) -> Floats:
        drafting = c.over(DRAFT, lambda b, n, x: np.asarray(self._drafter(b, n, x).launches, dtype=np.float64))
        launches = self._target(c).launches + drafting
        captured = self.graphs & (self._computed(c) <= self.graph_sizes[-1])
        return self.host_s + np.where(captured, self.graph_launch_s, self.launch_s) * launches

    def _all_reduce(self, tokens: Floats) -> Floats:
        if self.tensor_parallel == 1:
            return np.zeros(())
        one = assumed_all_reduce(self.device).seconds(2.0 * tokens * self.target.hidden, self.tensor_parallel)
        return 2 * self.target.layers * one

    def __post_init__(self) -> None:
        unknown = sorted((set(self.scale) | set(self.spread)) - set(STEP_TERMS))
        require(
            not unknown,
            "`scale` and `spread` must name terms of a step",
            got=unknown,
            fix=f"Use {', '.join(STEP_TERMS)}.",
        )
