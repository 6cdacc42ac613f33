"""Measure: run a plan on the real model, cell by cell, with plain decoding of the same requests in the same run."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import cycle, islice
from pathlib import Path
from time import perf_counter
from typing import Any, Literal

import numpy as np
import torch
from scipy.stats import t as student

from reader_theory.cost.pace import Pace, smoothed_pace
from reader_theory.documents import Off, Plan, Policy, RequestRecord, RunCell, RunRecord, Stamp
from reader_theory.documents.judge import Judge
from reader_theory.documents.plan import JUDGED
from reader_theory.documents.policy import DATASTORE
from reader_theory.errors import require
from reader_theory.estimate import Estimate
from reader_theory.grammar import Language
from reader_theory.rules.judge import JudgeLossy
from reader_theory.serving.rounds import requests_to_run
from runtime.engine.counters import EngineCounters, columns_of
from runtime.engine.engine import Engine
from runtime.engine.judging import Judging
from runtime.engine.processors import Processor
from runtime.engine.sampling import SamplingParams
from runtime.measure.bench import ReferenceStep
from runtime.measure.cell import Answer, CellRun
from runtime.measure.journal import Journal
from runtime.measure.prompts import Progress, PromptLike
from runtime.measure.record import Drafts, drafter_of, drafts_of, task_of
from runtime.models.base import LanguageModel
from runtime.models.inputs import teacher_forced
from runtime.retrieval.datastore import Datastore

__all__ = ["Task", "measure_cells", "planned_rule", "planned_tasks", "run_plan", "speed_ups"]

Lossless = Literal["greedy_identical", "greedy_near_tie", "greedy_different", "sampled", "not_checked"]

SEGMENT_S = 2.0
"""Seconds of a run after which the fixed step is read again."""
PRIOR_REPEATS = 2
"""How many repeats the readings' own scatter is worth, as a measure of how far one repeat is off."""
WARM_TOKENS = 8
"""Output of the request that runs each kind of policy before it is measured."""
NEAR_TIE_ULPS = 2
"""Two logits this many units in the last place apart may swap when sums are taken in another order."""


@dataclass(frozen=True)
class Task:
    """One cell to measure: these prompts, this many at once, drafted so."""

    workload: str
    batch: int
    policy: Policy
    context_tokens: float = 0.0


def run_plan(
    target: LanguageModel,
    draft: Drafts,
    plan: Plan,
    prompts: Sequence[PromptLike],
    *,
    path: str | Path,
    batches: Sequence[int] | None = None,
    repeats: int = 1,
    temperature: float | None = None,
    verification: str | None = None,
    seed: int = 0,
    compare_plain: bool = True,
    datastore: Datastore | None = None,
    progress: Progress | None = None,
) -> RunRecord:
    """Run every entry of `plan` on `prompts`, and write the RunRecord to `path`.

    Parameters
    ----------
    prompts : sequence of prompts
        Those of each of the plan's workloads; best ones that the fit has not seen.
    batches : sequence of int, optional
        Batches to run; those of the plan when left out.
    repeats : int
        Times each cell is run, there and back; its decoding time is the median.
    temperature : float, optional
        The plan's when left out.
    verification : str, optional
        Rule of sampled requests, target_only when left out; a lossy one is named so in the record. That of a judged
        plan is its own.
    compare_plain : bool
        Decode the same requests without drafts as well, beside each run of the plan, and hold the outputs against each
        other.
    """
    rule, parameters = planned_rule(plan, verification)
    return measure_cells(
        target,
        draft,
        planned_tasks(plan, prompts, batches=batches),
        prompts,
        path=path,
        new_tokens=plan.new_tokens,
        repeats=repeats,
        temperature=plan.temperature if temperature is None else temperature,
        verification=rule,
        rule_parameters=parameters,
        seed=seed,
        compare_plain=compare_plain,
        datastore=datastore,
        plan=plan.fingerprint(),
        names=(plan.target, plan.drafters),
        dtype=plan.dtype,
        progress=progress,
    )


def planned_rule(plan: Plan, asked: str | None = None) -> tuple[str, dict[str, float | str]]:
    """Rule and parameters to run a plan with: a judge is reached through a plan that was made with one alone.

    Raises
    ------
    InvalidInputError
        If a judge is asked for and the plan has none, or its file is not the one that was planned with.
    """
    require(
        asked != JUDGED or plan.judged is not None,
        f"{JUDGED} must be run by a plan that was made for it: it is lossy",
        got=f"a plan for {plan.verification}",
        fix="Plan with the quality you give up: `reader plan CURVE COST --quality-budget POINTS`.",
    )
    if plan.judged is None or asked not in (None, JUDGED):
        return asked or "target_only", {}
    found = Judge.read(plan.judged.judge).fingerprint()
    require(
        found == plan.judged.fingerprint,
        "a judged plan must be run with the judge that it was made with",
        got=f"`{plan.judged.judge}`, which is {found} now, where the plan has {plan.judged.fingerprint}",
        fix="Restore the file, or measure and plan again: `reader judge curve`, `reader plan`.",
    )
    return JUDGED, {"threshold": plan.judged.threshold, "judge": plan.judged.judge}


def planned_tasks(
    plan: Plan,
    prompts: Sequence[PromptLike],
    *,
    workloads: Sequence[str] | None = None,
    batches: Sequence[int] | None = None,
) -> list[Task]:
    """Cells of a plan, by workload and batch: all, or those asked for.

    Where the plan tells contexts apart, the entry is that of the rows' mean length half-way through their outputs.
    """
    rows = batches or sorted({entry.batch for entry in plan.entries})
    tasks: list[Task] = []
    for name in workloads or plan.workloads:
        lengths = [len(prompt.tokens) for prompt in prompts if prompt.workload == name]
        context = float(np.mean(lengths)) + plan.new_tokens / 2 if lengths else 0.0
        tasks += [Task(name, size, plan.entry(name, size, context).policy, context) for size in rows]
    return tasks


def measure_cells(
    target: LanguageModel,
    draft: Drafts,
    tasks: Sequence[Task],
    prompts: Sequence[PromptLike],
    *,
    path: str | Path,
    new_tokens: int,
    temperature: float,
    dtype: str,
    names: tuple[str, Mapping[str, str | None]],
    verification: str = "target_only",
    rule_parameters: Mapping[str, float | str] | None = None,
    repeats: int = 1,
    seed: int = 0,
    compare_plain: bool = True,
    plan: str | None = None,
    datastore: Datastore | None = None,
    progress: Progress | None = None,
    stop: tuple[str, ...] = (),
    ignore_eos: bool = False,
    tokenizer: Any = None,
    processors: tuple[Processor, ...] = (),
    language: Language | None = None,
    validity: str = "exact",
    penalties: Mapping[str, float] | None = None,
) -> RunRecord:
    """Measure tasks in turn, repeat by repeat, and write what came of them.

    Each run is kept beside `path` when it is over (``.partial.jsonl``), and taken from there by the next call for the
    same target, prompts, tasks and parameters, should this one be killed.

    Outputs lie in `language`, where one is given, drawn as `validity` says; the record names the law.
    """
    needing = [task for task in tasks if DATASTORE in task.policy.drafters]
    require(
        datastore is not None or not needing,
        "a policy that looks up a datastore must be run with one",
        got=f"none, for {', '.join(sorted({task.policy.name for task in needing}))}",
        fix=f"Pass --datastore {names[1].get(DATASTORE) or 'FILE'}, or plan again without --datastore.",
    )
    params = SamplingParams(
        temperature=temperature,
        max_new_tokens=new_tokens,
        seed=seed,
        verification=verification,
        rule_parameters=rule_parameters or {},
        stop=stop,
        ignore_eos=ignore_eos,
        processors=processors,
        language=language,
        validity=validity,
        **(penalties or {}),  # pyright: ignore[reportArgumentType]
    )
    bench = _Bench(target, draft, prompts, params, datastore, tokenizer)
    bench.check()
    visits = _visits(tasks, repeats, compare_plain)
    asked: dict[str, Any] = {"drafters": dict(names[1]), "plan": plan, "datastore": datastore and datastore.name}
    asked["visits"] = [
        [task.workload, task.batch, task.context_tokens, task.policy.model_dump(mode="json")] for task in visits
    ]
    journal = Journal(Path(path).with_suffix(".partial.jsonl"), task_of(names[0], target, prompts, params) | asked)
    with journal:
        runs, readings = _measured(bench, visits, journal, progress)
    pace = smoothed_pace(readings)
    plain = {task: runs.get(_plain(task)) if compare_plain else None for task in tasks}
    gains = speed_ups({task: (runs[task], beside) for task, beside in plain.items() if beside}, pace)
    held = temperature if params.lossless else None
    cells = [_cell(task, runs[task], plain[task], gains.get(task), pace, target, held) for task in tasks]
    steps = [step for task in tasks for step in runs[task][0].steps]
    numbers = [number for number, task in enumerate(tasks) for _ in runs[task][0].steps]
    record = RunRecord.create(
        path,
        {"cell": np.array(numbers, dtype=np.int32), **columns_of(steps)},
        stamp=Stamp.now(seed=seed),
        target=names[0],
        kv=target.kv,
        drafters={**names[1], **({} if datastore is None else {DATASTORE: datastore.name or None})},
        device=Stamp.now().machine,
        dtype=dtype,
        temperature=temperature,
        verification=params.rule.name,
        rule_parameters=dict(rule_parameters or {}),
        lossless=params.lossless,
        law=params.law,
        plan=plan,
        new_tokens=new_tokens,
        cells=tuple(cells),
        requests=tuple(_request(r, number) for number, task in enumerate(tasks) for r in runs[task][0].requests),
    )
    journal.end()
    return record


def _measured(
    bench: _Bench, visits: Sequence[Task], journal: Journal, progress: Progress | None
) -> tuple[dict[Task, list[CellRun]], list[float]]:
    """The runs of each task, those that the journal has among them, and all readings of the fixed step."""
    runs: dict[Task, list[CellRun]] = {}
    readings: list[float] = []
    for done, task in enumerate(visits):
        if progress:
            progress("run", done, len(visits))
        if str(done) not in journal.kept:
            journal.add(str(done), bench.run(task).kept())
        run = CellRun.taken_up(journal.kept[str(done)]).after(len(readings))
        runs.setdefault(task, []).append(run)
        readings += run.readings
    if progress:
        progress("run", len(visits), len(visits))
    return runs, readings


def _plain(task: Task) -> Task:
    return replace(task, policy=Off())


def _visits(tasks: Sequence[Task], repeats: int, compare_plain: bool) -> list[Task]:
    """Tasks in the order they are run: each beside its plain decoding, there and back, as often as asked."""
    once = list(dict.fromkeys(each for task in tasks for each in ((_plain(task), task) if compare_plain else (task,))))
    return [task for turn in range(repeats) for task in (once if turn % 2 == 0 else once[::-1])]


def speed_ups(pairs: Mapping[Task, tuple[list[CellRun], list[CellRun]]], pace: Pace) -> dict[Task, Estimate]:
    """Seconds of plain decoding over those of each task, repeat by repeat, at one pace of the machine.

    Repeats of all tasks together say how far one is off; before there are any, the readings of the fixed step do.
    """
    logs = {
        task: np.log([b.at_pace_s(pace) / a.at_pace_s(pace) for a, b in zip(ours, plain, strict=True)])
        for task, (ours, plain) in pairs.items()
    }
    freedom = PRIOR_REPEATS + sum(len(each) - 1 for each in logs.values())
    squares = sum(float(np.var(each)) * len(each) for each in logs.values())
    spread = np.sqrt((PRIOR_REPEATS * 2 * pace.noise**2 + squares) / freedom)
    wide = float(student.ppf(0.975, freedom)) * spread
    found: dict[Task, Estimate] = {}
    for task, each in logs.items():
        middle, half = float(each.mean()), float(wide / np.sqrt(len(each)))
        value, low, high = np.exp([middle, middle - half, middle + half])
        found[task] = Estimate(value=float(value), low=float(low), high=float(high), origin="measured")
    return found


class _Bench:
    """The same prompts and parameters for every run; plain decoding follows no lossy rule, which has nothing to judge.

    Speed-ups over it are over what a user has who drafts nothing.
    """

    def __init__(
        self,
        target: LanguageModel,
        draft: Drafts,
        prompts: Sequence[PromptLike],
        params: SamplingParams,
        datastore: Datastore | None,
        tokenizer: Any = None,
    ) -> None:
        self.datastore, self.tokenizer = datastore, tokenizer
        self.target, self.drafts, self.prompts, self.params = target, drafts_of(draft), prompts, params
        self.plain = params if params.lossless else replace(params, verification="target_only", rule_parameters={})
        self.slots = max(len(prompt.tokens) for prompt in prompts) + params.max_new_tokens + 80
        self._engines: dict[tuple[int, str | None], Engine] = {}
        self._warm: set[tuple[str, str]] = set()
        self.reference = ReferenceStep(target)

    def check(self) -> None:
        """Refuse a judge of other models before anything runs."""
        rule = self.params.rule
        if isinstance(rule, JudgeLossy) and rule.classifier is not None:
            drafters = {name: drafter_of(each) for name, each in self.drafts.items()}
            Judging(self.target, drafters).drafter_of(rule.classifier)

    def run(self, task: Task) -> CellRun:
        chosen = [prompt for prompt in self.prompts if prompt.workload == task.workload]
        require(
            bool(chosen),
            "`prompts` must hold some of every workload that is run",
            got=f"none of {task.workload!r}",
            fix="Add prompts of this workload, or plan for the others only.",
        )
        engine = self._engine(task.batch, task.policy)
        params = self.plain if task.policy.shape == "off" else self.params
        engine.use(task.policy)
        if (kind := (task.policy.drafted_by, task.policy.kind)) not in self._warm:
            self._warm.add(kind)  # what is compiled on first use, which no measured step should wait for
            engine.generate([chosen[0].tokens], replace(params, max_new_tokens=WARM_TOKENS))
        engine.timings, engine.prefill_s = deque(), 0.0  # unbounded: a record has every step
        before = engine.counters
        requests = [
            engine.add(prompt.tokens, params, id=prompt.id if i < len(chosen) else f"{prompt.id} again", number=i)
            for i, prompt in enumerate(islice(cycle(chosen), requests_to_run(len(chosen), task.batch)))
        ]
        segments: list[tuple[int, float]] = []
        readings: list[float] = []
        going = True
        while going:
            readings.append(self.reference())
            start, prefilled = perf_counter(), engine.prefill_s
            while (going := engine.step()) and perf_counter() - start < SEGMENT_S:
                pass
            decoded = perf_counter() - start - (engine.prefill_s - prefilled)
            segments.append((len(readings) - 1, decoded))
        readings.append(self.reference())
        answers = list(map(Answer.of, requests))
        nodes = _nodes(engine, before)
        return CellRun(segments, engine.prefill_s, list(engine.timings), answers, *nodes, tuple(readings))

    def _engine(self, batch: int, policy: Policy) -> Engine:
        """One a batch and draft: the one that the policy asks, else the first."""
        name = policy.asks if policy.asks in self.drafts else next(iter(self.drafts), None)
        if (batch, name) not in self._engines:
            drafters = {} if name is None else {name: drafter_of(self.drafts[name])}
            self._engines[batch, name] = Engine(
                self.target,
                drafters=drafters,
                max_batch=batch,
                max_context=self.slots,
                datastore=self.datastore,
                tokenizer=self.tokenizer,
            )
        return self._engines[batch, name]


def _nodes(engine: Engine, before: EngineCounters) -> tuple[Counter[str], Counter[str]]:
    """Nodes offered and accepted since then, by source."""
    after = engine.counters
    pairs = ((after.offered, before.offered), (after.accepted, before.accepted))
    now, then = zip(*([Counter({k: sum(v) for k, v in each.items()}) for each in pair] for pair in pairs), strict=True)
    return now[0] - then[0], now[1] - then[1]


def _cell(
    task: Task,
    runs: list[CellRun],
    plain: list[CellRun] | None,
    speed_up: Estimate | None,
    pace: Pace,
    target: LanguageModel,
    temperature: float | None,
) -> RunCell:
    first, times = runs[0], [run.decode_s for run in runs]
    return RunCell(
        workload=task.workload,
        batch=task.batch,
        context_tokens=task.context_tokens,
        policy=task.policy,
        repeats=len(runs),
        prompts=len(first.requests),
        output_tokens=sum(len(request.output) for request in first.requests),
        steps=len(first.steps),
        row_steps=sum(step.rows for step in first.steps),
        decode_s=float(np.median(times)),
        decode_s_spread=(min(times), max(times)),
        prefill_s=float(np.median([run.prefill_s for run in runs])),
        plain_decode_s=float(np.median([run.decode_s for run in plain])) if plain else None,
        speed_up=speed_up,
        reference_s=pace.reference_s * sum(times) / sum(run.at_pace_s(pace) for run in runs),
        lossless=_compare(first.requests, plain[0].requests, target, temperature) if plain else "not_checked",
        offered=dict(first.offered),
        accepted=dict(first.accepted),
    )


def _compare(ours: list[Answer], plain: list[Answer], target: LanguageModel, temperature: float | None) -> Lossless:
    """Whether drafts changed the output; a first difference is forgiven only at a near tie of the target's logits.

    Not looked at under a lossy rule, which has no temperature here.
    """
    if temperature is None:
        return "not_checked"
    different = [(a, b) for a, b in zip(ours, plain, strict=True) if a.output != b.output]
    if not different:
        return "greedy_identical" if temperature == 0 else "sampled"
    if temperature:
        return "not_checked"
    return "greedy_near_tie" if all(_near_tie(a, b, target) for a, b in different) else "greedy_different"


def _near_tie(a: Answer, b: Answer, target: LanguageModel) -> bool:
    at = next((i for i, (x, y) in enumerate(zip(a.output, b.output, strict=False)) if x != y), None)
    if at is None:  # one goes on where the other ends
        return False
    prompt, output = np.array(a.prompt, dtype=np.int64), np.array(a.output[: at + 1], dtype=np.int64)
    logits = teacher_forced(target, prompt, output)[at].float()
    gap = float(logits[[a.output[at], b.output[at]]].diff().abs())
    top = float(logits.max())
    ulp = float(torch.finfo(target.dtype).eps) * 2.0 ** np.floor(np.log2(max(abs(top), 1e-30)))
    return gap <= NEAR_TIE_ULPS * ulp


def _request(answer: Answer, cell: int) -> RequestRecord:
    return RequestRecord(
        id=answer.id, cell=cell, prompt_tokens=len(answer.prompt), output_tokens=len(answer.output),
        steps=answer.steps, accepted=answer.accepted, finish=answer.finish,
    )  # fmt: skip
