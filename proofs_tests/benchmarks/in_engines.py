"""Our proposer inside other engines, by our plan: vLLM on the CPU and llama-cpp-python, with a public model (SmolLM2).

    python -m proofs_tests.benchmarks.in_engines [--parts vllm llama sampled rows] [--workloads ...] [--tokens N]

Needs `make engines` and the real model of `make real`. Answers to the `fit` prompts are recorded by our engine; what
they would accept is replayed on that trace, and plans are made of it with the step times of the engine that will run
them, measured in the same run. Then the `test` prompts, every method in turn:

vllm
    Plain, its `ngram` and `suffix`, and ours by two plans: for this machine, and, so that there is drafting to see
    where this machine is too slow for it, for an H100. Texts are compared with plain ones, tokens a step with the
    plan's interval and, step for step, with the replay of a trace of the same prompts; the acceptance that vLLM counted
    is imported and planned from again.
llama
    Plain, its own prompt lookup, ours with as many drafts, and ours by a plan; of float32, since llama.cpp rounds what
    few-bit weights are multiplied with, so that a text hangs on how many tokens a step takes, its own lookup's too.
sampled
    vLLM at temperature 1 with our drafts, audited: every token against the target's own law. As released, where no
    drafts at a temperature above 0 keep the law on a CPU, and with its `expand_kernel` mended (`vllm_worker.py`).
rows
    Microseconds a row at batch 64 beside vLLM's n-gram proposer.

Each part is written as it is done, vllm and llama workload by workload, into what the file holds of the others. A
workload that the file holds, asked alike, is not run again, and `--seconds` begins no other after so many: a long run
may be done in pieces.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from optimizer.imported_plan import plan_imported
from optimizer.plan import make_plan
from proofs_tests.benchmarks._report import RESULTS, write_report
from proofs_tests.benchmarks.engines.gguf_file import write_gguf
from proofs_tests.benchmarks.engines.worker import Worker
from proofs_tests.benchmarks.vllm_plan import acceptance
from reader_theory.acceptance.fit import fit_acceptance
from reader_theory.acceptance.replay import replay
from reader_theory.cost.tabulated import MeasuredStep, cost_of_step
from reader_theory.documents import Chain, Cost, Grown, Plan, PlanEntry, Policy, Trace
from reader_theory.errors import ReaderTheoryError
from runtime.audit.run import LawsOf, audit
from runtime.cli._predicted import served_by
from runtime.engine.sampling import SamplingParams
from runtime.measure.prompts import PromptTokens, public_prompts
from runtime.measure.record import record_trace
from runtime.models.base import LanguageModel
from runtime.models.load import load_tokenizer, wrap
from runtime.models.transformers import load_transformers

HOUSE = Path(__file__).parents[2]
LONGEST = 900
"""Tokens of a prompt: vLLM's worker serves texts of 1,024."""
DRAFTS, LOOKUP, SHORTER = 8, 10, (1, 3, 6)
"""Tokens of vLLM's own drafts, of llama.cpp's own prompt lookup, and of shorter ones that its steps are timed with."""
LEAST = 2
"""Times that each method is timed in vLLM, at least."""
CARD = "h100"


@dataclass
class Study:
    """The model, its answers, and what is asked of it."""

    args: argparse.Namespace
    began: float = field(default_factory=time.monotonic)

    @cached_property
    def tokenizer(self) -> Any:
        return load_tokenizer(self.args.model)

    @cached_property
    def model(self) -> LanguageModel:
        return wrap(load_transformers(self.args.model, torch.float32), name=self.args.model.name)

    @property
    def end(self) -> int:
        return int(self.tokenizer.eos_token_id)

    def prompts(self, split: str, limit: int) -> list[PromptTokens]:
        """As many a workload, none too long for every engine."""
        every = public_prompts(split, self.tokenizer, self.args.workloads)
        short = [p for p in every if len(p.tokens) <= LONGEST]
        chosen = [[p for p in short if p.workload == name][:limit] for name in self.args.workloads]
        return [prompt for some in chosen for prompt in some]

    @cached_property
    def tests(self) -> list[PromptTokens]:
        return self.prompts("test", self.args.prompts)

    @cached_property
    def fit(self) -> Trace:
        """Our engine's own answers to the prompts that plans are made from."""
        return self._trace("fit", self.prompts("fit", self.args.fit_prompts))

    @cached_property
    def test(self) -> Trace:
        """And to those that they are tried on."""
        return self._trace("test", self.tests)

    def _trace(self, name: str, prompts: list[PromptTokens]) -> Trace:
        asked = f"{len(prompts)}_{self.args.tokens}_{'_'.join(self.args.workloads)}"
        path = self.args.work / f"{name}_{asked}.json"
        if path.exists():
            return Trace.read(path)
        return record_trace(self.model, None, prompts, path=path, new_tokens=self.args.tokens)

    def plan(self, cost: Cost, batches: Sequence[int], name: str) -> Path:
        """The plan of these step times, in a file."""
        plan = make_plan(
            fit_acceptance(self.fit, resamples=200), cost, self.fit, batches=batches, new_tokens=self.args.tokens,
            prompts_per_workload=min(self.args.prompts, self.args.groups), resamples=400,
        )  # fmt: skip
        return plan.write(self.args.work / f"plan_{name}.json")

    def cost(self, device: str, measured: Sequence[MeasuredStep], batches: Sequence[int]) -> Cost:
        """Step times of the model on a device, held to what was measured there."""
        served = served_by(str(self.args.model), device, draft="ngram", dtype="float32")
        return cost_of_step(
            served.step, target=self.fit.target, dtype="float32", looks_up="retrieval", measured=measured,
            batches=batches, max_nodes=2 * DRAFTS,
        )  # fmt: skip

    def workers(self, stack: ExitStack, script: str, options: Mapping[str, Sequence[str]]) -> dict[str, Worker]:
        """Engines in processes and an environment of their own, where our package is on the path; by name."""
        environment = os.environ | {"PYTHONPATH": str(HOUSE), "NUMBA_CACHE_DIR": str(self.args.work / "numba")}

        def started(asked: Sequence[str]) -> Worker:
            return stack.enter_context(Worker(self.args.python, script, *asked, environment=environment))

        with ThreadPoolExecutor() as pool:
            return dict(zip(options, pool.map(started, options.values()), strict=True))


Row = dict[str, Any]
Keep = Callable[[dict[str, Any]], None]


def in_time(study: Study, left: Sequence[str]) -> Iterator[str]:
    """Workloads, as long as there is time to begin one."""
    return takewhile(lambda _: time.monotonic() < study.began + study.args.seconds, left)


def in_vllm(study: Study, left: Sequence[str], rows: list[Row], keep: Keep) -> None:
    """The loop closed in vLLM, on the workloads that are left."""
    args, most = study.args, max(study.args.batch)

    def started(stack: ExitStack, methods: Mapping[str, str]) -> dict[str, Worker]:
        asked = {
            name: (str(args.model), "float32", method, str(most), str(args.threads)) for name, method in methods.items()
        }
        return study.workers(stack, "vllm_worker.py", asked)

    with ExitStack() as stack:
        own = started(stack, {name: name for name in ("plain", *(f"{peer}:{DRAFTS}" for peer in args.peers))})
        costs = {CARD: study.cost(CARD, (), args.batch)}
        if f"ngram:{DRAFTS}" in own:
            costs["here"] = study.cost("this machine", _vllm_steps(study, own), args.batch)
        plans = {name: study.plan(cost, args.batch, f"vllm_{name}") for name, cost in costs.items()}
        for workload in in_time(study, left):
            with ExitStack() as turn:
                most_of = {
                    name: max(e.policy.most_nodes for e in Plan.read(path).entries) for name, path in plans.items()
                }
                ours = {
                    f"ours {name}": f"ours:{max(most_of[name], 1)}:{path}:{workload}" for name, path in plans.items()
                }
                workers = own | started(turn, ours)
                rows += [_vllm_row(study, workers, plans, costs, workload, batch) for batch in args.batch]
            keep(_vllm_facts(rows))


def _vllm_facts(rows: Sequence[Row]) -> dict[str, Any]:
    ours = [told for row in rows for told in row["ours"].values()]
    return {
        "texts_equal_to_plain": sum(sum(row["same_text"].values()) for row in rows),
        "texts": sum(row["prompts"] * len(row["same_text"]) for row in rows),
        "cells_of_ours": len(ours),
        "within_interval": sum(told["within"] for told in ours),
        "steps_as_replayed": sum(told["steps"] == told["replayed_steps"] for told in ours),
        "planned_again_alike": sum(told["again"]["alike"] for told in ours),
    }


def _vllm_steps(study: Study, own: Mapping[str, Worker]) -> list[MeasuredStep]:
    """Median full steps of plain decoding and of n-gram drafts, on prompts that nothing is tried on."""
    found: list[MeasuredStep] = []
    for batch in study.args.batch:
        prompts = study.prompts("fit", -(-batch // len(study.args.workloads)))[:batch]
        texts = [p.tokens.tolist() for p in prompts]
        for name, length in (("plain", 0), (f"ngram:{DRAFTS}", DRAFTS)):
            before = own[name].generate(texts[:1], 1, None)["counters"]
            answer = own[name].generate(texts, study.args.tokens, None)
            told = acceptance(before, answer["counters"]) if length else None
            drafted = (
                0.0 if told is None or told.draft_tokens is None else told.draft_tokens / max(answer["row_steps"], 1)
            )
            full = [seconds for seconds, rows in answer["steps"][1:] if rows == batch]
            context = float(np.mean([len(text) for text in texts])) + study.args.tokens / 2
            found.append(MeasuredStep(batch, context, 1 + drafted, float(length > 0), float(np.median(full))))
    return found


def _vllm_row(
    study: Study, workers: Mapping[str, Worker], plans: Mapping[str, Path], costs: Mapping[str, Cost], workload: str,
    batch: int,
) -> dict[str, Any]:  # fmt: skip
    args = study.args
    mine = [p for p in study.tests if p.workload == workload]
    groups = [mine[i : i + batch] for i in range(0, len(mine) - batch + 1, batch)][: args.groups]
    warm = [p.tokens.tolist() for p in groups[0]]
    before = {name: worker.generate(warm, 8, None)["counters"] for name, worker in workers.items()}
    made: dict[str, list[list[dict[str, Any]]]] = {name: [] for name in workers}
    for repeat in range(max(args.repeats, -(-LEAST // len(groups)))):
        names = list(workers)[repeat % len(workers) :] + list(workers)[: repeat % len(workers)]
        answers: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
        for group in groups:
            for name in names:
                answers[name].append(workers[name].generate([p.tokens.tolist() for p in group], args.tokens, study.end))
        for name in names:
            made[name].append(answers[name])
    texts = {name: [text for answer in runs[0] for text in answer["tokens"]] for name, runs in made.items()}
    ours: dict[str, Any] = {}
    for name, path in plans.items():
        runs = made[f"ours {name}"]
        entry = Plan.read(path).entry(workload, batch)
        counters = before[f"ours {name}"], runs[-1][-1]["counters"]
        used = [p for group in groups for p in group]
        ours[name] = _told(study, entry, runs[0], used, texts[f"ours {name}"]) | {
            "again": _again(costs[name], entry, *counters)
        }
    return {
        "workload": workload,
        "batch": batch,
        "prompts": sum(map(len, groups)),
        "same_text": _same(texts),
        "tokens_per_step": {name: _per_step(runs[0]) for name, runs in made.items()},
        "tokens_per_s": {name: [_decoding(answer) for run in runs for answer in run] for name, runs in made.items()},
        "tokens_per_s_with_prompts": {name: [_rate(run) for run in runs] for name, runs in made.items()},
        "over_plain": {name: _gain(made[name], made["plain"]) for name in made if name != "plain"},
        "ours": ours,
    }  # fmt: skip


def _same(texts: Mapping[str, list[list[int]]]) -> dict[str, int]:
    """How many texts of each method are those of plain decoding."""
    return {name: sum(map(list.__eq__, found, texts["plain"])) for name, found in texts.items() if name != "plain"}


def _told(
    study: Study, entry: PlanEntry, answers: list[dict[str, Any]], prompts: list[PromptTokens], texts: list[list[int]]
) -> dict[str, Any]:
    """What a plan said of tokens a step, beside what came; steps beside the replay of the same texts."""
    told, measured = entry.prediction.tokens_per_step, _per_step(answers)
    replayed = replay(study.test, entry.policy, workload=entry.workload, first_position=1)
    by_id = dict(zip([study.test.prompts[i].id for i in replayed.prompts], replayed.steps.tolist(), strict=True))
    known = {p.id: study.test.columns["token"][study.test.columns["prompt"] == number].tolist()
             for number, p in enumerate(study.test.prompts)}  # fmt: skip
    return {
        "policy": entry.policy.name,
        "predicted": told.model_dump(mode="json"),
        "measured": measured,
        "within": bool(told.low <= measured <= told.high),
        "steps": sum(answer["row_steps"] for answer in answers),
        "replayed_steps": sum(by_id.get(p.id, 0) for p in prompts),
        "texts_as_recorded": sum(known[p.id] == text for p, text in zip(prompts, texts, strict=True)),
    }


def _again(cost: Cost, entry: PlanEntry, before: list[dict[str, Any]], after: list[dict[str, Any]]) -> dict[str, Any]:
    """The plan from what vLLM counted of a plan: the same decision, and as long a chain."""
    longest = entry.policy.most_nodes
    if longest == 0:
        return {"policy": "off", "alike": True, "note": "nothing was drafted, so nothing was counted"}
    try:
        told = acceptance(before, after)
    except ReaderTheoryError as error:
        return {"policy": None, "alike": False, "note": str(error)}
    context = entry.context_tokens
    made = plan_imported(
        told,
        cost,
        batches=[entry.batch],
        contexts=[context] if context else None,
        drafter="retrieval",
        max_depth=longest,
    )
    found = made.entries[0].policy
    return {
        "policy": found.name,
        "alike": found.most_nodes == longest,
        "counted": told.tokens_per_step.model_dump(mode="json"),
    }


def _per_step(answers: list[dict[str, Any]]) -> float:
    """Tokens a decode step of a row; the first token of each comes with its prompt."""
    emitted = sum(sum(answer["counts"]) - len(answer["counts"]) for answer in answers)
    return emitted / sum(answer["row_steps"] for answer in answers)


def _rate(answers: list[dict[str, Any]]) -> float:
    return sum(sum(answer["counts"]) for answer in answers) / sum(answer["seconds"] for answer in answers)


def _decoding(answer: dict[str, Any]) -> float:
    """Tokens a second after the step that took in the prompts."""
    return (sum(answer["counts"]) - len(answer["counts"])) / (answer["seconds"] - answer["steps"][0][0])


def _gain(runs: list[list[dict[str, Any]]], others: list[list[dict[str, Any]]]) -> dict[str, float]:
    """Tokens a second over another method's, group by group: both met the same moments of the machine."""
    mine, beside = ([_decoding(answer) for run in each for answer in run] for each in (runs, others))
    ratios = np.divide(mine, beside)
    low, median, high = np.quantile(ratios, [0.25, 0.5, 0.75]).tolist()
    return {"median": median, "quarter": low, "three_quarters": high, "times": len(ratios)}


def in_llama(study: Study, left: Sequence[str], rows: list[Row], keep: Keep) -> None:
    """Our drafts in llama-cpp-python beside its own, on the workloads that are left."""
    args = study.args
    gguf = args.work / f"{args.model.name}.f32.gguf"
    if not gguf.exists():
        write_gguf(args.model, gguf.with_suffix(".tmp")).replace(gguf)

    def started(stack: ExitStack, methods: Mapping[str, str]) -> dict[str, Worker]:
        asked = {name: (str(gguf), method, str(args.threads)) for name, method in methods.items()}
        return study.workers(stack, "llama_python_worker.py", asked)

    with ExitStack() as stack:
        own = started(stack, {name: name for name in ("plain", f"lookup:{LOOKUP}")})
        with ExitStack() as turn:
            shorter = started(turn, {name: name for length in SHORTER for name in [f"lookup:{length}"]})
            cost = study.cost("this machine", _llama_steps(study, own | shorter), [1])
        planned = study.plan(cost, [1], "llama")
        equal = _held_to(Plan.read(planned), Grown(drafter=None, nodes=LOOKUP, price=0.0))
        plans = {"equal drafts": equal.write(args.work / "plan_llama_equal.json"), "planned": planned}
        for workload in in_time(study, left):
            with ExitStack() as turn:
                ours = started(turn, {f"ours {name}": f"ours:{path}:{workload}" for name, path in plans.items()})
                rows.append(_llama_row(study, own | ours, Plan.read(planned).entry(workload, 1), workload))
            keep({"gguf": gguf.name, **_llama_facts(rows)})


def _llama_facts(rows: Sequence[Row]) -> dict[str, Any]:
    return {
        "texts_equal_to_plain": sum(sum(row["same_text"].values()) for row in rows),
        "texts": sum(row["prompts"] * len(row["same_text"]) for row in rows),
        "tokens_a_step_at_least_lookup": sum(
            row["tokens_per_step"]["ours equal drafts"] >= row["tokens_per_step"][f"lookup:{LOOKUP}"] for row in rows
        ),
        "least_over_the_better": min(row["over_the_better_of_plain_and_lookup"]["median"] for row in rows),
    }


def _held_to(plan: Plan, policy: Policy) -> Plan:
    """The same cells with one policy, to run and not to believe."""
    entries = tuple(entry.model_copy(update={"policy": policy}) for entry in plan.entries)
    return plan.model_copy(
        update={"entries": entries, "notes": ("one policy everywhere: predictions are not its own",)}
    )


def _llama_steps(study: Study, own: Mapping[str, Worker]) -> list[MeasuredStep]:
    """Median step by tokens, of plain decoding and of prompt lookup, on prompts that nothing is tried on.

    A step that looked up and found nothing tells what looking up costs; what a second token costs is not in it.
    """
    seen: dict[tuple[int, bool], list[tuple[float, int]]] = {}
    for text in (p.tokens.tolist() for p in study.prompts("fit", 2)):
        for name, worker in own.items():
            (told,) = worker.generate([text], study.args.tokens, study.end)["steps"]
            for seconds, tokens, context in told[1:]:
                seen.setdefault((tokens, name != "plain"), []).append((seconds, context))
    found: list[MeasuredStep] = []
    for (tokens, looked), some in sorted(seen.items()):
        if len(some) >= 5:
            seconds, context = (np.array(column) for column in zip(*some, strict=True))
            found.append(MeasuredStep(1.0, context.mean(), tokens, float(looked), float(np.median(seconds))))
    return found


def _llama_row(study: Study, workers: Mapping[str, Worker], entry: PlanEntry, workload: str) -> dict[str, Any]:
    mine = [p.tokens.tolist() for p in study.tests if p.workload == workload]
    made: dict[str, list[dict[str, Any]]] = {name: [] for name in workers}
    for repeat in range(study.args.repeats):
        turn = repeat % len(workers)
        found: dict[str, list[dict[str, Any]]] = {name: [] for name in workers}
        for text in mine:  # prompt by prompt, so that all methods meet the same moments of the machine
            for name in [*list(workers)[turn:], *list(workers)[:turn]]:
                found[name].append(workers[name].generate([text], study.args.tokens, study.end))
        for name, answers in found.items():
            made[name].append(_pooled(answers))
    rates = {name: [_llama_rate(run) for run in runs] for name, runs in made.items()}
    lookup = f"lookup:{LOOKUP}"
    best = [max(pair) for pair in zip(rates["plain"], rates[lookup], strict=True)]
    ratio = [ours / other for ours, other in zip(rates["ours planned"], best, strict=True)]
    return {
        "workload": workload,
        "prompts": len(mine),
        "policy": entry.policy.name,
        "same_text": _same({name: runs[0]["tokens"] for name, runs in made.items()}),
        "tokens_per_step": {name: _llama_per_step(runs[0]) for name, runs in made.items()},
        "drafted_per_step": {name: _drafted(runs[0]) for name, runs in made.items()},
        "tokens_per_s": rates,
        "tokens_per_s_with_prompts": {name: [_rate([run]) for run in runs] for name, runs in made.items()},
        "over_the_better_of_plain_and_lookup": {"median": statistics.median(ratio), "all": ratio},
    }  # fmt: skip


def _pooled(answers: list[dict[str, Any]]) -> dict[str, Any]:
    joined = {name: [each for answer in answers for each in answer[name]] for name in ("tokens", "counts", "steps")}
    return {**joined, "seconds": sum(answer["seconds"] for answer in answers)}


def _llama_per_step(run: dict[str, Any]) -> float:
    return (sum(run["counts"]) - len(run["counts"])) / max(sum(len(told) - 1 for told in run["steps"]), 1)


def _llama_rate(run: dict[str, Any]) -> float:
    """Tokens a second after the prompts."""
    return (sum(run["counts"]) - len(run["counts"])) / (run["seconds"] - sum(told[0][0] for told in run["steps"]))


def _drafted(run: dict[str, Any]) -> float:
    return float(np.mean([tokens - 1 for told in run["steps"] for _, tokens, _ in told[1:]] or [0.0]))


def in_rows(study: Study) -> dict[str, Any]:
    """Microseconds a row beside vLLM's n-gram proposer, at batch 64."""
    trace, prompts = study.test, {p.id: p.tokens.tolist() for p in study.tests}
    pairs = [
        (prompts[told.id], trace.columns["token"][trace.columns["prompt"] == number].tolist())
        for number, told in enumerate(trace.prompts)
    ]
    texts = study.args.work / "pairs.json"
    texts.write_text(json.dumps([pair for pair in pairs if len(pair[1]) >= study.args.tokens // 2]))
    cost = study.cost(CARD, (), [1])
    plan = _held_to(
        Plan.read(study.plan(cost, [1], "rows")), Chain(min_match=2, offset=DRAFTS, factor=0, max_tokens=DRAFTS)
    )
    one = plan.model_copy(update={"entries": plan.entries[:1]}).write(study.args.work / "plan_rows_equal.json")
    with ExitStack() as stack:
        asked = {"rows": (str(texts), str(one), "64", str(max(study.args.repeats, 3)))}
        return study.workers(stack, "rows_worker.py", asked)["rows"].generate([], 0, None)


def sampled(study: Study) -> dict[str, Any]:
    """vLLM at temperature 1 with our drafts: its tokens held against the target's own law, as released and mended."""
    plan = Plan.read(study.plan(study.cost(CARD, (), [1]), [1], "sampled"))
    chains = _held_to(plan, Chain(min_match=1, offset=DRAFTS, factor=0, max_tokens=DRAFTS))
    path = chains.write(study.args.work / "plan_sampled_chains.json")
    return {"as_released": _sampled(study, path), "mended": _sampled(study, path, "mended")}


def _sampled(study: Study, plan: Path, *mended: str) -> dict[str, Any]:
    args, rows = study.args, 8
    params = SamplingParams(temperature=1.0, max_new_tokens=16)
    prompts = [p.tokens for p in study.tests if p.workload == args.workloads[0]][:rows]
    method = f"ours:{DRAFTS}:{plan}:{args.workloads[0]}"
    options = (str(args.model), "float32", method, str(rows), str(args.threads), *mended)
    with ExitStack() as stack:
        worker = study.workers(stack, "vllm_worker.py", {"ours": options})["ours"]
        last: dict[str, Any] = {}

        def asked(prompts: Sequence[Any], seed: int) -> list[list[int]]:
            """vLLM's own generator goes on from call to call."""
            last.update(
                worker.generate([p.tolist() for p in prompts], params.max_new_tokens, study.end, temperature=1.0)
            )
            return last["tokens"]

        done = audit(
            asked, LawsOf(study.model, params), prompts, tokens=args.audited_tokens, error=0.01, tolerance=1e-3
        )
    finding = done.finding
    return {
        "verdict": "no fault found" if finding.lossless else "not lossless",
        "scored_tokens": finding.tokens,
        "log10_evidence": finding.evidence / np.log(10),
        "needed": 2.0,
        "impossible_tokens": finding.impossible,
        "looks_like": None if finding.lossless else finding.likeliest,
        "counted_by_vllm": last["metrics"],
    }


PIECES = {"vllm": in_vllm, "llama": in_llama}
"""Parts that go workload by workload."""
PARTS = {"rows": in_rows, "sampled": sampled}


def run_part(study: Study, part: str) -> None:
    """Run what the file does not hold yet of a part, and write it."""
    args, kept = study.args, study.args.output / "in_engines.json"
    names = ("tokens", "prompts", "fit_prompts", "threads", "repeats", "groups")
    asked = {name: getattr(args, name) for name in names}

    def write(found: dict[str, Any]) -> None:
        held = json.loads(kept.read_text()) if kept.exists() else {}
        parts = {name: held[name] for name in (*PIECES, *PARTS) if name in held}
        write_report("in_engines", {**parts, part: {**asked, **found}}, args.output)
        print(
            json.dumps({part: {name: value for name, value in found.items() if name != "rows"}}, indent=1), flush=True
        )

    if part in PARTS:
        return write(PARTS[part](study))
    held = json.loads(kept.read_text()).get(part, {}) if kept.exists() else {}
    rows: list[Row] = held["rows"] if asked.items() <= held.items() else []
    left = [name for name in args.workloads if name not in {row["workload"] for row in rows}]
    if left:
        PIECES[part](study, left, rows, lambda facts: write({**facts, "rows": rows}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="*", default=[*PIECES, *PARTS], choices=[*PIECES, *PARTS])
    parser.add_argument("--model", type=Path, default=Path("out/models/smollm2"))
    parser.add_argument("--python", type=Path, default=Path(".venv-engines/bin/python"), help="of `make engines`")
    parser.add_argument("--workloads", nargs="*", default=["chat", "code", "math", "qa", "summarization"])
    parser.add_argument("--batch", type=int, nargs="*", default=[1, 4])
    parser.add_argument("--fit-prompts", type=int, default=16, help="a workload")
    parser.add_argument("--prompts", type=int, default=8, help="a workload")
    parser.add_argument("--groups", type=int, default=8, help="batches of prompts of a workload in vLLM, at most")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--peers", nargs="*", default=["ngram", "suffix"], help="vLLM's own; steps here are its ngram's"
    )
    parser.add_argument("--audited-tokens", type=int, default=4000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="after which no workload is begun")
    parser.add_argument("--work", type=Path, default=Path("out/in_engines"))
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    args.work = args.work.resolve()
    args.work.mkdir(parents=True, exist_ok=True)
    study = Study(args)
    for part in args.parts:
        run_part(study, part)


if __name__ == "__main__":
    main()
