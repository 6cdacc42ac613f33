"""A run of a denoiser on prompts as a document, and what a batch of forwards costs on this machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np

from reader_theory.acceptance.intervals import bootstrap_prompts
from reader_theory.acceptance.windows import RoundCost
from reader_theory.documents.base import Stamp
from reader_theory.documents.diffusion import DiffusedText, DiffusionRun, WindowCandidate
from reader_theory.estimate import Estimate
from runtime.diffusion.denoiser import Denoiser, Filled
from runtime.diffusion.model import MaskedModel
from runtime.diffusion.params import DiffusionParams
from runtime.measure.prompts import Progress, PromptTokens

__all__ = ["measured_cost", "run_diffusion"]


def run_diffusion(
    denoiser: Denoiser,
    prompts: Sequence[PromptTokens],
    params: DiffusionParams,
    *,
    target: str,
    dtype: str,
    candidates: Sequence[WindowCandidate] = (),
    cost_unit: str = "rounds",
    tokenizer: Any = None,
    progress: Progress = lambda label, done, total: None,
) -> DiffusionRun:
    """A text after each prompt, with what it took; the first candidate is the prediction for this run."""
    texts: list[DiffusedText] = []
    for prompt, done in zip(prompts, denoiser.texts([each.tokens for each in prompts], params), strict=True):
        texts.append(_text(prompt, done, tokenizer))
        progress("texts", len(texts), len(prompts))
    return DiffusionRun.model_validate(
        {
            "stamp": Stamp.now(seed=params.seed),
            "target": target,
            "dtype": dtype,
            **{name: getattr(params, name) for name in ("new_tokens", "steps", "window", "drafts", "sampling")},
            **{name: getattr(params, name) for name in ("lossless", "temperature", "top_k", "top_p")},
            "cost_unit": cost_unit,
            "candidates": tuple(candidates),
            **{name: _mean(texts, name) for name in ("rounds", "forwards", "drawn")},
            "texts": tuple(texts),
        }
    )


def _text(prompt: PromptTokens, done: Filled, tokenizer: Any) -> DiffusedText:
    tally = done.tally
    return DiffusedText(
        prompt=prompt.id,
        workload=prompt.workload,
        source=prompt.source,
        tokens=tuple(done.text_tokens),
        text=None if tokenizer is None else tokenizer.decode(done.text_tokens),
        drawn=tuple(tally.drawn.tolist()),
        rounds=tuple(tally.rounds.tolist()),
        forwards=tuple(tally.forwards.tolist()),
        examined=tuple(map(tuple, tally.examined.tolist())),
        overlap=tuple(map(tuple, tally.overlap.tolist())),
    )


def _mean(texts: Sequence[DiffusedText], name: str) -> Estimate:
    sums = np.array([[sum(getattr(text, name)), 1] for text in texts], dtype=np.float64)
    if len(sums) < 2:
        return Estimate.exact(float(sums[0, 0]), "measured")
    return bootstrap_prompts(sums, lambda each: each[..., 0] / each[..., 1]).estimate(origin="measured")


def measured_cost(
    model: MaskedModel, length: int, most: int, *, repeats: int = 5, clock: Callable[[], float] = perf_counter
) -> RoundCost:
    """Seconds of a round by its forwards: medians at powers of two, straight lines between.

    Parameters
    ----------
    length : int
        Tokens of a row.
    most : int
        Forwards of a round at most.
    """
    sizes = sorted({1, most, *(1 << power for power in range(most.bit_length()))})
    params, seconds = DiffusionParams(), list[float]()
    for size in (size for size in sizes if size <= most):
        row = np.full(length, model.mask_token)
        row[: model.first_place] = 0
        rows, places = np.tile(row, (size, 1)), np.full((size, 1), length - 1)
        took: list[float] = []
        for _ in range(repeats + 1):
            start = clock()
            model.laws(rows, places, params)
            took.append(clock() - start)
        seconds.append(median(took[1:]))
    known = [size for size in sizes if size <= most]
    return lambda forwards: float(np.interp(forwards, known, seconds))
