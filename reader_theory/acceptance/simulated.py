"""Simulated traces: prompts that differ, positions that cling together, copied stretches; for tests and intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reader_theory.acceptance.base import as_table, normalised
from reader_theory.documents.arrays import Columns
from reader_theory.documents.base import Stamp
from reader_theory.documents.policy import DRAFT, RETRIEVAL
from reader_theory.documents.trace import Trace, TraceDrafter, TracePrompt
from reader_theory.errors import require

__all__ = ["simulated_trace"]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
_OFFERED = 16
_COPY_ODDS = 1.0
_WANDER = 0.5


def simulated_trace(
    ranks: Sequence[float] = (0.55, 0.14, 0.07, 0.04),
    *,
    prompts: int = 48,
    tokens: int = 256,
    spread: float = 0.0,
    stickiness: float = 0.0,
    copying: float = 0.0,
    copy_decay: float = 0.9,
    workload: str = "simulated",
    seed: int = 0,
) -> Trace:
    """A trace whose law is known.

    Parameters
    ----------
    ranks : (R,) float, sums to at most 1
        Chance of each rank for a prompt and position in the middle.
    prompts, tokens : int
        Prompts, and output tokens of each.
    spread : float
        Standard deviation between prompts of the log-odds of every rank: 0 for independent positions.
    stickiness : float, in [0, 1)
        Correlation of neighbouring positions within a prompt; 0 also switches their wandering off.
    copying : float, in [0, 1]
        Chance that a copied stretch begins at a position; retrieval is right inside, save at the first token.
    copy_decay : float, in [0, 1)
        Chance that a copied stretch goes on.
    workload : str
    seed : int
    """
    from scipy.special import expit, logit

    law: FloatArray = as_table("ranks", [ranks])[0]
    inside = 0 <= stickiness < 1 and 0 <= copying <= 1 and 0 <= copy_decay < 1 and spread >= 0
    require(
        inside and prompts >= 1 and tokens >= 1,
        "a simulated trace must have prompts and tokens >= 1, `spread` >= 0, and chances in [0, 1)",
        got=f"{prompts}, {tokens}, {spread}, {stickiness}, {copying}, {copy_decay}",
        fix="Leave the arguments out for independent positions without copies.",
    )
    generator = np.random.default_rng(seed)
    shape = (prompts, tokens)
    ages, left = _copies(generator, shape, copying, copy_decay)
    shift = (
        spread * generator.standard_normal((prompts, 1))
        + _wander(generator, shape, stickiness)
        + _COPY_ODDS * (left > 0)
    )
    table = normalised(_as_floats(expit(np.add(logit(law), _as_floats(shift)[..., None]))))
    columns = _neural(generator, table) | _retrieved(generator, ages, left, copying) | _frame(generator, shape)
    recorded = [
        TracePrompt(id=f"{workload}-{i}", workload=workload, prompt_tokens=64, output_tokens=tokens)
        for i in range(prompts)
    ]
    return Trace.in_memory(
        {name: column.reshape(prompts * tokens, *column.shape[2:]) for name, column in columns.items()},
        stamp=Stamp.now(seed=seed),
        target="simulated target",
        temperature=0.0,
        drafters={
            DRAFT: TraceDrafter(kind="model", model="simulated draft", candidates=len(law)),
            RETRIEVAL: TraceDrafter(kind="lookups"),
        },
        prompts=tuple(recorded),
    )


def _as_floats(values: Any) -> FloatArray:
    return np.asarray(values, dtype=np.float64)


def _wander(generator: np.random.Generator, shape: tuple[int, int], stickiness: float) -> FloatArray:
    """Stationary autoregressive shifts within each prompt."""
    from scipy.signal import lfilter

    noise = generator.standard_normal(shape) * np.sqrt(1 - stickiness**2)
    noise[:, 0] /= np.sqrt(1 - stickiness**2)
    return _WANDER * (stickiness > 0) * _as_floats(lfilter([1.0], [1.0, -stickiness], noise, axis=1))


def _copies(
    generator: np.random.Generator, shape: tuple[int, int], copying: float, decay: float
) -> tuple[IntArray, IntArray]:
    """Copied tokens just before each position, and copied tokens from it on; both within its stretch."""
    at = np.broadcast_to(np.arange(shape[1]), shape)
    ends = np.where(generator.random(shape) < copying, at + generator.geometric(1 - decay, shape), 0)
    ends = np.minimum(np.maximum.accumulate(ends, axis=1), shape[1])
    inside = at < ends
    outside_before = np.maximum.accumulate(np.where(inside, -1, at), axis=1)
    outside_after = shape[1] - np.maximum.accumulate(np.where(inside, 0, shape[1] - at)[:, ::-1], axis=1)[:, ::-1]
    return np.where(inside, at - outside_before - 1, 0), np.where(inside, outside_after - at, 0)


def _neural(generator: np.random.Generator, table: FloatArray) -> Columns:
    drawn = generator.random(table.shape[:2])[..., None]
    beyond = (drawn >= np.cumsum(table, axis=-1)).sum(axis=-1)
    rank = np.where(beyond < table.shape[-1], beyond, -1).astype(np.int32)
    return {
        "draft_rank": rank,
        "draft_probability": table.astype(np.float32),
        "draft_overlap": table[..., 0].astype(np.float32),
    }


def _retrieved(generator: np.random.Generator, ages: IntArray, left: IntArray, copying: float) -> Columns:
    stray = np.where(
        (ages == 0) & (generator.random(ages.shape) < 0.25 * (copying > 0)), generator.integers(1, 3, ages.shape), 0
    )
    length = np.where(ages > 0, ages, stray)
    columns = {
        "retrieval_match": length,
        "retrieval_count": np.where(length > 0, generator.integers(1, 4, ages.shape), 0),
        "retrieval_offered": np.where(length > 0, _OFFERED, 0),
        "retrieval_run": np.where(ages > 0, np.minimum(left, _OFFERED), 0),
    }
    return {name: column.astype(np.int32) for name, column in columns.items()}


def _frame(generator: np.random.Generator, shape: tuple[int, int]) -> Columns:
    prompt, position = np.indices(shape, dtype=np.int32)
    return {
        "prompt": prompt,
        "position": position,
        "context_tokens": position + np.int32(64),
        "token": generator.integers(0, 1000, shape, dtype=np.int32),
        "target_probability": np.ones(shape, dtype=np.float32),
    }
