"""Load: closed form against the replay, the replay against real serving runs, and the choice of depth.

    python -m proofs_tests.benchmarks.serving_model [--data FOLDER]

`--data` may name a folder that also holds vllm_speculative_runs.csv.gz, which has no licence and does not ship.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from proofs_tests.benchmarks._report import write_report
from reader_theory.cost.device import find_device
from reader_theory.cost.known import known_shape
from reader_theory.cost.logged_steps import StepFit, fit_steps, predict_steps
from reader_theory.cost.roofline import Roofline
from reader_theory.cost.step import StepCost
from reader_theory.cost.terms import StepConditions
from reader_theory.memory.budget import memory_budget
from reader_theory.serving.load import AffineLoad
from reader_theory.serving.logged_runs import RunSetting, choose_depth, replay_run
from reader_theory.serving.simulator import EngineLimits, StepTime, Workload, simulate
from reader_theory.serving.traces import poisson_arrivals

DATA = Path(__file__).parents[1] / "data"
ENDLESS = EngineLimits(kv_tokens=10**8, max_requests=10**6, max_step_tokens=10**7)


def closed_form(
    load: AffineLoad, law: tuple[float, ...], utilisation: float, *, count: int = 6000, seed: int = 0
) -> float:
    """Closed-form over replayed mean latency, minus one; the first and last tenth of requests are dropped."""
    drafts, emitted = len(law) - 1, sum((i + 1) * p for i, p in enumerate(law))
    rate = utilisation * load.capacity_per_s(drafts, emitted)
    fixed = load.target_fixed_s + drafts * load.drafter_fixed_s
    each = load.target_load_s + drafts * load.drafter_load_s
    prompt = 100

    def step_s(decoding: int, cached: float, prefill: float) -> float:
        return (fixed + each * (decoding - 1) if decoding else 0.0) + prefill / prompt * load.prefill_s

    work = poisson_arrivals(rate, count, prompt, load.output_tokens, seed=seed)
    replay = simulate(work, step_s, ENDLESS, emitted=law, seed=seed)
    latency = (replay.finished_s - replay.arrived_s)[count // 10 : -count // 10]
    return load.at_rate(rate, drafts, emitted).latency_s / float(latency.mean()) - 1


def closed_form_rows() -> list[dict[str, Any]]:
    load = AffineLoad(
        prefill_s=4e-3,
        target_fixed_s=0.02,
        target_load_s=6e-4,
        drafter_fixed_s=1e-3,
        drafter_load_s=1e-4,
        output_tokens=60,
    )
    rows = []
    for law in ((1.0,), (0.3, 0.3, 0.2, 0.2)):
        for used in (0.1, 0.3, 0.5, 0.7):
            off = [100 * closed_form(load, law, used, seed=seed) for seed in range(5)]
            what = f"closed form / replay, {len(law) - 1} drafts, {used:.0%} of capacity"
            rows.append({"what": what, "error": float(np.mean(off)), "spread": float(np.std(off) / len(off) ** 0.5)})
    return rows


def spec_sheet(cost: StepCost) -> StepCost:
    """Baseline: a step at the card's peaks, max() of bytes and arithmetic, with neither launches nor a host."""
    peak = Roofline(1.0, 1.0, 64.0, 0.0)
    return replace(
        cost, fits=None, linear=peak, attention=peak, graphs=False, launch_s=0.0, graph_launch_s=0.0, host_s=0.0
    )


def step_function(cost: StepCost) -> StepTime:
    """Seconds of a step of the replay, tabulated by requests, 16 tokens of context, and prefill."""
    model = cost.unscaled

    @cache
    def seconds(decoding: int, context: int, prefill: int) -> float:
        prompts = max(prefill - (decoding == 0), 0)
        conditions = StepConditions(batch=max(decoding, 1), context=context * 16 + 8, prefill_tokens=prompts)
        return float(model.seconds(conditions))

    return lambda decoding, cached, prefill: seconds(decoding, int(cached / max(decoding, 1)) // 16, int(prefill))


def served(gpu: str, folder: Path, limit: int = 128) -> dict[str, Any]:
    """Replay a logged run on nothing but the card's peaks and the model's configuration."""
    requests = pd.read_csv(folder / "serving_runs_requests.csv.gz").query("gpu == @gpu").sort_values("arrival_s")
    logged = pd.read_csv(folder / "serving_runs_timeseries.csv.gz").query("gpu == @gpu")
    device, shape = find_device(gpu), known_shape("Llama-3.1-8B")
    budget = memory_budget(device, shape, batch_tokens=2048, other_bytes=1e9)
    work = Workload(*(requests[c].to_numpy(float) for c in ("arrival_s", "input_toks", "output_toks")))
    limits = EngineLimits(kv_tokens=budget.kv_tokens, max_requests=limit, max_step_tokens=2048)
    cost, times = StepCost(shape, device), logged.t.to_numpy(float)
    replay, bare = (simulate(work, step_function(each), limits) for each in (cost, spec_sheet(cost)))
    measured, predicted = float(logged.running.mean()), float(replay.running_at(times).mean())
    gap = ((requests.last_token_ts - requests.first_token_ts) / (requests.output_toks - 1)).mean()
    return {
        "what": f"serving run on {gpu}",
        "running measured": measured,
        "running replayed": predicted,
        "error": 100 * (predicted / measured - 1),
        "spec sheet": 100 * (float(bare.running_at(times).mean()) / measured - 1),
        "gap error": 100 * (replay.gap_s() / float(gap) - 1),
        "end error": 100 * (replay.end_s / float(requests.last_token_ts.max()) - 1),
    }


def setting(row: Any) -> RunSetting:
    reach = tuple(float(row[f"pos{i}"]) / 100 for i in range(int(row.k)))
    return RunSetting(
        int(row.conc), int(row.k), str(row.draft_model), reach, row.in_tok / row.n_req, row.gen_tok / row.n_req
    )


def speculative_rows(folder: Path) -> list[dict[str, Any]]:
    path = folder / "vllm_speculative_runs.csv.gz"
    if not path.exists():
        return []
    runs = pd.read_csv(path)
    runs["draft_model"] = runs.draft_model.fillna("None")
    fit = fit_steps(runs)
    return [*batch_rows(runs, fit), *gap_rows(runs, fit), *choice_rows(runs, fit)]


def batch_rows(runs: pd.DataFrame, fit: StepFit) -> list[dict[str, Any]]:
    rows = []
    for _, row in runs[(runs.conc == 256) & (runs.draft_model == "Qwen3-4B")].iterrows():
        replay = replay_run(fit, setting(row))
        what = f"effective batch, 4B draft, k = {int(row.k)}, concurrency 256"
        found = {"what": what, "measured": row.eff_batch, "error": 100 * (replay.effective_batch() / row.eff_batch - 1)}
        rows.append({**found, "blind to memory": 100 * (256 / row.eff_batch - 1)})
    return rows


def gap_rows(runs: pd.DataFrame, fit: StepFit) -> list[dict[str, Any]]:
    """Mean gap of whole runs by replay, batch and preemptions predicted too; runs at each concurrency."""
    rows = []
    for concurrency, part in runs[runs.conc >= 64].groupby("conc"):
        off = [100 * (1e3 * replay_run(fit, setting(row)).gap_s() / row.mean_itl - 1) for _, row in part.iterrows()]
        what = f"mean gap by replay, concurrency {concurrency}, {len(part)} runs, mean absolute error"
        rows.append({"what": what, "error": float(np.mean(np.abs(off))), "worst": float(np.max(np.abs(off)))})
    return rows


def choice_rows(runs: pd.DataFrame, fit: StepFit) -> list[dict[str, Any]]:
    """Tokens a second lost against the best measured depth, off included; beside a planner blind to memory."""
    rows = []
    for name in sorted(set(runs.draft_model) - {"None"}):
        table = runs[runs.draft_model.isin([name, "None"])]
        for concurrency, part in table.groupby("conc"):
            measured = {int(row.k): float(row.out_tput) for _, row in part.iterrows()}
            options = {int(row.k): setting(row) for _, row in part.iterrows()}
            chosen, _ = choose_depth(fit, options)
            blind = part.assign(eff_batch=part.conc.astype(float))
            step = predict_steps(StepFit(fit.engine, 0.0, 0.0, {}), blind).median_s
            blind_rate = dict(zip(part.k.astype(int), part.conc * part.acc_len.fillna(1) / step, strict=True))
            best = max(measured.values())
            blind_choice = max(blind_rate, key=lambda k, r=blind_rate: r[k])
            what = f"regret of k, {name}, concurrency {concurrency}"
            row = {"what": what, "chosen": chosen, "error": 100 * (1 - measured[chosen] / best)}
            blind_row = {"blind to memory": 100 * (1 - measured[blind_choice] / best)}
            rows.append({**row, **blind_row, "always 3": 100 * (1 - measured[3] / best), "concurrency": concurrency})
    limits = {"<= 64": (1, 64), "128": (128, 128), "256": (256, 256)}
    return [*rows, *(summary(rows, label, low, high) for label, (low, high) in limits.items())]


def summary(rows: list[dict[str, Any]], label: str, low: int, high: int) -> dict[str, Any]:
    """Mean and worst regret over drafters and the concurrencies from `low` to `high`."""
    there = [row for row in rows if low <= row["concurrency"] <= high]
    means = {name: float(np.mean([row[name] for row in there])) for name in ("error", "blind to memory", "always 3")}
    return {"what": f"regret of k, mean over concurrency {label}", **means, "worst": max(row["error"] for row in there)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=DATA, help="folder of tables")
    folder = parser.parse_args().data
    rows = [*speculative_rows(folder), *(served(gpu, folder) for gpu in ("RTX4090", "RTXPRO6000")), *closed_form_rows()]
    print(f"{'error, %':66s}")
    for row in rows:
        extra = "  ".join(f"{k} {v:.2f}" for k, v in row.items() if k not in ("what", "error"))
        print(f"{row['what']:66s} {row['error']:7.2f}   {extra}")
    write_report("serving_model", {"rows": rows})


if __name__ == "__main__":
    main()
