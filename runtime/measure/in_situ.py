"""In situ: what forwards cost inside the engine, where draft and target take turns in the processor's caches.

A forward timed alone, again and again, is not the forward of a step: the other model's weights have just passed through
the caches, shapes change from step to step, and candidates must be read back. So the engine runs trees of known
sizes, in a shuffled order, and the tables that were measured alone are corrected to what its clocks say.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from reader_theory.documents import Chain, CostTable, DraftForwards, Off, Policy, Static
from reader_theory.estimate import Estimate
from reader_theory.trees import TokenTree
from runtime.drafters.neural import NeuralDrafter
from runtime.engine.counters import StepTiming
from runtime.engine.engine import Engine
from runtime.engine.sampling import SamplingParams
from runtime.measure.prompts import Progress, PromptLike
from runtime.measure.record import Drafts, models_of
from runtime.models.base import LanguageModel
from runtime.retrieval.datastore import Datastore

__all__ = [
    "SeenStep",
    "corrected_draft",
    "corrected_target",
    "growing_term",
    "linear_term",
    "probe_policies",
    "watch_steps",
]

Floats = NDArray[np.float64]

BURST, SETTLE = 10, 3
"""Steps in a row under one policy, and how many of them pay for the change and are left out."""
LEAST_ROUNDS = 2
OUTPUT = 384
"""Most tokens that a request emits before it is replaced."""


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


def probe_policies(tokens: Sequence[int], *, drafted: bool) -> list[Policy]:
    """Off, and a policy for every number of verified tokens: bushy trees three deep, or retrieved chains."""
    sizes = sorted({n - 1 for n in tokens if n > 1})
    if not drafted:
        return [Off(), *(Chain(min_match=1, offset=float(n), factor=0.0, max_tokens=n) for n in sizes)]
    return [Off(), *(Static.of(_bush(n)) for n in sizes)]


def _bush(nodes: int) -> TokenTree:
    """A chain of three with the rest of the nodes below the root and the first child."""
    parents = [-1, 0, 1, 2][: nodes + 1]
    for extra in range(nodes - 3):
        parents.append(0 if extra % 2 == 0 else 1)
    return TokenTree(parents).by_level()


def watch_steps(
    target: LanguageModel,
    draft: Drafts,
    prompts: Sequence[PromptLike],
    policies: Sequence[Policy],
    *,
    batches: Sequence[int],
    seconds: float,
    temperature: float,
    seed: int,
    label: str = "engine steps",
    datastore: Datastore | None = None,
    progress: Progress | None = None,
) -> list[SeenStep]:
    """Full batches decoded under each policy in turn, in a new order each round, until the time is used.

    Parameters
    ----------
    seconds : float
        Decoding time for each batch; every policy has `LEAST_ROUNDS` turns in any case.
    """
    rng = np.random.default_rng(seed)
    longest = max(len(prompt.tokens) for prompt in prompts)
    drafts = models_of(draft)
    limit = min(model.max_positions for model in (target, *drafts.values()))
    output = min(OUTPUT, limit - longest - 96)
    params = SamplingParams(temperature=temperature, max_new_tokens=output, seed=seed)
    seen: list[SeenStep] = []
    for done, batch in enumerate(batches):
        if progress:
            progress(label, done, len(batches))
        drafters = {name: NeuralDrafter(model) for name, model in drafts.items()}
        engine = Engine(
            target, drafters=drafters, max_batch=batch, max_context=longest + output + 80, datastore=datastore
        )
        serving = _Full(engine, [prompts[int(i)] for i in rng.permutation(len(prompts))], params)
        serving.burst(policies[-1])
        rounds, spent = 0, 0.0
        while rounds < LEAST_ROUNDS or spent < seconds:
            rounds += 1
            for index in rng.permutation(len(policies)):
                steps = serving.burst(policies[int(index)])
                spent += sum(step.timing.step_s for step in steps)
                seen += steps
    if progress:
        progress(label, len(batches), len(batches))
    return seen


class _Full:
    """An engine whose batch is kept full."""

    def __init__(self, engine: Engine, prompts: Sequence[PromptLike], params: SamplingParams) -> None:
        self.engine, self.params = engine, params
        self.prompts, self.numbers = itertools.cycle(prompts), itertools.count()

    def burst(self, policy: Policy) -> list[SeenStep]:
        """Steps in a row under one policy: those that follow `SETTLE` of it, and on which no request joins."""
        engine, batch = self.engine, self.engine.max_batch
        engine.use(policy)
        seen: list[SeenStep] = []
        emitted = 0
        for turn in range(BURST):
            joining = batch - len(engine.rows)
            for _ in range(joining):
                engine.add(next(self.prompts).tokens, self.params, number=next(self.numbers))
            context = float(np.mean(engine.cache.lengths[:batch]))
            engine.step()
            timing = engine.timings.pop()
            if turn >= SETTLE and not joining:
                asked = tuple(int(sizes.max()) for sizes in engine.forwards if policy.kind == "grown")
                seen.append(SeenStep(policy, timing, context, emitted / batch, asked))
            emitted = timing.emitted
        return seen


def corrected_target(table: CostTable, seen: Sequence[SeenStep]) -> CostTable:
    """The table times, for each batch and number of tokens, the median of seen over tabulated seconds.

    Between the numbers of tokens that were seen the factor is interpolated in their logarithm.
    """
    seconds = table.values.copy()
    for i, batch in enumerate(table.batch):
        mine = [s for s in seen if s.timing.rows == batch]
        if not mine:
            continue
        widths = np.array([s.timing.width for s in mine])
        ratios = np.array([s.timing.target_s / float(table.at(batch, s.timing.width, s.context)) for s in mine])
        at = np.unique(widths)
        factors = np.array([np.median(ratios[widths == w]) for w in at])
        seconds[i] *= np.interp(np.log(table.tokens), np.log(at), factors)[:, None]
    return _with(table, seconds)


def corrected_draft(table: CostTable, seen: Sequence[SeenStep]) -> CostTable:
    """The table plus, for each batch, the median of what a forward took beyond it.

    What the engine does around a forward of the draft, reading candidates back and placing them, is in it.
    """
    seconds = table.values.copy()
    for i, batch in enumerate(table.batch):
        mine = [s for s in seen if s.timing.rows == batch and s.timing.drafted]
        if not mine:
            continue
        beyond = [s.timing.draft_s - float(table.at(batch, s.forwards, s.context).sum()) for s in mine]
        each = float(np.median(np.array(beyond) / [len(s.forwards) for s in mine]))
        seconds[i] = np.maximum(seconds[i] + each, seconds[i] / 4)
    return _with(table, seconds)


def growing_term(table: CostTable | None, seen: Sequence[SeenStep]) -> tuple[Estimate, float]:
    """Seconds a row and seconds a step of growing a tree once.

    It is grown once, and once more after each forward of the draft, of which `table` says what they take.
    """
    beyond = [
        s.timing.draft_s - (0.0 if table is None else float(table.at(s.timing.rows, s.forwards, s.context).sum()))
        for s in seen
    ]
    each = np.maximum(np.array(beyond) / [1 + len(s.forwards) for s in seen], 1e-6)
    return linear_term(np.array([float(s.timing.rows) for s in seen]), each)


def linear_term(rows: Floats, seconds: Floats) -> tuple[Estimate, float]:
    """Seconds a row, and seconds a step: the line, nowhere below 0, through the medians at each number of rows."""
    batches = np.unique(rows)
    medians = np.array([np.median(seconds[rows == b]) for b in batches])
    design = np.stack([batches, np.ones(len(batches))], axis=1)
    if len(batches) == 1:
        return Estimate.exact(float(medians[0] / batches[0]), "measured"), 0.0
    # Weighted by 1 / median: small batches count as much as large ones.
    (slope, fixed), _ = nnls(design / medians[:, None], np.ones(len(batches)))
    spread = [float(np.quantile(seconds[rows == b], q)) for b, q in ((batches[-1], 0.25), (batches[-1], 0.75))]
    low, high = (max((s - fixed) / float(batches[-1]), 0.0) for s in spread)
    value = float(slope)
    return Estimate(value=value, low=min(low, value), high=max(high, value), origin="measured"), float(fixed)


def _with(table: CostTable, seconds: Floats) -> CostTable:
    grid = tuple(tuple(tuple(float(s) for s in row) for row in plane) for plane in seconds)
    return CostTable.model_validate(table.model_dump() | {"seconds": grid})
