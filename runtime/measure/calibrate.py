"""Calibrate: seconds of a forward against batch, tokens and context, and of all that is around forwards."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from time import perf_counter
from typing import Any

import numpy as np

from reader_theory.cost.terms import Forwards, StepConditions, StepModel
from reader_theory.documents import Chain, Cost, CostTable, DrafterCost, Grown, Off, Policy, Stamp, Static, Union
from reader_theory.documents.policy import DATASTORE, DRAFT, RETRIEVAL
from reader_theory.errors import require
from reader_theory.estimate import Estimate
from reader_theory.trees import TokenTree
from runtime.cache.rows import RowCache
from runtime.engine.counters import StepTiming
from runtime.measure.in_situ import (
    SeenStep,
    corrected_draft,
    corrected_target,
    growing_term,
    linear_term,
    probe_policies,
    watch_steps,
)
from runtime.measure.prompts import Progress, PromptLike
from runtime.measure.record import Drafts, Names, models_of, names_of
from runtime.models.base import LanguageModel
from runtime.models.inputs import forward_trees
from runtime.retrieval.datastore import Datastore

__all__ = ["calibrate_cost"]

Point = tuple[int, int, int]

LEAST_REPEATS, MOST_REPEATS = 3, 40
HALTED, PACE_BLOCKS = 5, 12


def calibrate_cost(
    target: LanguageModel,
    draft: Drafts,
    prompts: Sequence[PromptLike],
    *,
    device_name: str,
    dtype: str,
    names: Names | None = None,
    batches: Sequence[int] = (1, 2, 4, 8),
    tokens: Sequence[int] = (1, 2, 3, 5, 9, 17, 33),
    contexts: Sequence[int] = (128, 512),
    temperature: float = 0.0,
    seconds: float = 20.0,
    datastore: Datastore | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Cost:
    """Measure every term of a step on this device.

    Points are visited in a shuffled order, again and again until `seconds` are used, so that a slow minute of the
    machine falls on all of them alike; each keeps its median.

    Parameters
    ----------
    draft : LanguageModel, or dict from name to LanguageModel, optional
        Each has a table of its own; what is around forwards is measured with the first.
    prompts : sequence of prompts
        Some are run to measure what is around the forwards: retrieval, verification, commit.
    batches, tokens, contexts : sequences of int
        Grid of the target's table; a tree of N nodes is a forward of N + 1 tokens.
    datastore : Datastore, optional
        A look-up beside it is priced as well.
    seconds : float
        Time to spend on the target's table; the draft's takes a quarter of it, and steps of the engine as much again.
    """
    require(
        len(prompts) > 0 and seconds > 0,
        "`prompts` must hold a prompt, and `seconds` be above 0",
        got=f"{len(prompts)} prompts, {seconds} s",
        fix="Pass the prompts that the trace was recorded on.",
    )
    rng, drafts = np.random.default_rng(seed), models_of(draft)
    room = min(model.max_positions for model in (target, *drafts.values())) - max(tokens) - 1
    grid = (tuple(sorted(set(batches))), tuple(sorted(set(tokens))), tuple(sorted({min(c, room) for c in contexts})))
    target_table = _table(target, grid, seconds, rng, ranked=0, label="target forward", progress=progress)
    small = (grid[0], tuple(t for t in grid[1] if t <= 17) or grid[1][:1], grid[2])
    tables = {
        name: _table(model, small, seconds / 4, rng, ranked=8, label=f"{name} forward", progress=progress)
        for name, model in drafts.items()
    }
    probes, checks = probe_policies(grid[1], drafted=bool(drafts)), _check_policies(drafted=bool(drafts))
    seen: list[SeenStep] = []
    for name in drafts or (DRAFT,):
        mine = [each for each in (*probes, *checks) if not seen or each.asks is not None]
        seen += watch_steps(
            target, {name: drafts[name]} if drafts else None, prompts, [each.asking(name) for each in mine],
            batches=grid[0], seconds=seconds / len(grid[0]), temperature=temperature, seed=seed, progress=progress,
        )  # fmt: skip
    looked: list[SeenStep] = []
    if datastore is not None:
        looked = watch_steps(
            target, None, prompts, _datastore_policies(), batches=grid[0], seconds=seconds / 4 / len(grid[0]),
            temperature=temperature, seed=seed, label="look-ups", datastore=datastore, progress=progress,
        )  # fmt: skip
    first = next(iter(drafts), DRAFT)
    kept = [[each.asking(name) for each in some for name in (drafts or (DRAFT,))] for some in (probes, checks)]
    probed, checked = ([step for step in seen if step.policy in some] for some in kept)
    mainly = [step for step in probed if step.policy.asks in (None, first)]
    called = names_of(target, drafts, names)
    forwards = {
        name: corrected_draft(table, [step for step in probed if step.policy.asks in (None, name)])
        for name, table in tables.items()
    }
    grown = [step for step in seen if step.policy.kind == "grown" and step.policy.asks in (None, first)]
    growth_s, growth_step_s = growing_term(forwards.get(first), grown)
    retrieval_s, around = _terms_around([step for step in seen if step.policy.asks in (None, first)])
    open_cost = Cost(
        stamp=Stamp.now(seed=seed, machine=device_name),
        device=device_name,
        target=called[0],
        dtype=dtype,
        target_forward=corrected_target(target_table, mainly),
        drafters={
            **{name: DrafterCost(model=called[1][name], forward=table) for name, table in forwards.items()},
            RETRIEVAL: DrafterCost(term="lookups", row_s=retrieval_s),
            **_beside(datastore, looked),
        },
        growth_s=growth_s,
        growth_step_s=growth_step_s,
        closure=Estimate.exact(1.0, "assumed"),
        **around,
    )
    closures = {
        "+".join(sorted(who)) or "off": _closure(open_cost, [step for step in checked if step.policy.drafters == who])
        for who in dict.fromkeys(step.policy.drafters for step in checked)
    }
    if looked:
        closures[DATASTORE] = _closure(open_cost, looked)
    return open_cost.model_copy(update={"closure": _closure(open_cost, checked), "closures": closures})


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
    tree = np.ascontiguousarray(np.broadcast_to(parents, (batch, queries)), dtype=np.int64)
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


def _datastore_policies() -> list[Policy]:
    """A chain and a tree that look up a datastore."""
    chain = Chain(drafter=DATASTORE, min_match=1, offset=2, factor=1, max_tokens=12)
    return [chain, Grown(nodes=12, drafter=None, retrieval=DATASTORE)]


def _beside(datastore: Datastore | None, seen: Sequence[SeenStep]) -> dict[str, DrafterCost]:
    """What a look-up beside a datastore takes."""
    if datastore is None:
        return {}
    row_s, _ = _line([s.timing for s in seen if s.policy.retrieved is not None], lambda s: s.retrieval_s)
    return {DATASTORE: DrafterCost(term="lookups", model=datastore.name or None, row_s=row_s)}


def _check_policies(*, drafted: bool) -> list[Policy]:
    """What plans are made of: off, a tree, a retrieved chain, both at once, and trees that are grown anew."""
    chain = Chain(min_match=1, offset=2, factor=1, max_tokens=12)
    policies: list[Policy] = [Off(), chain, Grown(nodes=12, drafter=None)]
    if not drafted:
        return policies
    small = Static.of(TokenTree.from_rank_paths([(0,), (1,), (0, 0)]))
    grown = [Grown(nodes=8, draft_price=0.05), Grown(nodes=16, levels=2, draft_price=0.05)]
    return [*policies, Static.of(TokenTree.chain(4)), Union(static=small, chain=chain), small, *grown]


def _terms_around(seen: Sequence[SeenStep]) -> tuple[Estimate, dict[str, Any]]:
    """What a step spends outside of forwards, from the engine's own clocks: a row's look-up, and all the rest."""
    drafting = [s.timing for s in seen if s.policy.shape != "off"]
    retrieving = [s.timing for s in seen if s.policy.retrieved is not None]
    plain = [s.timing for s in seen if s.policy.shape == "off"]
    retrieval_s, fixed = _line(retrieving, lambda s: s.retrieval_s)
    verify_s, verify_fixed = _line(drafting, lambda s: s.verify_s)
    commit_s, commit_fixed = _line(drafting, lambda s: s.commit_s)
    rest = [max(s.step_s - s.retrieval_s - s.draft_s - s.target_s - s.verify_s - s.commit_s, 0.0) for s in drafting]
    plain_s, plain_fixed = _line(plain, lambda s: s.step_s - s.target_s)
    around = float(np.median(rest)) + fixed + verify_fixed + commit_fixed
    return retrieval_s, {
        "verify_s": verify_s,
        "commit_s": commit_s,
        "step_overhead_s": Estimate.exact(around, "measured"),
        "plain_overhead_s": plain_s,
        "plain_step_overhead_s": Estimate.exact(plain_fixed, "measured"),
    }


def _line(steps: Sequence[StepTiming], seconds: Callable[[StepTiming], float]) -> tuple[Estimate, float]:
    return linear_term(np.array([float(s.rows) for s in steps]), np.array([seconds(s) for s in steps]))


def _closure(cost: Cost, seen: Sequence[SeenStep]) -> Estimate:
    """Whole steps as the engine's clock saw them over the sum of the terms.

    Its interval is for a run to come: how policies and batches differ, and how the machine's pace changes with time.
    """
    groups: dict[tuple[Policy, int], list[SeenStep]] = {}
    for s in seen:
        groups.setdefault((s.policy, s.timing.rows), []).append(s)
    ratios = np.log([_ratio(cost, group) for group in groups.values()])
    size = max(len(seen) // PACE_BLOCKS, 1)
    paces = np.log([_ratio(cost, seen[i : i + size]) for i in range(0, len(seen), size)])
    half = 1.96 * float(np.hypot(np.std(ratios), np.std(paces)) + cost.target_forward.relative_spread / 1.96)
    middle = float(np.median(ratios))
    value, low, high = np.exp([middle, middle - half, middle + half])
    return Estimate(value=float(value), low=float(low), high=float(high), origin="measured")


def _ratio(cost: Cost, group: Sequence[SeenStep]) -> float:
    """Mean over steps, but for those that took over `HALTED` times the median: the machine was elsewhere."""
    model = cost.model()
    ratios = np.array([s.timing.step_s / _summed(model, s) for s in group])
    return float(np.mean(ratios[ratios <= HALTED * np.median(ratios)]))


def _summed(open_model: StepModel, s: SeenStep) -> float:
    """What the sum of the terms says of a step that was seen."""
    off, policy, forwards = s.policy.shape == "off", s.policy, s.forwards
    asked = {policy.asks: Forwards(forwards)} if policy.asks is not None and len(forwards) else {}
    looked = {} if policy.retrieved is None else {policy.retrieved.drafter: Forwards(1.0)}
    conditions = StepConditions(
        batch=s.timing.rows,
        context=s.context,
        tokens=s.timing.width,
        forwards=asked | looked,
        growths=0 if policy.kind != "grown" else 1 + len(forwards),
        drafting=not off,
    )
    return float(open_model.seconds(conditions))
