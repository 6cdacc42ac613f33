"""A judge with random weights over two tiny models, and judged decoding written down plainly, forward by forward."""

from __future__ import annotations

from functools import cache
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from proofs_tests.tiny import tiny_model
from reader_theory.documents import Stamp
from reader_theory.documents.judge import Judge
from reader_theory.estimate import Estimate
from runtime.models.base import LanguageModel
from runtime.models.load import wrap
from runtime.models.states import probe_of

Features = Literal["difference", "drafted"]
Floats = NDArray[np.float64]


@cache
def models(seed: int = 0) -> tuple[LanguageModel, LanguageModel]:
    """Target and draft; the draft is a target with some noise, so that they agree now and then."""
    return wrap(tiny_model("llama", seed=seed)), wrap(tiny_draft(seed))


@cache
def tiny_draft(seed: int = 0) -> Any:
    draft = tiny_model("llama", hidden=64, seed=seed + 100)
    held = dict(tiny_model("llama", seed=seed).named_parameters())
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, own in draft.named_parameters():
            own.copy_(held[name] + 0.06 * torch.randn_like(own))
    return draft


def toy_judge(target: LanguageModel, draft: LanguageModel, features: Features = "difference", seed: int = 0) -> Judge:
    """Weights that spread P(important) over (0, 1)."""
    probes = probe_of(target), probe_of(draft)
    width = sum(len(each.state) for each in probes)
    ones, weights = (1.0,) * width, np.random.default_rng(seed).normal(0, 2 / width**0.5, width)
    return Judge(
        stamp=Stamp.now(), target="target", draft="draft", target_probe=probes[0], draft_probe=probes[1],
        features=features, mean=(0.0,) * width, scale=ones, weights=tuple(weights.tolist()),
        intercept=0.0, regularisation=1.0, auc=Estimate.exact(0.5, "assumed"), important=0.5, mismatches=2,
        thresholds=(0.5,) * 26, mined="", held_out=("1",), fitted_on=("0",),
    )  # fmt: skip


def plainly_judged(
    prompt: NDArray[np.int64], judge: Judge, threshold: float, drafts: int, count: int, seed: int = 0
) -> tuple[list[int], int]:
    """Output and rounds of judged decoding on transformers' own models, a whole forward for every question asked."""
    target, draft = tiny_model("llama", seed=seed), tiny_draft(seed)
    text = [*prompt.tolist(), _own(target, prompt.tolist())]
    rounds, end = 0, len(prompt) + count
    while len(text) < end:
        chain, own = list[int](), list[int]()
        for _ in range(min(drafts, end - len(text) - 1)):
            chain.append(_own(draft, [*text, *chain]))
        for place in range(len(chain) + 1):
            own.append(_own(target, [*text, *chain[:place]]))
        kept = 0
        for place, token in enumerate(chain):
            before = [*text, *chain[:place]]
            if token != own[place] and not _importance(judge, before, token, own[place], draft, target) < threshold:
                break
            kept += 1
        text += chain[:kept] if chain and kept == len(chain) else [*chain[:kept], own[kept]]
        rounds += 1
    return text[len(prompt) :], rounds


def _importance(judge: Judge, before: list[int], token: int, own: int, *pair: Any) -> float:
    states = [_state(model, [*before, token]) for model in pair]
    if judge.features == "difference":
        states = [state - _state(model, [*before, own]) for state, model in zip(states, pair, strict=True)]
    return float(judge.importance(np.concatenate(states)[None])[0])


@torch.inference_mode()
def _state(model: Any, tokens: list[int]) -> Floats:
    return model(torch.tensor([tokens]), output_hidden_states=True).hidden_states[-1][0, -1].double().numpy()


@torch.inference_mode()
def _own(model: Any, tokens: list[int]) -> int:
    return int(model(torch.tensor([tokens])).logits[0, -1].argmax())
