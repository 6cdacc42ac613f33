"""The bench that calibration and runs are measured on: forwards alone, steps of an engine kept full, and a fixed step.

`Bench` is all that the statistics of a calibration see of a machine, so that they are proved on a virtual one.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from reader_theory.documents import DraftForwards, Policy
from reader_theory.documents.policy import DATASTORE
from runtime.cache.rows import RowCache
from runtime.drafters.neural import NeuralDrafter
from runtime.engine.counters import StepTiming
from runtime.engine.engine import Engine
from runtime.engine.sampling import SamplingParams
from runtime.measure.prompts import PromptLike
from runtime.models.base import LanguageModel
from runtime.models.inputs import forward_trees
from runtime.retrieval.datastore import Datastore

__all__ = ["REFERENCE", "TARGET", "Bench", "EngineBench", "Point", "ReferenceStep", "SeenStep", "trial_of"]

Floats = NDArray[np.float64]
Point = tuple[int, int, int]
"""Batch, query tokens a row, context tokens a row."""
TARGET = ""
"""Whose forward it is, where it is not a drafter's."""

REFERENCE: Point = (1, 1, 64)
"""The fixed step: one row, one token, this context; shorter where the target has no room."""
READINGS = 3
"""Reference steps of one reading, of which it is the median; one more before them is not read."""
OUTPUT = 384
"""Most tokens that a request emits before it is replaced."""
RANKED = 8
"""Candidates that are read back from a drafter's forward."""


@dataclass(frozen=True)
class SeenStep:
    """One step of the engine, and what the tables have to explain it by."""

    policy: Policy
    timing: StepTiming
    context: float
    pending: float
    asked: tuple[int, ...] = ()
    """Tokens a row of each forward of the draft of a grown policy, which are different in every step."""
    takes: DraftForwards = NeuralDrafter.takes

    @property
    def forwards(self) -> Floats:
        """Tokens a row of each forward of the draft; empty when it did not run."""
        if self.policy.kind == "grown":
            return np.array(self.asked, dtype=np.float64)
        return self.takes.sizes(self.policy.asked_widths, self.pending) if self.timing.drafted else np.empty(0)


class Bench(Protocol):
    """What a machine is asked."""

    def reference(self) -> float:
        """Seconds of the fixed step, now."""
        ...

    def forward(self, who: str, point: Point) -> float:
        """Seconds of one forward alone, of `TARGET` or of the drafter of that name."""
        ...

    def stretch(self, loaded: tuple[str, ...], policy: Policy, batch: int, steps: int) -> list[SeenStep | None]:
        """So many steps in a row of a full batch under one policy, on an engine that keeps these drafters loaded.

        None stands for a step on which a request joined.
        """
        ...


class ReferenceStep:
    """A plain forward of the target over one row, always the same."""

    def __init__(self, target: LanguageModel) -> None:
        batch, tokens, context = REFERENCE
        self.point: Point = (batch, tokens, max(min(context, target.max_positions - tokens - 1), 1))
        self._run = _trial(target, target.new_cache(batch, self.point[2] + tokens + 1), self.point, 0)

    def __call__(self) -> float:
        """Median seconds of `READINGS`, after one that is not read."""
        return float(np.median([_timed(self._run) for _ in range(READINGS + 1)][1:]))


class EngineBench:
    """A real target with its drafts on this machine.

    Parameters
    ----------
    drafts : dict from name to LanguageModel
    prompts : sequence of prompts
        What is decoded, again and again.
    largest : Point
        Most rows, query tokens and context that a forward alone is asked for.
    datastore : Datastore, optional
        For policies that look it up.
    """

    def __init__(
        self,
        target: LanguageModel,
        drafts: dict[str, LanguageModel],
        prompts: Sequence[PromptLike],
        *,
        largest: Point,
        temperature: float,
        seed: int,
        datastore: Datastore | None = None,
    ) -> None:
        self.target, self.drafts, self.datastore = target, drafts, datastore
        self.largest, self.rng = largest, np.random.default_rng(seed)
        self.prompts = [prompts[int(i)] for i in self.rng.permutation(len(prompts))]
        longest = max(len(prompt.tokens) for prompt in prompts)
        limit = min(model.max_positions for model in (target, *drafts.values()))
        output = min(OUTPUT, limit - longest - 96)
        self.params = SamplingParams(temperature=temperature, max_new_tokens=output, seed=seed)
        self.max_context = longest + output + 80
        self.reference = ReferenceStep(target)
        self._trials: dict[tuple[str, Point], Callable[[], None]] = {}
        self._caches: dict[str, RowCache] = {}
        self._full: tuple[tuple[int, tuple[str, ...]], _Full] | None = None

    def forward(self, who: str, point: Point) -> float:
        """Seconds of a random tree over random committed rows; a drafter's top candidates are read back as well."""
        if (who, point) not in self._trials:
            model, (batch, tokens, context) = self.target if who == TARGET else self.drafts[who], self.largest
            if who not in self._caches:
                self._caches[who] = model.new_cache(batch, context + tokens + 1)
            ranked = 0 if who == TARGET else RANKED
            self._trials[who, point] = _trial(model, self._caches[who], point, ranked, self.rng)
            self._trials[who, point]()
        return _timed(self._trials[who, point])

    def stretch(self, loaded: tuple[str, ...], policy: Policy, batch: int, steps: int) -> list[SeenStep | None]:
        """Steps of an engine that is kept until others are loaded, or the batch is another."""
        if self._full is None or self._full[0] != (batch, loaded):
            self._full = None  # an engine's caches are large: one at a time
            self._full = (batch, loaded), self._engine(batch, loaded)
        return self._full[1].stretch(policy, steps)

    def _engine(self, batch: int, loaded: tuple[str, ...]) -> _Full:
        engine = Engine(
            self.target, drafters={name: NeuralDrafter(self.drafts[name]) for name in loaded if name in self.drafts},
            max_batch=batch, max_context=self.max_context, datastore=self.datastore if DATASTORE in loaded else None,
        )  # fmt: skip
        return _Full(engine, self.prompts, self.params)


class _Full:
    """An engine whose batch is kept full."""

    def __init__(self, engine: Engine, prompts: Sequence[PromptLike], params: SamplingParams) -> None:
        self.engine, self.params = engine, params
        self.prompts, self.numbers = itertools.cycle(prompts), itertools.count()

    def stretch(self, policy: Policy, steps: int) -> list[SeenStep | None]:
        """So many steps under one policy."""
        engine, batch = self.engine, self.engine.max_batch
        engine.use(policy)
        seen: list[SeenStep | None] = []
        emitted = 0
        for _ in range(steps):
            joining = batch - len(engine.rows)
            for _ in range(joining):
                engine.add(next(self.prompts).tokens, self.params, number=next(self.numbers))
            context = float(np.mean(engine.cache.lengths[:batch]))
            start = perf_counter()
            engine.step()
            whole_s = perf_counter() - start  # rows that leave are part of a run's seconds, and of no term
            timing = replace(engine.timings.pop(), step_s=whole_s)
            asked = tuple(int(sizes.max()) for sizes in engine.forwards if policy.kind == "grown")
            takes = NeuralDrafter.takes if policy.asks is None else engine.drafters[policy.asks].takes
            seen.append(None if joining else SeenStep(policy, timing, context, emitted / batch, asked, takes))
            emitted = timing.emitted
        return seen


def _timed(run: Callable[[], None]) -> float:
    start = perf_counter()
    run()
    return perf_counter() - start


def trial_of(draft: LanguageModel, cache: RowCache, point: Point) -> Callable[[], None]:
    """One forward of a draft, as `EngineBench` times it."""
    return _trial(draft, cache, point, RANKED)


def _trial(
    model: LanguageModel, cache: RowCache, point: Point, ranked: int, rng: np.random.Generator | None = None
) -> Callable[[], None]:
    """One forward of a tree over committed rows; something of the logits is read back, so that the device is done."""
    batch, queries, context = point
    rng = rng or np.random.default_rng(0)
    tokens = rng.integers(0, model.vocabulary, (batch, queries))
    parents = np.maximum(np.arange(queries) - 1, -1) // 2
    parents[0] = -1
    tree = np.ascontiguousarray(np.broadcast_to(parents, (batch, queries)), dtype=np.int64)
    counts = np.full(batch, queries, dtype=np.int64)

    def run() -> None:
        cache.lengths[:] = context
        logits = forward_trees(model, cache, tokens, tree, counts)
        if ranked:
            logits.topk(ranked, dim=-1).indices.cpu().numpy()
        else:
            logits[0, 0, 0].item()

    return run
