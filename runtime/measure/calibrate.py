"""Calibrate: seconds of a forward against batch, tokens and context, and of all that is around forwards."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from reader_theory.cost.pace import Pace
from reader_theory.cost.terms import Forwards, StepConditions, StepModel
from reader_theory.documents import Chain, Cost, CostTable, DrafterCost, Grown, Off, Policy, Stamp, Static, Union
from reader_theory.documents.cost import Reference
from reader_theory.documents.policy import DATASTORE, DRAFT, RETRIEVAL
from reader_theory.errors import require
from reader_theory.estimate import Estimate
from reader_theory.trees import TokenTree
from runtime.engine.counters import StepTiming
from runtime.measure.bench import REFERENCE, TARGET, Bench, EngineBench, Point, SeenStep
from runtime.measure.disturbed import Samples, Trouble, check_stretches, check_tables, refuse
from runtime.measure.in_situ import corrected_draft, corrected_target, growing_term, linear_term, probe_policies
from runtime.measure.output_head import with_output_heads
from runtime.measure.prompts import Progress, PromptLike
from runtime.measure.record import Drafts, Names, models_of, names_of
from runtime.measure.staircase import filled, stairs
from runtime.measure.steady import STEPS, Meter, Stretch, level, middle_level, paired, predictive, watch, within
from runtime.models.base import LanguageModel
from runtime.retrieval.datastore import Datastore

__all__ = ["Grid", "calibrate_bench", "calibrate_cost"]

LEAST_REPEATS, MOST_REPEATS = 4, 40
REPEATS, STAIRS = 5, 0.5
"""Forwards that say whether a curve bends at a point, and the share of a table's time that the search may take."""
CONFIRMED = 9
"""Rounds in which the points that were added are visited afterwards: five forwards in a row may share a halt."""
PATIENCE = 3
"""Times that a disturbed measurement is made in all, before it is refused."""
TRIAL_S = 2.0
"""A calibration with less time than this is a trial: short stretches, no stairs, and what is wrong is noted only."""
TRIAL_STEPS = 4


@dataclass(frozen=True)
class Grid:
    """Axes of the target's table; a tree of N nodes is a forward of N + 1 tokens."""

    batch: tuple[int, ...]
    tokens: tuple[int, ...]
    context: tuple[int, ...]

    @classmethod
    def of(cls, batch: Sequence[int], tokens: Sequence[int], context: Sequence[int], room: int) -> Grid:
        """Sorted, each once, contexts within `room`."""
        axes = (batch, tokens, [min(each, room) for each in context])
        return cls(*(tuple(sorted(set(axis))) for axis in axes))

    @property
    def narrow(self) -> Grid:
        """What a draft is asked: no level of a tree is wider."""
        return Grid(self.batch, tuple(t for t in self.tokens if t <= 17) or self.tokens[:1], self.context)

    @property
    def points(self) -> list[Point]:
        """All of them, the context fastest."""
        return list(itertools.product(self.batch, self.tokens, self.context))


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
    on_disturbance: Literal["refuse", "note"] = "refuse",
    progress: Progress | None = None,
) -> Cost:
    """Measure every term of a step on this device, at one pace of it.

    Forwards alone are visited in a shuffled order, again and again; steps of the engine in steady stretches (`watch`).
    A fixed step beside them tells the machine's pace, which is divided out. What does not repeat is measured again, at
    most `PATIENCE` times.

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
        Time to spend on the target's table; the draft's takes a quarter of it, and steps of the engine as much again,
        or what one round of stretches takes.
    on_disturbance : {"refuse", "note"}
        What to do about a machine that stays disturbed.

    Raises
    ------
    DisturbedMachineError
        Where measurements of more than `TRIAL_S` do not repeat, unless they are to be noted only.
    """
    require(
        len(prompts) > 0 and seconds > 0,
        "`prompts` must hold a prompt, and `seconds` be above 0",
        got=f"{len(prompts)} prompts, {seconds} s",
        fix="Pass the prompts that the trace was recorded on.",
    )
    drafts = models_of(draft)
    room = min(model.max_positions for model in (target, *drafts.values())) - max(tokens) - 1
    grid = Grid.of(batches, tokens, contexts, room)
    bench = EngineBench(
        target, dict(drafts), prompts, largest=(max(grid.batch), max(grid.tokens), max(grid.context)),
        temperature=temperature, seed=seed, datastore=datastore,
    )  # fmt: skip
    called = names_of(target, drafts, names)
    cost = calibrate_bench(
        bench, grid, tuple(drafts), seconds=seconds, seed=seed, beside=datastore is not None,
        on_disturbance=on_disturbance, progress=progress,
        facts={"stamp": Stamp.now(seed=seed, machine=device_name), "device": device_name, "target": called[0],
               "kv": target.kv, "packed": target.packs, "dtype": dtype},
    )  # fmt: skip
    models = {**called[1], DATASTORE: None if datastore is None else datastore.name or None}
    cost = with_output_heads(cost, drafts, target)
    drafters = {
        name: each.model_copy(update={"model": models.get(name, each.model)}) for name, each in cost.drafters.items()
    }
    reference = None
    if cost.reference is not None:
        axes = zip(("batch", "tokens", "context"), bench.reference.point, strict=True)
        reference = cost.reference.model_copy(update=dict(axes))
    return cost.model_copy(update={"drafters": drafters, "reference": reference})


def calibrate_bench(
    bench: Bench,
    grid: Grid,
    drafts: tuple[str, ...],
    *,
    facts: Mapping[str, Any],
    seconds: float = 20.0,
    beside: bool = False,
    seed: int = 0,
    on_disturbance: Literal["refuse", "note"] = "refuse",
    progress: Progress | None = None,
) -> Cost:
    """`calibrate_cost` on any bench, with drafters of these names, and a datastore where `beside` says so.

    Parameters
    ----------
    facts : dict
        Fields of the Cost that nobody measures.
    """
    rng, meter = np.random.default_rng(seed), Meter(bench)
    tables: dict[str, CostTable] = {}
    troubles: list[Trouble] = []
    for who in (TARGET, *drafts):
        mine, share = (grid, 1.0) if who == TARGET else (grid.narrow, 0.25)
        tables[who], found = _table(meter, who, mine, seconds * share, rng, progress)
        troubles += found
    kinds = _Kinds.of(grid, drafts, beside)
    stretches, found = _watched(meter, grid.batch, kinds, seconds, rng, progress)
    troubles += found
    if seconds >= TRIAL_S and on_disturbance == "refuse":
        refuse(troubles)
    return _assembled(tables, stretches, kinds, meter.pace, facts, tuple(each.words for each in troubles))


@dataclass(frozen=True)
class _Kinds:
    """What is watched: probes that the tables are corrected to, and checks, kinds of what plans are made of."""

    drafts: tuple[str, ...]
    probes: tuple[Policy, ...]
    checks: tuple[Policy, ...]
    looked: tuple[Policy, ...]

    @classmethod
    def of(cls, grid: Grid, drafts: tuple[str, ...], beside: bool) -> _Kinds:
        names = drafts or (DRAFT,)
        probes, checks = probe_policies(grid.tokens, drafted=False), _check_policies(drafted=bool(drafts))
        if drafts:
            probes += probe_policies(grid.narrow.tokens, drafted=True)
        asked = [tuple(dict.fromkeys(p.asking(n) for p in some for n in names)) for some in (probes, checks)]
        return cls(drafts, asked[0], asked[1], tuple(_datastore_policies()) if beside else ())

    def rounds(self) -> list[tuple[tuple[str, ...], list[Policy]]]:
        """What is loaded, and what runs then; policies that ask nobody run beside the first draft only."""
        found: list[tuple[tuple[str, ...], list[Policy]]] = []
        for name in self.drafts or (None,):
            mine = [p for p in (*self.probes, *self.checks) if p.asks == name or (p.asks is None and not found)]
            found.append(((name,) if name else (), mine))
        if self.looked:
            found.append(((*self.drafts[:1], DATASTORE), list(self.looked)))
        return found


def _watched(
    meter: Meter, batches: Sequence[int], kinds: _Kinds, seconds: float, rng: np.random.Generator,
    progress: Progress | None,
) -> tuple[list[Stretch], list[Trouble]]:  # fmt: skip
    """Steady stretches of all kinds, again while they do not repeat; and what is wrong with the last."""
    stretches: list[Stretch] = []
    troubles: list[Trouble] = []
    for _ in range(_attempts(seconds)):
        stretches = []
        first = len(meter.readings)
        for loaded, policies in kinds.rounds():
            share = 0.25 if DATASTORE in loaded else 1.0
            stretches += watch(
                meter, loaded, policies, batches=batches, seconds=share * seconds / len(batches), rng=rng,
                steps=STEPS if seconds >= TRIAL_S else TRIAL_STEPS,
                label="look-ups" if DATASTORE in loaded else "engine steps", progress=progress,
            )  # fmt: skip
        pace = meter.pace
        troubles = check_stretches([each.at_pace(pace) for each in stretches], meter.readings[first:])
        if not troubles:
            break
    return stretches, troubles


def _attempts(seconds: float) -> int:
    return PATIENCE if seconds >= TRIAL_S else 1


def _assembled(
    tables: dict[str, CostTable], stretches: list[Stretch], kinds: _Kinds, pace: Pace, facts: Mapping[str, Any],
    notes: tuple[str, ...],
) -> Cost:  # fmt: skip
    """The terms from tables and stretches at one pace, and how whole steps compare with their sum."""
    seen = [each.at_pace(pace) for each in stretches]
    drafts, first = kinds.drafts, (kinds.drafts or (DRAFT,))[0]
    steps = [step for each in seen for step in each.steps]
    probed = [step for step in steps if step.policy in kinds.probes]
    # A draft's weights drive the target's out of the caches: what that costs is in the closures of who drafts.
    target = corrected_target(tables[TARGET], [step for step in probed if step.policy.asks is None])
    looked = [step for step in steps if step.policy in kinds.looked]
    own = [step for step in steps if step.policy not in kinds.looked and step.policy.asks in (None, first)]
    forwards = {
        name: corrected_draft(tables[name], [step for step in probed if step.policy.asks == name]) for name in drafts
    }
    growth_s, growth_step_s = growing_term(forwards.get(first), [step for step in own if step.policy.kind == "grown"])
    retrieval_s, around = _terms_around(own)
    batch, tokens, context = REFERENCE
    open_cost = Cost(
        **facts,
        target_forward=target,
        drafters={
            **{name: DrafterCost(forward=table) for name, table in forwards.items()},
            RETRIEVAL: DrafterCost(term="lookups", row_s=retrieval_s),
            **_beside(looked),
        },
        growth_s=growth_s,
        growth_step_s=growth_step_s,
        closure=Estimate.exact(1.0, "assumed"),
        reference=Reference(batch=batch, tokens=tokens, context=context, seconds=_reference_s(pace)),
        notes=notes,
        **around,
    )
    return open_cost.model_copy(update=_closures(open_cost, seen, kinds, pace))


def _reference_s(pace: Pace) -> Estimate:
    low, high = np.exp(np.log(pace.reference_s) + np.quantile(pace.log, [0.025, 0.975]))
    return Estimate(value=pace.reference_s, low=float(low), high=float(high), origin="measured")


def _closures(open_cost: Cost, seen: Sequence[Stretch], kinds: _Kinds, pace: Pace) -> dict[str, Any]:
    """Whole steps as the engine's clock saw them over the sum of their terms, of each kind.

    Plain decoding has its own; every other kind has that times its ratio to plain decoding, whose interval has no part
    in the machine's pace, but in what one pace does not tell: how far stretches of plain decoding differ at it.
    Intervals are for a policy and a run to come: how policies and batches differ, and how the pace moves.
    """
    model = open_cost.model()
    judged = [(each, _ratios(model, each)) for each in seen if each.policy in (Off(), *kinds.checks, *kinds.looked)]
    plain: dict[int, list[float]] = defaultdict(list)
    for each, ratios in judged:
        if each.policy.shape == "off":
            plain[each.batch].append(level(ratios))
    uneven = within(list(plain.values()))
    off = predictive([[float(np.mean(values)) for values in plain.values()]], beside=pace.spread)
    cells: dict[str, dict[Policy, list[float]]] = defaultdict(lambda: defaultdict(list))
    for (policy, _), values in paired([(each, middle_level(ratios)) for each, ratios in judged]).items():
        cells["+".join(sorted(policy.drafters))][policy].append(float(np.mean(values)))
    kinds_of = {who: list(policies.values()) for who, policies in cells.items()}
    closures = {who: predictive(logs, beside=pace.spread).scaled(off.value) for who, logs in kinds_of.items()}
    every = predictive([logs for some in kinds_of.values() for logs in some], beside=pace.spread).scaled(off.value)
    return {
        "closure": every,
        "closures": {"off": off, **closures},
        "ratios": {who: predictive(logs, beside=uneven) for who, logs in kinds_of.items()},
    }


def _ratios(model: StepModel, stretch: Stretch) -> NDArray[np.float64]:
    """(steps,) measured over modelled seconds."""
    return np.array([s.timing.step_s / _summed(model, s) for s in stretch.steps])


def _table(
    meter: Meter, who: str, grid: Grid, seconds: float, rng: np.random.Generator, progress: Progress | None
) -> tuple[CostTable, list[Trouble]]:
    """Forwards alone, measured again while they do not repeat; and what is wrong with the last."""
    samples: Samples = {}
    troubles: list[Trouble] = []
    for _ in range(_attempts(seconds)):
        before, samples = samples, _sampled(meter, who, grid.points, seconds, rng, progress)
        troubles = check_tables(who, samples, before)
        if not troubles:
            break
    table = _from_samples(grid, samples)
    if seconds < TRIAL_S:
        return table, troubles
    return _with_stairs(meter, who, table, seconds, rng), troubles


def _with_stairs(meter: Meter, who: str, table: CostTable, seconds: float, rng: np.random.Generator) -> CostTable:
    """The table with points where its curve over tokens bends, at the first context of every batch."""
    context, added = table.context[0], dict[tuple[int, int], float]()
    begun = meter.spent_s
    for row, batch in enumerate(table.batch):

        def measure(tokens: int, batch: int = batch) -> float:
            return _now(meter, who, (batch, tokens, context))

        known = dict(zip(table.tokens, table.values[row, :, 0].tolist(), strict=True))
        left = STAIRS * seconds * (row + 1) / len(table.batch) - (meter.spent_s - begun)
        each = (2 + REPEATS) * max(known.values())
        found = stairs(known, batch, measure, most=max(int(left / each), 0))
        added |= {(row, tokens): found[tokens] for tokens in found.keys() - known.keys()}
    points = [(table.batch[row], tokens, context) for row, tokens in added]
    samples = _sampled(meter, who, points, 0.0, rng, None, least=CONFIRMED)
    added = {at: float(np.median(samples[point])) for at, point in zip(added, points, strict=True)}
    axis, grown = filled(table.values, list(table.tokens), added)
    grid = tuple(tuple(tuple(float(s) for s in line) for line in plane) for plane in grown)
    return CostTable.model_validate(table.model_dump() | {"tokens": tuple(axis), "seconds": grid})


def _now(meter: Meter, who: str, point: Point) -> float:
    """Median seconds of a few forwards alone, after one that is not counted, at the pace of all readings so far."""
    meter.forward(who, point)
    meter.read()
    told = [meter.forward(who, point) for _ in range(REPEATS)]
    meter.read()
    pace = meter.pace
    return float(np.median([seconds / float(pace.at(reading)) for reading, seconds in told]))


def _sampled(
    meter: Meter, who: str, points: Sequence[Point], seconds: float, rng: np.random.Generator,
    progress: Progress | None, *, least: int = LEAST_REPEATS,
) -> Samples:  # fmt: skip
    """Seconds of every point at one pace, visited in shuffled rounds until the time is used, at least so many."""
    begun = meter.spent_s
    raw: dict[Point, list[tuple[int, float]]] = {point: [] for point in points}
    for point in points:
        meter.forward(who, point)
    for turn in range(MOST_REPEATS):
        if turn >= least and meter.spent_s - begun >= seconds:
            break
        for index in rng.permutation(len(points)):
            raw[points[index]].append(meter.forward(who, points[index]))
        if progress:
            progress(f"{who or 'target'} forward", min(int(100 * (meter.spent_s - begun) / seconds), 100), 100)
    meter.read()
    pace = meter.pace
    return {point: np.array([s / float(pace.at(i)) for i, s in told]) for point, told in raw.items()}


def _from_samples(grid: Grid, samples: Samples) -> CostTable:
    medians = np.array([np.median(samples[point]) for point in grid.points])
    errors = [
        1.96 * 1.2533 * np.std(np.log(values)) / np.sqrt(len(values)) for values in samples.values() if len(values) > 1
    ]
    shaped = medians.reshape(len(grid.batch), len(grid.tokens), len(grid.context))
    return CostTable(
        batch=grid.batch,
        tokens=grid.tokens,
        context=grid.context,
        seconds=tuple(tuple(tuple(float(s) for s in row) for row in plane) for plane in shaped),
        relative_spread=float(np.mean(errors)) if errors else 0.0,
    )


def _datastore_policies() -> list[Policy]:
    """A chain and a tree that look up a datastore."""
    chain = Chain(drafter=DATASTORE, min_match=1, offset=2, factor=1, max_tokens=12)
    return [chain, Grown(nodes=12, drafter=None, retrieval=DATASTORE)]


def _beside(seen: Sequence[SeenStep]) -> dict[str, DrafterCost]:
    """What a look-up beside a datastore takes."""
    if not seen:
        return {}
    row_s, _ = _line([s.timing for s in seen if s.policy.retrieved is not None], lambda s: s.retrieval_s)
    return {DATASTORE: DrafterCost(term="lookups", row_s=row_s)}


def _check_policies(*, drafted: bool) -> list[Policy]:
    """What plans are made of: off, a tree, retrieved chains, both at once, and trees that are grown anew."""
    chain = Chain(min_match=1, offset=2, factor=1, max_tokens=12)
    short = Chain(min_match=1, offset=0, factor=2, max_tokens=4)
    policies: list[Policy] = [Off(), chain, short, Grown(nodes=12, drafter=None)]
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
