"""An engine's closed-loop run predicted before it is made: batch, gaps and throughput, preemption included.

The replay takes its step from a fit of other runs. Prefer it to the closed form when KV may overflow; `choose_depth`
compares depths, off included, by predicted throughput.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from reader_theory.cost.logged_steps import StepFit, lookahead_slots
from reader_theory.cost.speculative import Load
from reader_theory.errors import require
from reader_theory.serving.result import SimulationResult
from reader_theory.serving.simulator import EngineLimits, simulate
from reader_theory.serving.traces import closed_loop

__all__ = ["RunSetting", "choose_depth", "emitted_law", "replay_run", "step_function"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class RunSetting:
    """A run to predict.

    Parameters
    ----------
    concurrency : int
        Requests that the clients keep in flight.
    drafts, drafter : int, str
        Drafts a step, and the drafter's name; 0 and "None" for plain decoding.
    reach : (k,) tuple of float
        Probability that each position is accepted with all before it.
    prompt_tokens, output_tokens : array_like
        A scalar each, or a sample to draw from.
    """

    concurrency: int
    drafts: int
    drafter: str
    reach: tuple[float, ...]
    prompt_tokens: ArrayLike
    output_tokens: ArrayLike


def emitted_law(reach: Sequence[float]) -> Array:
    """Law of tokens a step from the probabilities to reach each draft position, which must not grow."""
    ladder = np.concatenate([[1.0], np.asarray(reach, dtype=np.float64), [0.0]])
    require(
        bool((np.diff(ladder) <= 1e-9).all() and ladder.min() >= 0),
        "`reach` must be probabilities that do not grow with the position",
        got=list(reach),
        fix="Pass cumulative acceptance: the share of steps that accept at least so many drafts.",
    )
    return -np.diff(ladder)


def step_function(fit: StepFit, setting: RunSetting) -> Array:
    """Seconds of a step at each number of running requests, 0 to the concurrency, mid-life contexts assumed."""
    count = np.arange(setting.concurrency + 1, dtype=np.float64)
    return fit.engine.step_s(_load(setting, np.maximum(count, 1.0)))


def replay_run(fit: StepFit, setting: RunSetting, *, requests: int | None = None, seed: int = 0) -> SimulationResult:
    """Replay a closed-loop run on a fitted engine.

    Parameters
    ----------
    requests : int, optional
        Requests in all; ten for each client when None.
    """
    engine = fit.engine
    steps, constants = step_function(fit, setting), engine.coefficients
    one = _load(setting, np.array([1.0]))
    rate = constants.flops_share * engine.device.flops_per_s()
    per_token = 2 * engine.target.parameters() / rate + float(engine.drafter_prefill_s(one, np.ones(1))[0])
    per_token -= float(engine.drafter_prefill_s(one, np.zeros(1))[0])
    extra = constants.prefill_step_s + float(engine.drafter_prefill_s(one, np.zeros(1))[0])
    knee = _knee_tokens(fit)

    def step_s(decoding: int, cached: float, prefill: float) -> float:
        base = float(steps[decoding])
        if prefill == 0:
            return base
        free = max(knee - decoding * (setting.drafts + 1), 0.0)
        return base + extra + per_token * max(prefill - free, 0.0)

    limits = EngineLimits(
        kv_tokens=fit.kv_tokens.get(setting.drafter, 10**7),
        max_requests=max(setting.concurrency, 1),
        lookahead=lookahead_slots(setting.drafts),
        prefix_cache=False,  # a cache that preempts is full: the pages given up are taken at once
    )
    count = requests or max(10 * setting.concurrency, 20)
    workload = closed_loop(setting.concurrency, count, setting.prompt_tokens, setting.output_tokens, seed=seed)
    return simulate(workload, step_s, limits, emitted=emitted_law(setting.reach), seed=seed)


def choose_depth(
    fit: StepFit, settings: Mapping[int, RunSetting], *, requests: int | None = None, replays: int = 3, seed: int = 0
) -> tuple[int, dict[int, float]]:
    """The depth with the largest predicted tokens a second, and the prediction of each.

    Parameters
    ----------
    settings : mapping
        By depth, off under 0: the run that each would be.
    requests : int, optional
        Requests of a replay; when None 40 for each client, within 50 and 800 but at least 10 for each.
    replays : int
        Replays of each, on the same seeds, whose mean decides: depths a few per cent apart are within one's noise.
    """
    require(replays >= 1, "`replays` must be at least 1", got=replays, fix="3 tell depths a per cent apart.")
    rates: dict[int, float] = {}
    for depth, each in settings.items():
        clients = each.concurrency
        count = requests or max(min(40 * clients, 800), 10 * clients, 50)
        runs = [replay_run(fit, each, requests=count, seed=seed + i).throughput for i in range(replays)]
        rates[depth] = float(np.mean(runs))
    return max(rates, key=lambda k: (rates[k], -k)), rates


def _load(setting: RunSetting, running: Array) -> Load:
    prompt, output = (
        float(np.asarray(x, dtype=np.float64).mean()) for x in (setting.prompt_tokens, setting.output_tokens)
    )
    size = len(running)
    zero = np.zeros(size)
    context, prompts = np.full(size, prompt + output / 2), np.full(size, prompt)
    names = np.full(size, setting.drafter)
    return Load(running, np.full(size, float(setting.drafts)), names, context, prompts, zero, np.ones(size))


def _knee_tokens(fit: StepFit) -> float:
    """Tokens whose arithmetic takes as long as reading the weights: below it a prefill rides along for free."""
    engine = fit.engine
    bandwidth = engine.coefficients.bandwidth_share * engine.device.bandwidth_bytes_per_s.value
    rate = engine.coefficients.flops_share * engine.device.flops_per_s()
    return engine.target.weight_bits / 8 / bandwidth * rate / 2
