"""A virtual machine: what a calibration and a run are measured on where the truth must be known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from reader_theory.documents import DraftForwards, Off, Policy
from runtime.engine.counters import StepTiming
from runtime.measure.bench import TARGET, Point, SeenStep

Forward = Callable[[int, int, float], float]
"""Seconds of a forward by batch, query tokens a row, context."""
Clock = Callable[[float], float]
"""Times slower than normal at so many seconds since the start."""


def steady(now_s: float) -> float:
    """A machine that keeps its pace."""
    return 1.0


def drifting(now_s: float) -> float:
    """One that grows slower by a third in ten minutes, in waves."""
    return 1 + now_s / 1800 + 0.08 * float(np.sin(now_s / 7))


def jumping(now_s: float) -> float:
    """One that is half as slow again for 9 seconds of every 31."""
    return 1.5 if now_s % 31 > 22 else 1.0


def target_forward(batch: int, tokens: int, context: float) -> float:
    """Flat for few tokens, then by the token."""
    rows = batch * tokens
    return 0.02 + 1e-4 * rows + 1.5e-4 * max(rows - 24, 0) + 1e-7 * batch * context


def draft_forward(batch: int, tokens: int, context: float) -> float:
    """A small model: mostly overhead."""
    return 1.2e-3 + 1.5e-5 * batch * tokens


@dataclass
class VirtualBench:
    """A `Bench` with a clock of its own.

    Parameters
    ----------
    pace : Clock
    warm : float
        Share by which a step is slower right after a change of policy; it fades over a few steps.
    alone : float
        Seconds of a forward alone over those inside the engine, of one token.
    wide : float
        Share by which the same falls with each doubling of the tokens.
    kind : float
        Standard deviation of the logarithm by which a policy's steps differ from the sum of the terms.
    noise : float
        The same of one step.
    evicts : float
        Share by which the target's forward is slower where a draft ran before it.
    halts : float
        Chance that the machine is elsewhere for a while during a forward or a step.
    emits : float
        Tokens a row that a drafting step emits.
    """

    target: Forward = target_forward
    draft: Forward = draft_forward
    pace: Clock = steady
    warm: float = 0.15
    alone: float = 0.9
    wide: float = 0.03
    kind: float = 0.02
    noise: float = 0.02
    evicts: float = 0.08
    halts: float = 0.0
    emits: float = 2.0
    seed: int = 0
    now_s: float = 0.0
    _last: tuple[Policy, int] | None = None
    _run: int = 0
    _offs: dict[Policy, float] = field(default_factory=dict[Policy, float])

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)

    def reference(self) -> float:
        """A forward of one row, three times."""
        return float(np.median([self._spend(self.alone * self.target(1, 1, 64)) for _ in range(3)]))

    def forward(self, who: str, point: Point) -> float:
        """Alone, where it is faster than in the engine."""
        model = self.target if who == TARGET else self.draft
        return self._spend(self.alone * (1 - self.wide * np.log2(point[1])) * model(*point))

    def step_s(self, policy: Policy, batch: int, width: int, context: float = 200.0) -> dict[str, float]:
        """True seconds of a steady step by term, at pace 1."""
        if policy.shape == "off":
            return {"target": self.target(batch, 1, context), "around": 3e-4 + 5e-5 * batch}
        off = self.off_of(policy)
        asked = DraftForwards().sizes(policy.asked_widths, self.emits) if policy.asks and policy.kind != "grown" else ()
        drafted = sum(self.draft(batch, int(tokens), context) for tokens in asked)
        parts = {
            "target": (1 + self.evicts * (policy.asks is not None)) * self.target(batch, width, context),
            "draft": drafted + (2e-4 * batch if policy.kind == "grown" else 0.0),
            "retrieval": 6e-5 * batch if policy.retrieved is not None else 0.0,
            "verify": 1.2e-4 * batch,
            "commit": 4e-5 * batch,
            "around": 5e-4,
        }
        return {name: off * seconds for name, seconds in parts.items()}

    def off_of(self, policy: Policy) -> float:
        """What this policy is off by beside the sum of its terms."""
        if policy not in self._offs:
            here = np.random.default_rng([self.seed, len(self._offs)])
            self._offs[policy] = float(np.exp(here.normal(0.0, self.kind)))
        return self._offs[policy]

    def stretch(self, loaded: tuple[str, ...], policy: Policy, batch: int, steps: int) -> list[SeenStep | None]:
        """Steps in a row; the first after a change are slower."""
        return [self._step(policy, batch) for _ in range(steps)]

    def _step(self, policy: Policy, batch: int) -> SeenStep:
        self._run = self._run + 1 if self._last == (policy, batch) else 0
        self._last = (policy, batch)
        context = float(self.rng.uniform(128, 400))
        width = 1 if policy.shape == "off" else self._width(policy)
        cold = 1 + self.warm * float(np.exp(-self._run / 2))
        parts = {name: cold * s for name, s in self.step_s(policy, batch, width, context).items()}
        whole = sum(parts.values())
        slower = self._spend(whole) / whole
        drafted = policy.shape != "off"
        seconds = {name: slower * s for name, s in parts.items()}
        timing = StepTiming(
            rows=batch, emitted=round(self.emits * batch) if drafted else batch, nodes=batch * (width - 1), width=width,
            drafted=policy.asks is not None, step_s=sum(seconds.values()), draft_s=seconds.get("draft", 0.0),
            retrieval_s=seconds.get("retrieval", 0.0), target_s=seconds["target"], verify_s=seconds.get("verify", 0.0),
            commit_s=seconds.get("commit", 0.0),
        )  # fmt: skip
        return SeenStep(policy, timing, context, self.emits)

    def _width(self, policy: Policy) -> int:
        if policy.kind == "static":
            return policy.tree.nodes + 1
        if policy.kind == "chain" and policy.factor == 0:
            return policy.max_tokens + 1
        return 1 + int(self.rng.integers(1, policy.most_nodes + 1))

    def _spend(self, seconds: float) -> float:
        took = seconds * self.pace(self.now_s) * float(np.exp(self.rng.normal(0.0, self.noise)))
        if self.halts and self.rng.random() < self.halts:
            took *= float(self.rng.uniform(1.5, 4))
        self.now_s += took
        return took


PLAIN = Off()
