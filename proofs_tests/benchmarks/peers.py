"""Tokens a second of this engine under its plan beside transformers' own ways to generate, in one run, per workload.

Rows: transformers' plain ``generate``, its prompt lookup and its assisted generation (each the best of a small sweep on
other prompts), this engine without drafts, and this engine under its plan. Prompts are ones that the fit has not seen;
methods take turns prompt by prompt, so that a slow minute of the machine falls on all of them.

    python -m proofs_tests.benchmarks.peers --batch 1 --prompts 6 --tokens 96
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from optimizer.plan import make_plan
from proofs_tests.benchmarks._report import write_report
from reader_theory.acceptance.fit import fit_acceptance
from reader_theory.documents import DraftPolicy, Plan, Trace
from runtime.calibrate import calibrate_cost
from runtime.engine import Engine
from runtime.models.house import house_folder
from runtime.models.house.inflate import inflate
from runtime.models.load import DTYPES, load_tokenizer, wrap
from runtime.models.target import load_transformers
from runtime.prompts import PromptTokens, house_prompts
from runtime.record import record_trace
from runtime.sampling_params import SamplingParams

WORKLOADS = ("code", "copy", "prose")
LOOKUPS, ASSISTANTS = (4, 10, 20), (2, 4, 8)


class Models:
    """One target in both guises, and the draft in both."""

    def __init__(self, folder: Path, dtype: str, name: str) -> None:
        self.name, self.dtype = name, dtype
        self.hf = load_transformers(folder, DTYPES[dtype])
        self.hf_draft = load_transformers(house_folder("draft"), DTYPES[dtype])
        self.lean = wrap(self.hf, name=name)
        self.lean_draft = wrap(load_transformers(house_folder("draft"), torch.float32), name="house draft")


def generated(models: Models, tokens: np.ndarray, count: int, temperature: float, **options: Any) -> float:
    """Seconds that transformers' generate takes for exactly `count` tokens."""
    sampling = {"do_sample": True, "temperature": temperature, "top_k": 0} if temperature else {"do_sample": False}
    ids = torch.from_numpy(tokens)[None]
    torch.manual_seed(0)
    start = time.perf_counter()
    out = models.hf.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        min_new_tokens=count,
        max_new_tokens=count,
        pad_token_id=0,
        **sampling,
        **options,
    )
    took = time.perf_counter() - start
    assert out.shape[1] - len(tokens) >= count, "transformers stopped early"
    return took


def engine_seconds(engine: Engine, policy: DraftPolicy, tokens: np.ndarray, count: int, temperature: float) -> float:
    """Seconds that this engine takes, prefill included."""
    engine.use(policy)
    start = time.perf_counter()
    done = engine.generate([tokens], SamplingParams(temperature=temperature, max_new_tokens=count))[0]
    assert len(done.tokens) == count
    return time.perf_counter() - start


def plan_for(models: Models, trace: Trace, prompts: list[PromptTokens], tokens: int, seconds: float) -> Plan:
    """Calibrate this target and plan for batch 1 from a trace that both targets share."""
    cost = calibrate_cost(
        models.lean,
        models.lean_draft,
        prompts,
        device_name="this machine",
        dtype=models.dtype,
        batches=(1,),
        seconds=seconds,
        temperature=trace.temperature,
    )
    return make_plan(fit_acceptance(trace, resamples=200), cost, trace, batches=(1,), new_tokens=tokens, resamples=200)


def best_setting(run: Callable[[int], float], settings: tuple[int, ...]) -> int:
    """The setting with the least seconds."""
    return min(settings, key=run)


def measure(
    models: Models, plan: Plan, tests: list[PromptTokens], tuning: list[PromptTokens], count: int
) -> list[dict[str, Any]]:
    """Tokens a second of every method and workload."""
    temperature = plan.temperature
    longest = max(len(p.tokens) for p in tests + tuning) + count + 64
    engine = Engine(models.lean, models.lean_draft, max_batch=1, max_context=longest)
    rows: list[dict[str, Any]] = []
    for workload in plan.workloads:
        tune = [p.tokens for p in tuning if p.workload == workload][:2]
        policy = plan.entry(workload, 1).policy

        def lookup(setting: int, tune: list[np.ndarray] = tune) -> float:
            return sum(generated(models, t, count, temperature, prompt_lookup_num_tokens=setting) for t in tune)

        def assisted(setting: int, tune: list[np.ndarray] = tune) -> float:
            set_assistant(models, setting)
            return sum(generated(models, t, count, temperature, assistant_model=models.hf_draft) for t in tune)

        look, assist = best_setting(lookup, LOOKUPS), best_setting(assisted, ASSISTANTS)
        set_assistant(models, assist)
        methods: dict[str, Callable[[np.ndarray], float]] = {
            "transformers plain": lambda t: generated(models, t, count, temperature),
            f"transformers prompt lookup {look}": lambda t, look=look: generated(
                models, t, count, temperature, prompt_lookup_num_tokens=look
            ),
            f"transformers assisted {assist}": lambda t: generated(
                models, t, count, temperature, assistant_model=models.hf_draft
            ),
            "ours plain": lambda t: engine_seconds(engine, DraftPolicy(), t, count, temperature),
            f"ours planned: {policy.name}": lambda t, policy=policy: engine_seconds(
                engine, policy, t, count, temperature
            ),
        }
        chosen = [p.tokens for p in tests if p.workload == workload]
        seconds: dict[str, list[float]] = {name: [] for name in methods}
        for tokens in chosen:
            for name, method in methods.items():
                seconds[name].append(method(tokens))
        print(f"{models.name}, T {temperature:g}, {workload}: done", flush=True)
        rows.append(
            {
                "target": models.name,
                "dtype": models.dtype,
                "temperature": temperature,
                "workload": workload,
                "prompts": len(chosen),
                "tokens": count,
                "tokens_per_s": {name: count * len(chosen) / sum(s) for name, s in seconds.items()},
                "spread": {name: [count / max(s), count / min(s)] for name, s in seconds.items()},
            }
        )
    return rows


def set_assistant(models: Models, tokens: int) -> None:
    """A constant number of assistant tokens."""
    config = models.hf_draft.generation_config
    config.num_assistant_tokens, config.num_assistant_tokens_schedule = tokens, "constant"
    config.assistant_confidence_threshold = 0.0


def table_of(rows: list[dict[str, Any]]) -> Table:
    """One line a row; the last column is ours over the best of the others."""
    table = Table(title="tokens a second, batch 1")
    for column in (
        "target",
        "T",
        "workload",
        "HF plain",
        "HF lookup",
        "HF assisted",
        "ours plain",
        "ours",
        "over best",
    ):
        table.add_column(column, justify="left" if column in ("target", "workload") else "right")
    for row in rows:
        rates = list(row["tokens_per_s"].values())
        ratio = rates[-1] / max(rates[:-1])
        table.add_row(
            row["target"], f"{row['temperature']:g}", row["workload"], *(f"{r:.0f}" for r in rates), f"{ratio:.2f}"
        )
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=6, help="test prompts a workload")
    parser.add_argument("--fit-prompts", type=int, default=24, help="prompts a workload that the plan is fitted on")
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--seconds", type=float, default=15.0, help="of calibration a target")
    parser.add_argument("--temperatures", type=float, nargs="*", default=[0.0, 1.0])
    parser.add_argument("--targets", nargs="*", default=["house", "inflated"], choices=["house", "inflated"])
    args = parser.parse_args()
    tokenizer = load_tokenizer(house_folder("target"))
    fit = house_prompts(WORKLOADS, "fit", tokenizer, limit=args.fit_prompts)
    tests = house_prompts(WORKLOADS, "test", tokenizer, limit=args.prompts)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        big = Path(scratch) / "inflated"
        if "inflated" in args.targets:
            inflate(house_folder("target"), big)
        small = Models(house_folder("target"), "float32", "house float32")
        shapes = {"house": lambda: small, "inflated": lambda: Models(big, "bfloat16", "inflated bfloat16")}
        traces = {
            t: record_trace(
                small.lean,
                small.lean_draft,
                fit,
                path=Path(scratch) / f"trace-{t}.json",
                temperature=t,
                new_tokens=args.tokens,
            )
            for t in args.temperatures
        }
        for which in args.targets:
            models = shapes[which]()
            for trace in traces.values():
                plan = plan_for(models, trace, fit, args.tokens, args.seconds)
                rows += measure(models, plan, tests, fit, args.tokens)
                write_report("peers", {"rows": rows, "ratios": [_ratio(row) for row in rows]})
    Console(width=140).print(table_of(rows))
    ratios = [_ratio(row) for row in rows]
    print(f"ours over the best other: median {statistics.median(ratios):.2f}, least {min(ratios):.2f}")


def _ratio(row: dict[str, Any]) -> float:
    """Ours over the best of the others."""
    *others, ours = row["tokens_per_s"].values()
    return ours / max(others)


if __name__ == "__main__":
    main()
