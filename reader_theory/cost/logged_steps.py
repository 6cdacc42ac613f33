"""Fit an engine's speculative step to a table of logged runs, and predict rows of such a table with intervals.

Prefer it with ten runs and more; with fewer, `calibrate` scales a predicted step to what was measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from reader_theory.cost.columns import Table, column, has_columns, numbers, positive
from reader_theory.cost.device import Device, find_device
from reader_theory.cost.known import known_shape
from reader_theory.cost.model import ModelShape
from reader_theory.cost.speculative import Coefficients, EngineStep, Load
from reader_theory.errors import require

__all__ = ["RunPrediction", "StepFit", "fit_steps", "lookahead_slots", "median_batch", "predict_steps", "read_load"]

Array = NDArray[np.float64]
LOGGED_KV_TOKENS = {"None": 69232, "Qwen3-1.7B": 32528, "Qwen3-4B": 18560, "Qwen3-32B-speculator.eagle3": 47264}
"""KV tokens that vLLM logged beside each drafter for Qwen3-32B on one 80 GB card."""
STARTS = {
    "bandwidth_share": 1.0,
    "flops_share": 0.7,
    "p": 4.0,
    "host_s": 1e-3,
    "attention_ratio": 1.5,
    "drafter_launch_s": 2e-5,
    "drafter_flops_share": 0.7,
    "speculation_s": 1e-3,
    "verify_s": 3e-10,
    "eager_s": 1e-3,
}
PREFILL_STARTS = {"burst": 2.0, "prefill_step_s": 5e-3, "prefill_layer_s": 1e-4, "preemptions": 0.5}
PRIOR = 0.02
"""Pull towards the start, in units of one per cent of a run for each e-fold: identifies what the runs cannot."""


@dataclass(frozen=True)
class StepFit:
    """An engine's step with what the runs say about its error.

    Parameters
    ----------
    engine : EngineStep
        The fitted step.
    spread_low, spread_high : float
        Half-width of the 95 % interval relative to the step, where a step verifies at most `edge_tokens` and above.
    kv_tokens : mapping
        Capacity of the KV cache beside each drafter.
    """

    engine: EngineStep
    spread_low: float
    spread_high: float
    kv_tokens: Mapping[str, int]
    edge_tokens: float = 256.0


@dataclass(frozen=True)
class RunPrediction:
    """Predicted seconds of each run: the median gap with its 95 % interval, and the mean gap with prefills."""

    median_s: Array
    low_s: Array
    high_s: Array
    mean_s: Array


def lookahead_slots(drafts: int) -> int:
    """KV slots that vLLM's scheduler holds for a request beyond its tree: k drafts, and the k + 1 tokens in flight."""
    return 2 * drafts + 1 if drafts else 1


def read_load(
    table: Table,
    kv_tokens: Mapping[str, int] = LOGGED_KV_TOKENS,
    *,
    page_tokens: int = 16,
    at: Literal["median", "mean"] = "median",
) -> Load:
    """Read runs.

    Parameters
    ----------
    table : columns conc, k, draft_model, in_tok, gen_tok, n_req, acc_len, eff_batch
        One run a row: concurrency, drafts a step, drafter ("None" or blank without), tokens read and generated in
        all, requests, tokens a step (blank without speculation), requests in their decoding phase. With mean_ttft
        and mean_tpot as well (ms), the batch is that of the median gap, not the mean over time.
    kv_tokens : mapping
        Capacity by drafter; where the cache cannot hold `eff_batch`, the rest is waiting, preempted.
    at : {"median", "mean"}
        Which gap between tokens the rows are those of.
    """
    drafts, busy = numbers(table, "k"), positive(table, "eff_batch")
    requests = positive(table, "n_req")
    prompt, output = positive(table, "in_tok") / requests, positive(table, "gen_tok") / requests
    names = np.array([_drafter_name(x) for x in column(table, "draft_model").tolist()])
    accepted = np.nan_to_num(column(table, "acc_len").astype(np.float64), nan=1.0)
    context = prompt + output / 2
    slots = np.array([lookahead_slots(int(k)) for k in drafts])
    held = context + slots + page_tokens / 2
    limit = np.array([kv_tokens.get(name, np.inf) for name in names.tolist()]) / held
    if at == "median" and has_columns(table, "mean_ttft", "mean_tpot"):
        decoding = positive(table, "mean_tpot") * np.maximum(output - 1, 1)
        busy = median_batch(positive(table, "conc") * decoding / (positive(table, "mean_ttft") + decoding), busy)
    running = np.minimum(busy, limit)
    return Load(running, drafts, names, context, prompt, running * accepted / output, busy / running)


def median_batch(most: Array, mean: Array) -> Array:
    """Rows at the median gap between tokens of a closed loop, from the mean over time.

    The loop keeps `most` rows until its requests run out, and then empties evenly; every row of a step has a gap, so
    that the long tail of a short run has few of them.

    Parameters
    ----------
    most : (n,) float64
        Rows while there are requests left.
    mean : (n,) float64
        Rows, the mean over time.

    Examples
    --------
    >>> median_batch(np.array([64.0, 64.0]), np.array([60.0, 32.0])).round(1).tolist()
    [64.0, 45.3]
    """
    most = np.maximum(most, mean)
    tail = np.clip(2 * (1 - mean / most), 1e-9, 1.0)
    short = np.maximum((1 - tail / 2) / 2 - (1 - tail), 0.0)
    inside = most * np.sqrt(np.maximum(1 - 2 * short / tail, 0.0))
    return np.clip(inside, mean, most)


def fit_steps(
    table: Table,
    *,
    target: ModelShape | None = None,
    device: Device | None = None,
    kv_tokens: Mapping[str, int] = LOGGED_KV_TOKENS,
    tensor_parallel: int = 1,
) -> StepFit:
    """Fit the step to runs by robust least squares on log time, and its error by leaving each k out.

    Parameters
    ----------
    table : columns of `read_load`, and median_itl, mean_itl in milliseconds
        At least ten runs, better at three depths and more.
    target, device : optional
        Qwen3-32B and an H100 PCIe when None: the card whose bandwidth the public runs show.
    tensor_parallel : int
        Cards that shared the target.
    """
    load, times = read_load(table, kv_tokens), positive(table, "median_itl") * 1e-3
    require(len(times) >= 10, "`table` must have at least ten runs", got=len(times), fix="Use `calibrate` with fewer.")
    base = EngineStep(
        target or known_shape("Qwen3-32B"), device or find_device("H100-PCIe"), _first(load),
        tensor_parallel=tensor_parallel,
    )  # fmt: skip
    engine = _fitted(base, STARTS, load, times)
    engine = _fitted(
        engine, PREFILL_STARTS, read_load(table, kv_tokens, at="mean"), positive(table, "mean_itl") * 1e-3, mean=True
    )
    errors, rows = _left_out(base, load, times), load.running * (load.drafts + 1)
    small = rows <= 256.0
    return StepFit(engine, _half_width(errors[small], errors), _half_width(errors[~small], errors), dict(kv_tokens))


def predict_steps(fit: StepFit, table: Table) -> RunPrediction:
    """Predict runs (columns of `read_load`)."""
    load = read_load(table, fit.kv_tokens)
    step = fit.engine.step_s(load)
    wide = np.where(load.running * (load.drafts + 1) <= fit.edge_tokens, fit.spread_low, fit.spread_high)
    return RunPrediction(
        step, step * (1 - wide), step * (1 + wide), fit.engine.mean_gap_s(read_load(table, fit.kv_tokens, at="mean"))
    )


def _drafter_name(raw: Any) -> str:
    text = str(raw).rsplit("/", 1)[-1]
    return "None" if text in ("", "nan", "None", "<NA>") else text


def _first(load: Load) -> Coefficients:
    names = sorted(set(load.drafter.tolist()) - {"None"})
    return Coefficients(**STARTS, drafter_ratio={name: 1.0 for name in names})


def _fitted(
    base: EngineStep, starts: Mapping[str, float], load: Load, times: Array, *, mean: bool = False
) -> EngineStep:
    """The coefficients of `starts` fitted to median or mean gaps; with the median, each drafter's ratio too."""
    from scipy import optimize

    names = [] if mean else sorted(base.coefficients.drafter_ratio)

    def made(log: Array) -> EngineStep:
        scale = np.exp(log).tolist()
        values = {name: start * factor for (name, start), factor in zip(starts.items(), scale, strict=False)}
        ratios = {**base.coefficients.drafter_ratio, **dict(zip(names, scale[len(starts) :], strict=True))}
        return replace(base, coefficients=replace(base.coefficients, **values, drafter_ratio=ratios))

    def residual(log: Array) -> Array:
        shown = made(log).mean_gap_s(load) if mean else made(log).step_s(load)
        return np.concatenate([np.log(shown / times) / 0.01, PRIOR * log])

    solve, start = cast(Any, optimize).least_squares, np.zeros(len(starts) + len(names))
    return made(np.asarray(solve(residual, start, loss="soft_l1", bounds=(-5, 5), max_nfev=150).x))


def _left_out(base: EngineStep, load: Load, times: Array) -> Array:
    """Relative error of each run when the runs of its k, or failing that a third of all runs, are left out."""
    depths = np.unique(load.drafts)
    group = load.drafts if len(depths) >= 3 else np.arange(len(times)) % 3
    errors = np.zeros(len(times))
    for value in np.unique(group):
        out = group == value
        fitted = _fitted(base, STARTS, load.rows(~out), times[~out])
        errors[out] = fitted.step_s(load.rows(out)) / times[out] - 1
    return errors


def _half_width(errors: Array, everything: Array) -> float:
    return float(np.quantile(np.abs(errors if errors.size >= 5 else everything), 0.95))
