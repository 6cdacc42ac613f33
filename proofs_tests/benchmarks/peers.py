"""Tokens a second of this engine under its plan beside transformers' own ways to generate, in one run, per workload.

Rows: transformers' plain ``generate``, its prompt lookup and its assisted generation (each the best of a small sweep on
other prompts), this engine without drafts, and this engine under its plan. Prompts are ones that the fit has not seen;
methods take turns prompt by prompt, so that a slow minute of the machine falls on all of them. Larger batches have
plain decoding at the same batch as their base: transformers' drafting takes one row at a time.

    python -m proofs_tests.benchmarks.peers
    python -m proofs_tests.benchmarks.peers --targets inflated --temperatures 0    one part; the others are kept
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from optimizer.plan import make_plan
from proofs_tests.benchmarks._report import RESULTS, write_report
from proofs_tests.benchmarks.tables import METHODS, by_method
from reader_theory.acceptance.fit import fit_acceptance
from reader_theory.documents import Off, Plan, Policy, Trace
from runtime.engine.engine import Engine
from runtime.engine.sampling import SamplingParams
from runtime.measure.calibrate import calibrate_cost
from runtime.measure.prompts import PromptTokens, house_prompts
from runtime.measure.record import record_trace
from runtime.models.house import house_folder
from runtime.models.house.inflate import inflate
from runtime.models.load import DTYPES, load_model, load_tokenizer
from runtime.models.transformers import load_transformers

WORKLOADS = ("code", "copy", "prose")
LOOKUPS, ASSISTANTS = (4, 10, 20), (2, 4, 8)


class Models:
    """One target in both guises, and the draft in both."""

    def __init__(self, folder: Path, dtype: str, name: str) -> None:
        self.name, self.dtype = name, dtype
        self.hf = load_transformers(folder, DTYPES[dtype])
        self.hf_draft = load_transformers(house_folder("draft"), DTYPES[dtype])
        self.lean = load_model(folder, dtype)  # as a user has it: weights of its own, packed
        self.lean_draft = load_model(house_folder("draft"))


def generated(models: Models, prompts: list[np.ndarray], count: int, temperature: float, **options: Any) -> float:
    """Seconds that transformers' generate takes for exactly `count` tokens of each prompt, all at once."""
    sampling = {"do_sample": True, "temperature": temperature, "top_k": 0} if temperature else {"do_sample": False}
    longest = max(map(len, prompts))
    ids = torch.from_numpy(np.stack([np.pad(tokens, (longest - len(tokens), 0)) for tokens in prompts]))
    sizes = torch.tensor([len(tokens) for tokens in prompts])
    seen = (torch.arange(longest)[None] >= longest - sizes[:, None]).long()
    torch.manual_seed(0)
    start = time.perf_counter()
    out = models.hf.generate(
        ids,
        attention_mask=seen,
        min_new_tokens=count,
        max_new_tokens=count,
        pad_token_id=0,
        **sampling,
        **options,
    )
    took = time.perf_counter() - start
    assert out.shape[1] - longest >= count, "transformers stopped early"
    return took


def engine_seconds(engine: Engine, policy: Policy, prompts: list[np.ndarray], count: int, temperature: float) -> float:
    """Seconds that this engine takes, prefill included."""
    engine.use(policy)
    start = time.perf_counter()
    done = engine.generate(prompts, SamplingParams(temperature=temperature, max_new_tokens=count, ignore_eos=True))
    assert all(len(one.tokens) == count for one in done)
    return time.perf_counter() - start


def plan_for(
    models: Models, trace: Trace, prompts: list[PromptTokens], tokens: int, seconds: float, batches: list[int]
) -> Plan:
    """Calibrate this target and plan from a trace that both targets share."""
    cost = calibrate_cost(
        models.lean,
        models.lean_draft,
        prompts,
        device_name="this machine",
        dtype=models.dtype,
        batches=batches,
        seconds=seconds,
        temperature=trace.temperature,
    )
    fit = fit_acceptance(trace, resamples=200)
    return make_plan(fit, cost, trace, batches=batches, new_tokens=tokens, resamples=200)


def best_setting(run: Callable[[int], float], settings: tuple[int, ...]) -> int:
    """The setting with the least seconds."""
    return min(settings, key=run)


def measure(
    models: Models, plan: Plan, tests: list[PromptTokens], tuning: list[PromptTokens], count: int, batch: int
) -> list[dict[str, Any]]:
    """Tokens a second of every method and workload, `batch` prompts at once."""
    longest = max(len(p.tokens) for p in tests + tuning) + count + 80
    engine = Engine(models.lean, models.lean_draft, max_batch=batch, max_context=longest)
    rows: list[dict[str, Any]] = []
    for workload in plan.workloads:
        tune = [[p.tokens] for p in tuning if p.workload == workload][:2]
        methods = methods_of(models, plan, engine, tune, count, workload)
        chosen = [p.tokens for p in tests if p.workload == workload]
        groups = [chosen[i : i + batch] for i in range(0, len(chosen) - batch + 1, batch)]
        seconds: dict[str, list[float]] = {name: [] for name in methods}
        for group in groups:
            for name, method in methods.items():
                seconds[name].append(method(group))
        made = count * batch
        print(f"{models.name}, T {plan.temperature:g}, {workload}, batch {batch}: done", flush=True)
        rows.append(
            {
                "target": models.name,
                "dtype": models.dtype,
                "temperature": plan.temperature,
                "workload": workload,
                "batch": batch,
                "prompts": len(groups) * batch,
                "tokens": count,
                "tokens_per_s": {name: made * len(groups) / sum(s) for name, s in seconds.items()},
                "spread": {name: [made / max(s), made / min(s)] for name, s in seconds.items()},
            }
        )
    return rows


def methods_of(
    models: Models, plan: Plan, engine: Engine, tune: list[list[np.ndarray]], count: int, workload: str
) -> dict[str, Callable[[list[np.ndarray]], float]]:
    """What is timed, by name; transformers' own drafting only where it can run, which is one row."""
    temperature, policy = plan.temperature, plan.entry(workload, engine.max_batch).policy
    plain = partial(generated, models, count=count, temperature=temperature)

    def ours(policy: Policy) -> Callable[[list[np.ndarray]], float]:
        return lambda prompts: engine_seconds(engine, policy, prompts, count, temperature)

    methods: dict[str, Callable[[list[np.ndarray]], float]] = {"transformers plain": plain}
    if engine.max_batch == 1:

        def assisted(setting: int, prompts: list[np.ndarray]) -> float:
            set_assistant(models, setting)
            return plain(prompts, assistant_model=models.hf_draft)

        look = best_setting(lambda n: sum(plain(t, prompt_lookup_num_tokens=n) for t in tune), LOOKUPS)
        assist = best_setting(lambda n: sum(assisted(n, t) for t in tune), ASSISTANTS)
        methods[f"transformers prompt lookup {look}"] = partial(plain, prompt_lookup_num_tokens=look)
        methods[f"transformers assisted {assist}"] = partial(assisted, assist)
    return methods | {"ours plain": ours(Off()), f"ours planned: {policy.name}": ours(policy)}


def set_assistant(models: Models, tokens: int) -> None:
    """A constant number of assistant tokens."""
    config = models.hf_draft.generation_config
    config.num_assistant_tokens, config.num_assistant_tokens_schedule = tokens, "constant"
    config.assistant_confidence_threshold = 0.0


def table_of(rows: list[dict[str, Any]]) -> Table:
    """One line a row; the last column is ours over the best of the others."""
    table = Table(title="tokens a second")
    for column in ("target", "T", "workload", "batch", *METHODS, "over best"):
        table.add_column(column, justify="left" if column in ("target", "workload") else "right")
    for row in rows:
        rates = [f"{rate:.0f}" if rate else "" for rate in by_method(row)]
        table.add_row(
            row["target"], f"{row['temperature']:g}", row["workload"], str(row["batch"]), *rates, f"{_ratio(row):.2f}"
        )
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=8, help="test prompts a workload")
    parser.add_argument("--fit-prompts", type=int, default=64, help="prompts a workload that the plan is fitted on")
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--seconds", type=float, default=15.0, help="of calibration a target")
    parser.add_argument("--batches", type=int, nargs="*", default=[1, 4, 8])
    parser.add_argument("--temperatures", type=float, nargs="*", default=[0.0, 1.0])
    parser.add_argument("--targets", nargs="*", default=["house", "inflated"], choices=["house", "inflated"])
    args = parser.parse_args()
    tokenizer = load_tokenizer(house_folder("target"))
    fit = house_prompts(WORKLOADS, "fit", tokenizer, limit=args.fit_prompts)
    tests = house_prompts(WORKLOADS, "test", tokenizer, limit=args.prompts)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        big, path = Path(scratch) / "inflated", Path(scratch) / "trace.json"
        if "inflated" in args.targets:
            inflate(house_folder("target"), big)
        small = Models(house_folder("target"), "float32", "house float32")
        large = Models(big, "bfloat16", "inflated bfloat16") if "inflated" in args.targets else small
        for temperature in args.temperatures:
            trace = record_trace(
                small.lean, small.lean_draft, fit, path=path, temperature=temperature, new_tokens=args.tokens
            )
            for models in (small if name == "house" else large for name in args.targets):
                plan = plan_for(models, trace, fit, args.tokens, args.seconds, args.batches)
                for batch in args.batches:
                    rows += measure(models, plan, tests, fit, args.tokens, batch)
                everything = merged(rows)
                write_report("peers", {"rows": everything, "ratios": [_ratio(row) for row in everything]})
    Console(width=140).print(table_of(rows))
    ratios = [_ratio(row) for row in rows]
    print(f"ours over the best other: median {statistics.median(ratios):.2f}, least {min(ratios):.2f}")


def merged(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """These rows, and those of earlier runs that they do not replace, in one order."""
    path = RESULTS / "peers.json"
    earlier = json.loads(path.read_text())["rows"] if path.exists() else []
    every = {_key(row): row for row in [*earlier, *rows]}
    return [every[key] for key in sorted(every)]


def _key(row: dict[str, Any]) -> tuple[str, float, int, str]:
    return row["target"], row["temperature"], row["batch"], row["workload"]


def _ratio(row: dict[str, Any]) -> float:
    """Ours over the best of the others."""
    *others, ours = row["tokens_per_s"].values()
    return ours / max(others)


if __name__ == "__main__":
    main()
