"""A public model, SmolLM2-135M-Instruct, through the whole loop: predicted beside measured, and beside other engines.

For each number format: record the model's own answers to the `fit` prompts of the public sets, fit, calibrate, plan
for each workload and batch, and run the plans on the `test` prompts, in turn with plain decoding. With `--engines`,
vLLM and llama.cpp answer the same prompts in the same run. Every engine is given the same threads, prompts and end
token, and at most the same number of tokens; rates are tokens emitted a second, prefill included; a speed-up is of what
follows the prompts, which is what a plan predicts. Rows of other types and workloads stay in the result where machine,
versions, commit and settings are the same.

    python -m proofs_tests.benchmarks.real                                        # `make real`: ours and transformers
    python -m proofs_tests.benchmarks.real --engines .venv-engines/bin/python     # after `make engines`
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from optimizer.plan import make_plan
from proofs_tests.benchmarks._report import kept, write_report
from proofs_tests.benchmarks.engines.worker import Worker
from reader_theory.acceptance.fit import fit_acceptance
from reader_theory.documents import Off, Plan, PlanEntry, Policy
from runtime.engine.engine import Engine
from runtime.engine.sampling import SamplingParams
from runtime.measure.calibrate import calibrate_cost
from runtime.measure.prompts import PromptTokens, public_prompts
from runtime.measure.record import record_trace
from runtime.models.fetch import fetch
from runtime.models.load import DTYPES, load_model, load_tokenizer
from runtime.models.transformers import load_transformers

Made = tuple[int, float, list[list[int]] | None, float]
"""Tokens emitted, seconds, texts where the engine tells them, and the seconds that prompts took, where it says so."""
Method = Callable[[list[PromptTokens]], Made]
VLLM, LLAMA = ("plain", "ngram:4", "suffix:8"), ("plain", "ngram_simple", "ngram_cache")
LOOKUP = 10


@dataclass
class Models:
    """One public model behind transformers and behind this engine."""

    folder: Path
    dtype: str
    tokens: int

    def __post_init__(self) -> None:
        self.tokenizer = load_tokenizer(self.folder)
        self.hf = load_transformers(self.folder, DTYPES[self.dtype])
        self.lean = load_model(self.folder, self.dtype)  # as a user has it: weights of its own, packed
        self.end = int(self.tokenizer.eos_token_id)
        self.params = SamplingParams(max_new_tokens=self.tokens, stop_token_ids=(self.end,))


def ours(models: Models, engines: dict[int, Engine], policy: Policy, batch: int, prompts: list[PromptTokens]) -> Made:
    """This engine under one policy."""
    engine = engines[batch]
    engine.use(policy)
    start, before = time.perf_counter(), engine.prefill_s
    done = engine.generate([p.tokens for p in prompts], models.params)
    seconds = time.perf_counter() - start
    texts = [list(one.tokens) for one in done]
    return sum(map(len, texts)), seconds, texts, engine.prefill_s - before


def generated(models: Models, prompts: list[PromptTokens], **options: Any) -> Made:
    """transformers' own `generate`, left-padded."""
    longest = max(len(p.tokens) for p in prompts)
    ids = torch.from_numpy(np.stack([np.pad(p.tokens, (longest - len(p.tokens), 0)) for p in prompts]))
    seen = torch.from_numpy(np.stack([np.arange(longest) >= longest - len(p.tokens) for p in prompts])).long()
    start = time.perf_counter()
    out = models.hf.generate(
        ids, attention_mask=seen, max_new_tokens=models.tokens, do_sample=False, pad_token_id=models.end,
        eos_token_id=models.end, **options,
    )  # fmt: skip
    seconds = time.perf_counter() - start
    texts = [_ended(row[longest:].tolist(), models.end) for row in out]
    return sum(map(len, texts)), seconds, texts, 0.0


def asked(worker: Worker, models: Models, prompts: list[PromptTokens]) -> Made:
    """Another engine, in its own process; its own clock."""
    answer = worker.generate([p.tokens.tolist() for p in prompts], models.tokens, models.end)
    return sum(answer["counts"]), answer["seconds"], answer["tokens"], 0.0


def _ended(tokens: list[int], end: int) -> list[int]:
    return tokens[: tokens.index(end) + 1] if end in tokens else tokens


def peers(stack: ExitStack, models: Models, python: Path | None, most: int, threads: int) -> dict[str, Worker]:
    """Workers of other engines by name; none without an environment of theirs."""
    if python is None:
        return {}
    rows, found = str(most), dict[str, Worker]()
    for method in VLLM:
        options = (str(models.folder), models.dtype, method, rows, str(threads))
        found[f"vLLM {method}"] = stack.enter_context(Worker(python, "vllm_worker.py", *options))
    for path in sorted(models.folder.glob("*.gguf")):
        for method in LLAMA:
            worker = Worker(python, "llama_worker.py", str(path), method, rows, str(threads))
            found[f"llama.cpp {path.stem.split('.')[-1]} {method}"] = stack.enter_context(worker)
    return found


def measured(
    models: Models, plans: dict[int, Plan], tests: list[PromptTokens], workers: dict[str, Any],
    *, groups: int, repeats: int,
) -> list[dict[str, Any]]:  # fmt: skip
    """Every workload and batch: each method's tokens a second, repeat by repeat, the order turned each time."""
    longest = max(len(p.tokens) for p in tests) + models.tokens + 80
    engines = {batch: Engine(models.lean, max_batch=batch, max_context=longest) for batch in plans}
    cells: list[dict[str, Any]] = []
    for workload in dict.fromkeys(entry.workload for plan in plans.values() for entry in plan.entries):
        mine = [p for p in tests if p.workload == workload]
        for batch, plan in plans.items():
            entry = plan.entry(workload, batch)
            chosen = [mine[i : i + batch] for i in range(0, len(mine) - batch + 1, batch)][
                : groups if batch == 1 else 1
            ]
            methods = methods_of(models, engines, entry, batch, workers)
            cells.append({"chosen": chosen, "methods": methods, "entry": entry, "workload": workload, "batch": batch})
    started = set[str]()
    for cell in cells:  # each method once, uncounted, on the first prompts that it meets
        for name in cell["methods"].keys() - started:
            cell["methods"][name](cell["chosen"][0])
        started |= cell["methods"].keys()
        cell["made"] = {name: list[list[Made]]() for name in cell["methods"]}
    for repeat in range(repeats):
        for cell in cells:
            names = list(cell["methods"]) if repeat % 2 == 0 else list(cell["methods"])[::-1]
            for name in names:
                cell["made"][name].append([cell["methods"][name](group) for group in cell["chosen"]])
        print(f"{models.dtype}: repeat {repeat + 1} of {repeats}", flush=True)
    return [row_of(models, cell) for cell in cells]


def methods_of(
    models: Models, engines: dict[int, Engine], entry: PlanEntry, batch: int, workers: dict[str, Any]
) -> dict[str, Method]:
    """What is timed, by name."""
    methods: dict[str, Method] = {
        "ours plain": partial(ours, models, engines, Off(), batch),
        "ours planned": partial(ours, models, engines, entry.policy, batch),
        "transformers plain": partial(generated, models),
    }
    if batch == 1:
        methods["transformers prompt lookup"] = partial(generated, models, prompt_lookup_num_tokens=LOOKUP)
    return methods | {name: partial(asked, worker, models) for name, worker in workers.items()}


def row_of(models: Models, cell: dict[str, Any]) -> dict[str, Any]:
    """One row of the table: rates by method, and the plan's prediction beside what was measured."""
    rates = {name: [_rate(repeat) for repeat in made] for name, made in cell["made"].items()}
    texts = {name: [text for group in made[0] for text in group[2] or []] for name, made in cell["made"].items()}
    decoding = {name: [_decoding_s(repeat) for repeat in cell["made"][f"ours {name}"]] for name in ("plain", "planned")}
    gain = [plain / planned for plain, planned in zip(decoding["plain"], decoding["planned"], strict=True)]
    prediction = cell["entry"].prediction
    return {
        "dtype": models.dtype,
        "workload": cell["workload"],
        "batch": cell["batch"],
        "prompts": sum(map(len, cell["chosen"])),
        "policy": cell["entry"].policy.name,
        "tokens_per_s": {name: statistics.median(values) for name, values in rates.items()},
        "spread": {name: [min(values), max(values)] for name, values in rates.items()},
        "speed_up": {"predicted": prediction.speed_up.model_dump(mode="json"), "measured": statistics.median(gain)},
        "tokens_per_step": {"predicted": prediction.tokens_per_step.model_dump(mode="json")},
        "same_text_as_generate": {
            name: sum(a == b for a, b in zip(found, texts["transformers plain"], strict=True))
            for name, found in texts.items()
            if found
        },
    }


def _decoding_s(groups: list[Made]) -> float:
    """Seconds after the prompts, which is what a plan predicts."""
    return sum(made[1] - made[3] for made in groups)


def _rate(groups: list[Made]) -> float:
    return sum(made[0] for made in groups) / sum(made[1] for made in groups)


def planned(models: Models, fit: list[PromptTokens], args: argparse.Namespace) -> dict[int, Plan]:
    """Record, fit, calibrate; a plan a batch, for as many prompts as are run: one batch of them, or some alone.

    Retrieval alone, as the model has no smaller sibling.
    """
    with tempfile.TemporaryDirectory() as scratch:
        trace = record_trace(models.lean, None, fit, path=Path(scratch) / "trace.json", new_tokens=models.tokens)
        cost = calibrate_cost(
            models.lean, None, fit, device_name="this machine", dtype=models.dtype, batches=args.batches,
            seconds=args.seconds, on_disturbance="note",
        )  # fmt: skip
        known = fit_acceptance(trace, resamples=200)
        return {
            batch: make_plan(
                known, cost, trace, batches=(batch,), new_tokens=models.tokens,
                prompts_per_workload=args.groups if batch == 1 else batch, resamples=400,
            )
            for batch in args.batches
        }  # fmt: skip


def table_of(rows: list[dict[str, Any]]) -> Table:
    """One line a row: ours over the best of the others, and the speed-up predicted beside measured."""
    table = Table(title="SmolLM2-135M-Instruct, tokens a second")
    for column in ("type", "workload", "batch", "plan", "ours plain", "ours planned", "best other", "which",
                   "over it", "speed-up", "predicted", "error"):  # fmt: skip
        table.add_column(column)
    for row in rows:
        rates = row["tokens_per_s"]
        best = max((name for name in rates if not name.startswith("ours")), key=rates.__getitem__)
        told = row["speed_up"]["predicted"]
        table.add_row(
            row["dtype"], row["workload"], str(row["batch"]), row["policy"], f"{rates['ours plain']:.0f}",
            f"{rates['ours planned']:.0f}", f"{rates[best]:.0f}", best, f"{rates['ours planned'] / rates[best]:.2f}",
            f"{row['speed_up']['measured']:.2f}", f"{told['value']:.2f} [{told['low']:.2f}, {told['high']:.2f}]",
            f"{told['value'] / row['speed_up']['measured'] - 1:+.1%}",
        )  # fmt: skip
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("out/models/smollm2"), help="fetched when it is not there")
    parser.add_argument("--dtypes", nargs="*", default=["bfloat16", "float32"])
    parser.add_argument("--workloads", nargs="*", default=["chat", "code", "math", "rag", "summarization"])
    parser.add_argument("--batches", type=int, nargs="*", default=[1, 4, 8])
    parser.add_argument("--fit-prompts", type=int, default=8, help="a workload")
    parser.add_argument("--groups", type=int, default=1, help="prompts a workload at batch 1")
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=20.0, help="of calibration a type")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--engines", type=Path, help="Python of the environment that `make engines` makes")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    folder = fetch("smollm2", args.model, print)
    facts = {"model": "SmolLM2-135M-Instruct", "tokens": args.tokens, "threads": args.threads, "repeats": args.repeats}
    held, again = kept("real", **facts), set(product(args.dtypes, args.workloads))
    rows = [row for row in held.get("rows", ()) if (row["dtype"], row["workload"]) not in again]
    told = dict[str, Any](held.get("engines", {}))
    for dtype in args.dtypes:
        models = Models(folder, dtype, args.tokens)
        fit = public_prompts("fit", models.tokenizer, args.workloads, args.fit_prompts)
        tests = public_prompts("test", models.tokenizer, args.workloads, max(args.batches))
        plans = planned(models, fit, args)
        with ExitStack() as stack:
            workers = peers(stack, models, args.engines, max(args.batches), args.threads)
            told |= {name: worker.about for name, worker in workers.items()}
            rows += measured(models, plans, tests, workers, groups=args.groups, repeats=args.repeats)
        write_report("real", {**facts, "engines": told, "rows": rows})
    Console(width=200).print(table_of(rows))


if __name__ == "__main__":
    main()
