"""One water level for a batch beside the best uniform budget: on simulated rows, and in the engine.

A quarter of the rows copies. Simulated: nodes are chosen by estimates of path probability that err, and valued by the
truth; both spend the same nodes in all, those of the uniform budget with the most tokens a second where a step is flat
and then pays by the node. In the engine: trees of retrieval on an inflated target, batch 8, two rows that copy and six
of prose, each of which is given the next prompt of its kind when it ends: all policies meet rows at every age, though
they take rows that copy through their texts at different speeds. Budgets in turn, the median of several rounds. Scores
are mapped to acceptance by other prompts, as a plan does.

    python -m proofs_tests.benchmarks.water_level [--rounds 3] [--steps 80] [--new-tokens 64] [--no-engine]
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from optimizer.solvers.allocation import allocate
from proofs_tests.benchmarks._report import write_report
from reader_theory.documents import Grown
from runtime.drafters.water import level_sizes

Floats = NDArray[np.float64]
CANDIDATES = 64
BUDGETS = (2, 4, 6, 8, 12, 16, 24)
MOST = 32
"""Nodes of a row under a level, at most."""
NAMES = "uniform", "level"
LEVEL = 0.25
"""Standard deviation of the logarithm of an estimate over the truth."""


def laws_of(batch: int, seed: int) -> tuple[Floats, Floats]:
    """(B, K) true path probabilities, falling along each row, and their estimates, which fall as well."""
    g = np.random.default_rng(seed)
    copies = np.arange(batch) % 4 == 0
    alpha = np.where(copies, g.uniform(0.94, 0.99, batch), g.uniform(0.2, 0.5, batch))
    chain = np.cumprod(np.broadcast_to(alpha[:, None], (batch, CANDIDATES)), axis=1)
    beside = np.where(copies[:, None], 0.0, 0.3 * chain)
    truth: Floats = np.asarray(-np.sort(-np.hstack([chain, beside]), axis=1)[:, :CANDIDATES], dtype=np.float64)
    erring = truth * np.exp(LEVEL * g.standard_normal((batch, 1)) + 0.1 * g.standard_normal(truth.shape))
    return truth, np.minimum.accumulate(np.minimum(erring, 1.0), axis=1)


def tokens_at(truth: Floats, estimate: Floats) -> dict[str, float]:
    """Tokens a step and row of the best uniform budget and of one level, at the same nodes in all."""
    batch = len(truth)
    seconds = 0.02 + 2e-4 * np.maximum(np.arange(CANDIDATES * batch + 1) - 64, 0)
    gained = np.cumsum(truth.sum(axis=0))
    uniform = max(range(1, CANDIDATES + 1), key=lambda k: (batch + gained[k - 1]) / seconds[k * batch])
    sizes = level_sizes(estimate, np.full(batch, CANDIDATES), uniform * batch)
    kept = np.arange(CANDIDATES) < sizes[:, None]
    best = allocate(truth, np.ones(uniform * batch + 1), batch)
    assert best is not None, "a step without limits has an answer"
    return {
        "budget": float(uniform),
        "uniform": 1 + float(gained[uniform - 1]) / batch,
        "level": 1 + float(truth[kept].sum()) / batch,
        "best": best.tokens / batch,
        "widest": float(sizes.max()),
    }


def simulated() -> list[dict[str, float]]:
    """Means over 50 draws at each batch."""
    rows: list[dict[str, float]] = []
    for batch in (8, 16, 32, 64):
        draws = [tokens_at(*laws_of(batch, seed)) for seed in range(50)]
        row = {name: float(np.mean([each[name] for each in draws])) for name in draws[0]}
        row |= {"batch": batch, "ratio": float(np.mean([each["level"] / each["uniform"] for each in draws]))}
        rows.append(row)
        told = ", ".join(f"{name} {row[name]:.2f}" for name in ("uniform", "level", "best", "ratio"))
        print(f"batch {batch:>2}, {row['budget']:.1f} nodes a row: {told}", flush=True)
    return rows


def served(engine: Any, policy: Grown, rows: Sequence[Sequence[Any]], steps: int, params: Any) -> tuple[float, float]:
    """Tokens a second, and a row and step, of rows that are given their next prompt when they end."""
    engine.use(policy)
    waiting = [cycle(prompts) for prompts in rows]
    running = [engine.add(next(prompts), params) for prompts in waiting]
    engine.timings.clear()
    for _ in range(steps):
        engine.step()
        running = [
            engine.add(next(prompts), params) if one.done else one
            for one, prompts in zip(running, waiting, strict=True)
        ]
    for one in running:
        engine.cancel(one)
    full = [step for step in engine.timings if step.rows == len(rows)]
    emitted = sum(step.emitted for step in full)
    return emitted / sum(step.step_s for step in full), emitted / sum(step.rows for step in full)


def in_engine(rounds: int, steps: int, new_tokens: int, budgets: Sequence[int]) -> dict[str, Any]:
    """Tokens a second of uniform budgets, and of one level at as many nodes a row in the mean."""
    from proofs_tests.benchmarks.grown import answers
    from runtime.drafters.offers import fit_offers, record_offers
    from runtime.engine.engine import Engine
    from runtime.engine.sampling import SamplingParams
    from runtime.measure.prompts import house_prompts
    from runtime.models.house import house_folder
    from runtime.models.house.inflate import inflate
    from runtime.models.load import load_model, load_tokenizer

    tokenizer = load_tokenizer(house_folder("target"))
    copy, prose = (house_prompts([each], "test", tokenizer, 12) for each in ("copy", "prose"))
    fit = [*house_prompts(["copy"], "fit", tokenizer, 8), *house_prompts(["prose"], "fit", tokenizer, 24)]
    kinds = [copy if row < 2 else prose for row in range(8)]
    prompts = [[kind[(row + i) % len(kind)].tokens for i in range(len(kind))] for row, kind in enumerate(kinds)]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "inflated"
        inflate(house_folder("target"), folder)
        target = load_model(str(folder), dtype="bfloat16")
    slots = max(len(tokens) for row in prompts for tokens in row) + new_tokens + 80
    engine = Engine(target, max_batch=len(prompts), max_context=slots)
    params = SamplingParams(max_new_tokens=new_tokens, ignore_eos=True)
    maps = fit_offers(record_offers(None, answers(load_model(house_folder("target")), fit, 0.0, new_tokens))).maps
    policies = {("uniform", k): Grown(drafter=None, nodes=k, maps=maps) for k in budgets}
    policies |= {("level", k): Grown(drafter=None, nodes=MOST, share=k, maps=maps) for k in budgets}
    found: dict[tuple[str, int], list[float]] = {key: [] for key in policies}
    tokens: dict[tuple[str, int], float] = {}
    for _ in range(rounds + 1):
        for key, policy in policies.items():
            rate, tokens[key] = served(engine, policy, prompts, steps, params)
            found[key].append(rate)
    rates = {key: np.array(each[1:]) for key, each in found.items()}  # the first round warms up
    rows = []
    for k in budgets:
        ratios = rates["level", k] / rates["uniform", k]
        row = {name: {"tokens_per_s": median(rates[name, k]), "tokens_per_step": tokens[name, k]} for name in NAMES}
        rows.append({"nodes": k, **row, "ratio": median(ratios), "ratios": ratios.tolist()})
        told = [f"{n} {of['tokens_per_s']:.0f} tokens/s, {of['tokens_per_step']:.2f} a step" for n, of in row.items()]
        print(f"engine, {k} nodes a row: {'; '.join(told)}", flush=True)
    uniform, level = (max(budgets, key=lambda k: median(rates[name, k])) for name in NAMES)
    best = rates["level", level] / rates["uniform", uniform]
    print(f"best level over best uniform budget: {median(best):.2f} ({best.min():.2f} to {best.max():.2f})")
    return {"rows": rows, "best": {"uniform": uniform, "level": level, "ratios": best.tolist()}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=80, help="of a policy in a round")
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--budgets", type=int, nargs="*", default=list(BUDGETS))
    parser.add_argument("--no-engine", action="store_true")
    options = parser.parse_args()
    payload: dict[str, Any] = {"simulated": simulated()}
    if not options.no_engine:
        payload["engine"] = in_engine(options.rounds, options.steps, options.new_tokens, options.budgets)
    print(write_report("water_level", payload).name)


if __name__ == "__main__":
    main()
