"""What exact denoising steps cost and buy on the house diffusion model, predicted beside measured.

``python -m proofs_tests.benchmarks.diffusion`` writes ``results/diffusion.json``. Acceptance is counted on prompts of
the ``fit`` half and predicts rounds and forwards on those of the ``test`` half, by denoising steps and windows; drafts
of each round stand beside drafts of each step and of the draft head. At equal steps, the likelihood of texts under the
house target: drawn by the chain, and each place independently. Rounds are counted, no time is taken.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from optimizer.window import weighed
from proofs_tests.benchmarks._report import RESULTS, write_report
from reader_theory.acceptance.intervals import bootstrap_prompts
from reader_theory.acceptance.windows import CountedWindows
from reader_theory.documents.diffusion import DiffusionRun
from runtime.diffusion import Denoiser, DiffusionParams, load_masked
from runtime.diffusion.params import DRAFTS
from runtime.diffusion.run import run_diffusion
from runtime.measure.prompts import PromptTokens, house_prompts
from runtime.models.base import LanguageModel
from runtime.models.house import WORKLOADS, house_folder
from runtime.models.inputs import teacher_forced
from runtime.models.load import load_model, load_tokenizer

LONGEST = 128
"""Tokens of a prompt that are kept: the last."""


def prompts_of(split: str, count: int) -> list[PromptTokens]:
    """Prompts of a half, `count` a workload, cut to their last tokens."""
    found = house_prompts(WORKLOADS, split, load_tokenizer(house_folder("diffusion")), count)
    return [replace(prompt, tokens=prompt.tokens[-LONGEST:]) for prompt in found]


def log_likelihoods(target: LanguageModel, run: DiffusionRun, prompts: Sequence[PromptTokens]) -> list[float]:
    """Mean log probability of a token of each text, in nats, under a causal model."""
    means: list[float] = []
    for prompt, text in zip(prompts, run.texts, strict=True):
        tokens = np.array(text.tokens)
        laws = torch.log_softmax(teacher_forced(target, prompt.tokens, tokens).double(), dim=-1)
        means.append(float(laws[torch.arange(len(tokens)), torch.from_numpy(tokens)].mean()))
    return means


def likelihood_row(target: LanguageModel, model: Any, prompts: Sequence[PromptTokens], params: Any) -> dict[str, Any]:
    """Chain and independent places at equal steps: likelihoods, and their difference by prompt with its interval."""
    both = {
        sampling: log_likelihoods(target, _run(model, prompts, replace(params, sampling=sampling)), prompts)
        for sampling in ("chain", "parallel_lossy")
    }
    pairs = np.array([[a - b, 1.0] for a, b in zip(*both.values(), strict=True)])
    gain = bootstrap_prompts(pairs, lambda sums: sums[..., 0] / sums[..., 1]).estimate(origin="measured")
    return {"steps": params.steps, **{name: float(np.mean(each)) for name, each in both.items()},
            "difference": gain.model_dump()}  # fmt: skip


def share_of_rounds(run: DiffusionRun) -> dict[str, Any]:
    """Rounds over those of one token at a time, with its interval over prompts."""
    sums = np.array([[sum(text.rounds), sum(text.drawn)] for text in run.texts], dtype=np.float64)
    found = bootstrap_prompts(sums, lambda each: each[..., 0] / each[..., 1])
    return found.estimate(origin="measured").model_dump()


def window_rows(
    model: Any, halves: tuple[list[PromptTokens], list[PromptTokens]], params: DiffusionParams, windows: Sequence[int]
) -> list[dict[str, Any]]:
    """Rounds and forwards of each window, predicted from the first half and measured on the second."""
    counted = CountedWindows.of_run(_run(model, halves[0], replace(params, window=max(windows))))
    rows: list[dict[str, Any]] = []
    for window in windows:
        told = weighed(counted, params.new_tokens, window, lambda forwards: 1.0)
        run = _run(model, halves[1], replace(params, window=window, seed=params.seed + 1))
        rows.append({
            "steps": params.steps, "drafts": params.drafts, "window": window,
            "one_at_a_time": run.drawn.value, "rounds": run.rounds.model_dump(), "forwards": run.forwards.model_dump(),
            "share_of_rounds": share_of_rounds(run),
            "predicted_rounds": told.rounds.model_dump(), "predicted_forwards": told.forwards.model_dump(),
            "error": told.rounds.value / run.rounds.value - 1, "acceptance": counted.table().round(4).tolist(),
        })  # fmt: skip
        share = f"{rows[-1]['share_of_rounds']['value']:.3f} of the rounds, predicted {rows[-1]['error']:+.1%}"
        print(f"{params.steps} steps, drafts of each {params.drafts}, window {window}: {share}", flush=True)
    return rows


def _run(model: Any, prompts: Sequence[PromptTokens], params: DiffusionParams) -> DiffusionRun:
    return run_diffusion(Denoiser(model), prompts, params, target="house-diffusion", dtype="float32")


def measure(
    folder: Path, *, prompts: int, new_tokens: int, steps: Sequence[int], windows: Sequence[int]
) -> dict[str, Any]:
    """All rows."""
    model, target = load_masked(folder), load_model(house_folder("target"))
    halves = prompts_of("fit", prompts), prompts_of("test", prompts)
    asked = [DiffusionParams(new_tokens=new_tokens, steps=each) for each in steps]
    return {
        "prompts": len(halves[1]),
        "new_tokens": new_tokens,
        "windows": [
            row
            for params in asked
            for drafts in DRAFTS
            if drafts != "head" or model.head_sees
            for row in window_rows(model, halves, replace(params, drafts=drafts), windows)
        ],
        "likelihood": [likelihood_row(target, model, halves[1], replace(params, window=1)) for params in asked],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=house_folder("diffusion"))
    parser.add_argument("--prompts", type=int, default=12, help="of each workload and half")
    parser.add_argument("--new-tokens", type=int, default=32)
    parser.add_argument("--steps", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--windows", type=int, nargs="+", default=[2, 4, 8])
    parser.add_argument("--output", type=Path, default=RESULTS)
    a = parser.parse_args()
    found = measure(a.model, prompts=a.prompts, new_tokens=a.new_tokens, steps=a.steps, windows=a.windows)
    print(write_report("diffusion", found, a.output))


if __name__ == "__main__":
    main()
