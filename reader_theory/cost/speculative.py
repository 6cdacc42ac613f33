"""A speculative step of a serving engine, fitted to its logged runs: a dozen physical coefficients, each with a unit.

Prefer it when an engine's own benchmark logs exist (inter-token latency by concurrency and number of drafts): the fit
predicts other depths, loads and drafters on the same engine and card, plain decoding included, and says how far off.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from reader_theory.cost.device import Device
from reader_theory.cost.known import KNOWN, known_shape
from reader_theory.cost.model import ModelShape
from reader_theory.cost.padding import VLLM_SIZES, padded_tokens
from reader_theory.cost.roofline import p_norm

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

    def rows(self, chosen: NDArray[np.bool_]) -> Load:
        """The rows where `chosen` is true."""
        return Load(
            self.running[chosen],
            self.drafts[chosen],
            self.drafter[chosen],
            self.context[chosen],
            self.prompt[chosen],
            self.prefills[chosen],
            self.waiting_ratio[chosen],
        )


@dataclass(frozen=True)
class EngineStep:
    """An engine, a target and a card, with coefficients.

    Parameters
    ----------
    target, drafters : ModelShape, mapping
        The models; a drafter that is missing here is looked up among the known ones.
    device : Device
        Peaks that the shares refer to.
    """

    target: ModelShape
    device: Device
    coefficients: Coefficients
    drafters: Mapping[str, ModelShape] = field(default_factory=lambda: dict(KNOWN))

    def terms(self, load: Load, prefill_tokens: ArrayLike = 0.0) -> dict[str, Array]:
        """Seconds of each named part of a step, for every row of `load`."""
        c, target = self.coefficients, self.target
        bandwidth, rate = self.device.bandwidth_bytes_per_s.value, self.device.flops_per_s()
        verified = load.running * (load.drafts + 1)
        rows = padded_tokens(np.ceil(verified - 0.3)) + np.asarray(prefill_tokens, dtype=np.float64)
        body = target.parameters() - target.vocabulary * target.hidden * (1 if target.tied else 2)
        head = float(target.vocabulary * target.hidden)
        weights = (body * target.weight_bits / 8 + 2 * head) / (c.bandwidth_share * bandwidth)
        arithmetic = 2 * (body * rows + head * verified) / (c.flops_share * rate)
        drafting = load.drafts > 0
        parts: dict[str, Array] = {
            "target linear": p_norm(weights, arithmetic, c.p),
            "target attention": load.running
            * load.context
            * (c.attention_ratio * target.kv_bytes_per_token() / bandwidth),
            "drafter": load.drafts * self._drafter_s(load),
            "verification": verified * drafting * (c.verify_s * target.vocabulary),
            "speculation": np.where(drafting, c.speculation_s, 0.0),
            "host": np.where(rows > VLLM_SIZES[-1], c.host_s + c.eager_s, c.host_s),
        }
        return parts

    def step_s(self, load: Load, prefill_tokens: ArrayLike = 0.0) -> Array:
        """Seconds of a step without prefill (or with `prefill_tokens` of it): what a median gap shows."""
        return np.sum(list(self.terms(load, prefill_tokens).values()), axis=0)

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

    def _drafter_s(self, load: Load) -> Array:
        c, out = self.coefficients, np.zeros(len(load.running))
        bandwidth, rate = self.device.bandwidth_bytes_per_s.value, self.device.flops_per_s()
        for name in sorted(set(load.drafter.tolist()) - {"None"}):
            at, shape = load.drafter == name, self._shape(name)
            read = shape.parameters() - (0 if shape.tied else shape.vocabulary * shape.hidden)
            linear = p_norm(
                2 * read / (c.bandwidth_share * bandwidth),
                2 * read * load.running[at] / (c.drafter_flops_share * rate),
                c.p,
            )
            kv = c.attention_ratio * shape.kv_bytes_per_token() * load.running[at] * load.context[at] / bandwidth
            out[at] = (linear + kv + shape.layers * c.drafter_launch_s) * c.drafter_ratio.get(name, 1.0)
        return out

    def _shape(self, name: str) -> ModelShape:
        return self.drafters[name] if name in self.drafters else known_shape(name)
