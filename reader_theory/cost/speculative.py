"""A speculative step of a serving engine, fitted to its logged runs: a dozen physical coefficients, each with a unit.

Prefer it when an engine's own benchmark logs exist (inter-token latency by concurrency and number of drafts): the fit
predicts other depths, loads and drafters on the same engine and card, plain decoding included, and says how far off.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from reader_theory.cost.communication import assumed_all_reduce
from reader_theory.cost.device import Device
from reader_theory.cost.known import KNOWN, known_shape
from reader_theory.cost.model import ModelShape
from reader_theory.cost.padding import VLLM_SIZES, padded_tokens
from reader_theory.cost.roofline import p_norm
from reader_theory.cost.terms import Forwards, FunctionTerm, StepConditions, StepModel, Term
from reader_theory.errors import require
from reader_theory.estimate import Origin

__all__ = ["Coefficients", "EngineStep", "Load"]

Array = NDArray[np.float64]
FULL_CACHE = 0.05
"""Share of requests that wait for pages from which on the cache counts as full."""


@dataclass(frozen=True)
class Coefficients:
    """What the data decides; times in seconds, shares of the device's peaks.

    Parameters
    ----------
    bandwidth_share, flops_share, p : float
        Target's linear operators: reached shares and sharpness of the knee.
    host_s : float
        Constant per step.
    attention_ratio : float
        Time of reading the KV over its bytes at peak bandwidth.
    drafter_launch_s : float
        Per drafter layer and step.
    drafter_flops_share : float
        Drafter's linear operators in a batch.
    speculation_s : float
        Constant per step once anything is drafted: proposing, verifying, preparing inputs.
    verify_s : float
        Per verified row and vocabulary entry.
    burst : float
        Prefills that arrive together.
    prefill_step_s, prefill_layer_s : float
        Extra of a step that holds a prefill, which leaves the captured graphs; and per layer of the drafter.
    eager_s : float
        Extra of a step with more rows than the largest captured graph.
    drafter_ratio : mapping
        Drafter's time over what its weights and KV predict, by name; 1 for one that was not measured.
    preemptions : float
        Preemptions a request where the cache is full; each reads a prompt once more.
    """

    bandwidth_share: float
    flops_share: float
    p: float
    host_s: float
    attention_ratio: float
    drafter_launch_s: float
    drafter_flops_share: float
    speculation_s: float
    verify_s: float
    burst: float = 2.0
    prefill_step_s: float = 0.0
    prefill_layer_s: float = 0.0
    eager_s: float = 0.0
    drafter_ratio: Mapping[str, float] = field(default_factory=dict[str, float])
    preemptions: float = 0.5


@dataclass(frozen=True)
class Load:
    """Rows of a table of runs, as arrays of one length.

    Parameters
    ----------
    running : (n,) float64
        Requests decoding in a step.
    drafts : (n,) float64
        Draft tokens a request and step, k; zero when speculation is off.
    drafter : (n,) str
        Name of the drafter, "None" without one.
    context, prompt : (n,) float64
        Mean cached tokens of a running request; tokens of a prompt.
    prefills : (n,) float64
        Prompts admitted a step: running x tokens a step / tokens a request.
    waiting_ratio : (n,) float64
        Requests between first and last token over requests running; above 1 when the cache preempts.
    """

    running: Array
    drafts: Array
    drafter: NDArray[np.str_]
    context: Array
    prompt: Array
    prefills: Array
    waiting_ratio: Array

    @property
    def drafters(self) -> tuple[str, ...]:
        """Names of the drafters that ran."""
        return tuple(sorted(set(self.drafter.tolist()) - {"None"}))

    def conditions(self, prefill_tokens: ArrayLike = 0.0) -> StepConditions:
        """The runs as conditions of steps, one an entry: a drafter runs a forward of one token for each draft."""
        times = {name: np.where(self.drafter == name, self.drafts, 0.0)[:, None] for name in self.drafters}
        return StepConditions(
            batch=self.running,
            context=self.context,
            tokens=self.drafts + 1,
            forwards={name: Forwards(1.0, each) for name, each in times.items()},
            drafting=self.drafts > 0,
            prefill_tokens=prefill_tokens,
        )

    def rows(self, chosen: NDArray[np.bool_]) -> Load:
        """The rows where `chosen` is true."""
        return Load(*(getattr(self, field.name)[chosen] for field in fields(self)))


@dataclass(frozen=True)
class EngineStep:
    """An engine, a target and a card, with coefficients.

    Parameters
    ----------
    target, drafters : ModelShape, mapping
        The models; a drafter that is missing here is looked up among the known ones.
    device : Device
        Peaks that the shares refer to: those of one card.
    tensor_parallel : int, >= 1
        Cards that share the target, two all-reduces a layer; a drafter is whole on each, as in `StepCost`.
    """

    target: ModelShape
    device: Device
    coefficients: Coefficients
    drafters: Mapping[str, ModelShape] = field(default_factory=lambda: dict(KNOWN))
    tensor_parallel: int = 1

    def __post_init__(self) -> None:
        require(
            self.tensor_parallel >= 1,
            "`tensor_parallel` must be at least 1",
            got=self.tensor_parallel,
            fix="Pass the number of cards that share the target's layers.",
        )

    @property
    def model(self) -> StepModel:
        """The equation of a step; a drafter's term goes by its name in `drafter_ratio`."""
        c, target, cards = self.coefficients, self.target, self.tensor_parallel
        bandwidth = self.device.bandwidth_bytes_per_s.value
        reading = c.attention_ratio * target.kv_bytes_per_token(tensor_parallel=cards) / bandwidth
        found: dict[str, Callable[[StepConditions], Array]] = {
            "target linear": self._linear,
            "target attention": lambda s: np.asarray(s.batch) * s.context * reading,
            "verification": lambda s: s.verified * s.drafting * (c.verify_s * target.vocabulary / cards),
            "speculation": lambda s: np.where(s.drafting, c.speculation_s, 0.0),
            "host": lambda s: np.where(_rows(s) > VLLM_SIZES[-1], c.host_s + c.eager_s, c.host_s),
        }
        if cards > 1:
            found["all-reduce"] = self._all_reduce
        drafters = (DrafterTerm(name, self, ratio) for name, ratio in c.drafter_ratio.items())
        return StepModel((*(FunctionTerm(name, each, origin="fitted") for name, each in found.items()), *drafters))

    def step_s(self, load: Load, prefill_tokens: ArrayLike = 0.0) -> Array:
        """Seconds of a step without prefill (or with `prefill_tokens` of it): what a median gap shows."""
        return self._known(load).model.seconds(load.conditions(prefill_tokens))

    def _known(self, load: Load) -> EngineStep:
        """With a ratio of 1 for every drafter of `load` that was not measured."""
        ratios = {name: 1.0 for name in load.drafters} | dict(self.coefficients.drafter_ratio)
        return replace(self, coefficients=replace(self.coefficients, drafter_ratio=ratios))

    def _linear(self, s: StepConditions) -> Array:
        c, target = self.coefficients, self.target
        body = target.parameters() - target.vocabulary * target.hidden * (1 if target.tied else 2)
        head = float(target.vocabulary * target.hidden)
        weights = (body * target.weight_bits / 8 + 2 * head) / (
            c.bandwidth_share * self.device.bandwidth_bytes_per_s.value
        )
        arithmetic = 2 * (body * _rows(s) + head * s.verified) / (c.flops_share * self.device.flops_per_s())
        return p_norm(weights, arithmetic, c.p) / self.tensor_parallel

    def _all_reduce(self, s: StepConditions) -> Array:
        one = assumed_all_reduce(self.device).seconds(2.0 * _rows(s) * self.target.hidden, self.tensor_parallel)
        return 2 * self.target.layers * one

    def mean_gap_s(self, load: Load) -> Array:
        """Mean seconds between two outputs: prefills, first and repeated, share some steps; the preempted wait."""
        c, base = self.coefficients, self.step_s(load)
        full = np.clip((load.waiting_ratio - 1) / FULL_CACHE, 0.0, 1.0)
        prefills = load.prefills * (1 + c.preemptions * full)
        share = np.maximum(-np.expm1(-prefills / c.burst), 1e-9)
        tokens = prefills * load.prompt / share
        extra = self.step_s(load, tokens) - base + self.drafter_prefill_s(load, tokens) + c.prefill_step_s
        return (base + share * extra) * load.waiting_ratio

    def drafter_prefill_s(self, load: Load, tokens: Array) -> Array:
        """Seconds in which the drafter reads `tokens` of prompts, launching layer by layer."""
        shapes = [self._shape(name) if name != "None" else None for name in load.drafter.tolist()]
        flops = np.array([2 * shape.parameters() if shape else 0.0 for shape in shapes])
        layers = np.array([shape.layers if shape else 0 for shape in shapes])
        rate = self.coefficients.flops_share * self.device.flops_per_s()
        return flops * tokens / rate + layers * self.coefficients.prefill_layer_s

    def drafter_s(self, name: str, batch: Array, tokens: Array, context: Array) -> Array:
        """Seconds of one forward of a drafter over `tokens` a row."""
        c, shape = self.coefficients, self._shape(name)
        bandwidth, rate = self.device.bandwidth_bytes_per_s.value, self.device.flops_per_s()
        read = shape.parameters() - (0 if shape.tied else shape.vocabulary * shape.hidden)
        linear = p_norm(
            2 * read / (c.bandwidth_share * bandwidth), 2 * read * batch * tokens / (c.drafter_flops_share * rate), c.p
        )
        kv = c.attention_ratio * shape.kv_bytes_per_token() * batch * context / bandwidth
        return linear + kv + shape.layers * c.drafter_launch_s

    def _shape(self, name: str) -> ModelShape:
        return self.drafters[name] if name in self.drafters else known_shape(name)


@dataclass(frozen=True)
class DrafterTerm(Term):
    """Forwards of one drafter of an engine."""

    name: str
    engine: EngineStep
    ratio: float
    origin: Origin = "fitted"

    def seconds(self, conditions: StepConditions) -> Array:
        """Its forwards, times what it took over what its weights and KV predict."""
        return self.ratio * conditions.over(self.name, lambda b, n, x: self.engine.drafter_s(self.name, b, n, x))


def _rows(conditions: StepConditions) -> Array:
    """Tokens that the target computes: padded to a graph, and prompts beside them."""
    padded = padded_tokens(np.ceil(conditions.verified - 0.3))
    return padded + np.asarray(conditions.prefill_tokens, dtype=np.float64)
