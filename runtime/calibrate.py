"""Calibrate: seconds of a forward against batch, tokens and context, and of all that is around forwards."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np

from reader_theory.documents import Cost, CostTable, DraftPolicy, RetrievalPolicy, Stamp
from reader_theory.errors import require
from reader_theory.estimate import Estimate
from reader_theory.trees import DraftTree
from runtime.cache.rows import RowCache
from runtime.engine import Engine
from runtime.models.inputs import forward_trees
from runtime.models.target import LanguageModel
from runtime.record import Progress, PromptLike
from runtime.sampling_params import SamplingParams
from runtime.timing import StepTiming

__all__ = ["calibrate_cost"]

Point = tuple[int, int, int]

LEAST_REPEATS, MOST_REPEATS = 3, 40
ENGINE_TOKENS, ENGINE_PROMPTS = 48, 4
SETTLE = 3
"""First steps of an engine run that are left out."""


def calibrate_cost(
    target: LanguageModel,
    draft: LanguageModel | None,
    prompts: Sequence[PromptLike],
    *,
    device_name: str,
    dtype: str,
    names: tuple[str, str | None] | None = None,
    batches: Sequence[int] = (1, 2, 4, 8),
    tokens: Sequence[int] = (1, 2, 3, 5, 9, 17, 33),
    contexts: Sequence[int] = (128, 512),
    temperature: float = 0.0,
    seconds: float = 20.0,
    seed: int = 0,
    progress: Progress | None = None,
) -> Cost:
    """Measure every term of a step on this device.

    Points are visited in a shuffled order, again and again until `seconds` are used, so that a slow minute of the
    machine falls on all of them alike; each keeps its median.

    Parameters
    ----------
    prompts : sequence of prompts
        Some are run to measure what is around the forwards: retrieval, verification, commit.
    batches, tokens, contexts : sequences of int
        Grid of the target's table; a tree of N nodes is a forward of N + 1 tokens.
    seconds : float
        Time to spend on the target's table; the draft's takes a quarter of it.
    """
    require(
        len(prompts) > 0 and seconds > 0,
        "`prompts` must hold a prompt, and `seconds` be above 0",
        got=f"{len(prompts)} prompts, {seconds} s",
        fix="Pass the prompts that the trace was recorded on.",
    )
    rng = np.random.default_rng(seed)
    room = min(model.max_positions for model in (target, draft) if model is not None) - max(tokens) - 1
    grid = (tuple(sorted(set(batches))), tuple(sorted(set(tokens))), tuple(sorted({min(c, room) for c in contexts})))
    target_table = _table(target, grid, seconds, rng, ranked=0, label="target forward", progress=progress)
    draft_table = None
    if draft is not None:
        small = (grid[0], tuple(t for t in grid[1] if t <= 17) or grid[1][:1], grid[2])
        draft_table = _table(draft, small, seconds / 4, rng, ranked=8, label="draft forward", progress=progress)
    runs = _engine_runs(target, draft, prompts, grid[0], temperature, seed, progress)
    called = names or (target.name, draft.name if draft else None)
    open_cost = Cost(
        stamp=Stamp.now(seed=seed, machine=device_name),
        device=device_name,
        target=called[0],
        draft=called[1] if draft else None,
        dtype=dtype,
        target_forward=target_table,
        draft_forward=draft_table,
        closure=Estimate.exact(1.0, "assumed"),
        **_terms_around(runs),
    )
    return open_cost.model_copy(update={"closure": _closure(open_cost, runs)})


def _table(
    model: LanguageModel,
    grid: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]],
    seconds: float,
    rng: np.random.Generator,
    *,
    ranked: int,
    label: str,
    progress: Progress | None,
) -> CostTable:
    points = list(itertools.product(*grid))
    cache = model.new_cache(max(grid[0]), max(grid[2]) + max(grid[1]) + 1)
    samples: dict[Point, list[float]] = {point: [] for point in points}
    trial = {point: _trial(model, cache, point, rng, ranked) for point in points}
    for point in points:
        trial[point]()
    spent = 0.0
    for done, point in enumerate(_rounds(points, rng)):
        enough = done >= LEAST_REPEATS * len(points) and spent >= seconds
        if enough or done >= MOST_REPEATS * len(points):
            break
        start = perf_counter()
        trial[point]()
        samples[point].append(perf_counter() - start)
        spent += samples[point][-1]
        if progress:
            progress(label, min(int(100 * spent / seconds), 100), 100)
    return _from_samples(grid, samples)


def _rounds(points: list[Point], rng: np.random.Generator) -> Iterator[Point]:
    while True:
        for index in rng.permutation(len(points)):
            yield points[index]


def _trial(
    model: LanguageModel, cache: RowCache, point: Point, rng: np.random.Generator, ranked: int
) -> Callable[[], None]:
    """One forward of a random tree over random committed rows; with `ranked`, its top candidates read back as well."""
    batch, queries, context = point
    tokens = rng.integers(0, model.vocabulary, (batch, queries))
    parents = np.maximum(np.arange(queries) - 1, -1) // 2
    parents[0] = -1
    tree = np.tile(parents.astype(np.int64), (batch, 1))
    counts = np.full(batch, queries, dtype=np.int64)

    def run() -> None:
        cache.lengths[:] = context
        logits = forward_trees(model, cache, tokens, tree, counts)
        if ranked:
            logits.topk(ranked, dim=-1).indices.cpu().numpy()

    return run


def _from_samples(
    grid: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]], samples: dict[Point, list[float]]
) -> CostTable:
    medians = np.array([np.median(samples[point]) for point in itertools.product(*grid)])
    errors = [
        1.96 * 1.2533 * np.std(np.log(values)) / np.sqrt(len(values)) for values in samples.values() if len(values) > 1
    ]
    shaped = medians.reshape([len(axis) for axis in grid])
    return CostTable(
        batch=grid[0],
        tokens=grid[1],
        context=grid[2],
        seconds=tuple(tuple(tuple(float(s) for s in row) for row in plane) for plane in shaped),
        relative_spread=float(np.mean(errors)) if errors else 0.0,
    )


@dataclass(frozen=True)
class _Run:
    """Steps of a short run of the engine."""

    policy: DraftPolicy
    context: float
    steps: list[StepTiming]


def _engine_runs(
    target: LanguageModel,
    draft: LanguageModel | None,
    prompts: Sequence[PromptLike],
    batches: Sequence[int],
    temperature: float,
    seed: int,
    progress: Progress | None,
) -> list[_Run]:
    """Short runs of the engine itself, drafting and plain, at each batch."""
    tree = DraftTree.from_rank_paths([(0,), (1,), (0, 0)]) if draft else DraftTree.empty()
    drafting = DraftPolicy.of(tree, RetrievalPolicy(min_match=1, offset=2, factor=1, max_tokens=8))
    longest = max(len(prompt.tokens) for prompt in prompts)
    params = SamplingParams(temperature=temperature, max_new_tokens=ENGINE_TOKENS, seed=seed)
    runs: list[_Run] = []
    for done, batch in enumerate(batches):
        if progress:
            progress("engine terms", done, len(batches))
        engine = Engine(target, draft, max_batch=batch, max_context=longest + ENGINE_TOKENS + 64)
        chosen = [prompts[i % len(prompts)].tokens for i in range(max(batch, ENGINE_PROMPTS))]
        context = float(np.mean([len(tokens) for tokens in chosen])) + ENGINE_TOKENS / 2
        for policy in (drafting, DraftPolicy()):
            engine.use(policy)
            engine.generate(chosen, params)
            runs.append(_Run(policy, context, engine.timings[SETTLE:]))
            engine.timings = []
    if progress:
        progress("engine terms", len(batches), len(batches))
    return runs


def _terms_around(runs: list[_Run]) -> dict[str, Any]:
    """What a step spends outside of forwards, from the engine's own clocks."""
    drafting = [step for run in runs if run.policy.shape != "off" for step in run.steps]
    plain = [step for run in runs if run.policy.shape == "off" for step in run.steps]
    return {
        "retrieval_s": _estimate([s.retrieval_s / s.rows for s in drafting]),
        "verify_s": _estimate([s.verify_s / s.rows for s in drafting]),
        "commit_s": _estimate([s.commit_s / s.rows for s in drafting]),
        "step_overhead_s": _estimate([max(_rest(s), 0.0) for s in drafting]),
        "plain_overhead_s": _estimate([(s.step_s - s.target_s) / s.rows for s in plain]),
    }


def _rest(s: StepTiming) -> float:
    return s.step_s - s.retrieval_s - s.draft_s - s.target_s - s.verify_s - s.commit_s


def _closure(cost: Cost, runs: list[_Run]) -> Estimate:
    """Whole steps as the engine's clock saw them over the sum of the terms, run by run."""
    ratios = np.log([sum(s.step_s for s in run.steps) / _summed(cost, run) for run in runs])
    half = 1.96 * max(float(np.std(ratios)), cost.target_forward.relative_spread / 1.96)
    middle = float(np.median(ratios))
    value, low, high = np.exp([middle, middle - half, middle + half])
    return Estimate(value=float(value), low=float(low), high=float(high), origin="measured")


def _summed(cost: Cost, run: _Run) -> float:
    rows, widths = (np.array([getattr(s, name) for s in run.steps]) for name in ("rows", "width"))
    total = float(cost.target_forward.at(rows, widths, run.context).sum())
    if run.policy.shape == "off":
        return total + float(rows.sum()) * cost.plain_overhead_s.value
    each = cost.retrieval_s.value + cost.verify_s.value + cost.commit_s.value
    forwards = [2.0, 1.0] if run.policy.parents else []
    drafting = sum(cost.drafting_s(s.rows, forwards, run.context) for s in run.steps if s.drafted)
    return total + drafting + float(rows.sum()) * each + len(rows) * cost.step_overhead_s.value


def _estimate(samples: list[float]) -> Estimate:
    """Median with a distribution-free 95 % interval from order statistics."""
    ordered = np.sort(samples)
    half = 0.98 * np.sqrt(len(ordered))
    middle = (len(ordered) - 1) / 2
    low = ordered[max(int(np.floor(middle - half)), 0)]
    high = ordered[min(int(np.ceil(middle + half)), len(ordered) - 1)]
    return Estimate(value=float(np.median(ordered)), low=float(low), high=float(high), origin="measured")
