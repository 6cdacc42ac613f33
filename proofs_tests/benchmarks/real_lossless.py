"""Greedy text of real models, float32, token for token beside transformers' `generate`: 60 prompts of 128 tokens.

For each folder `generate` answers each prompt by itself; then this engine answers them at batch 1 and 4, with drafts
out of look-ups, and with a tree out of the model's own first layers beside them. End tokens are ignored, so that every
text has its full length. The result is written after each cell; a text that differs is kept with its place and the gap
between the two logits there.

    python -m proofs_tests.benchmarks.real_lossless out/models/smollm2 path/to/qwen path/to/gemma
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from proofs_tests.benchmarks._report import write_report
from reader_theory.documents import Chain, Grown, Policy, Static, Union
from reader_theory.trees import TokenTree
from runtime.engine.engine import Engine
from runtime.engine.sampling import SamplingParams
from runtime.measure.prompts import PromptTokens, public_prompts
from runtime.models.inputs import teacher_forced
from runtime.models.load import load_model, load_tokenizer, wrap
from runtime.models.transformers import load_transformers

LAYERS = 4
"""Of the target's own, that make its draft."""
CHAIN = Chain(min_match=2, factor=2.0, max_tokens=16)
TREE = Static.of(TokenTree.from_rank_paths([(0,), (1,), (0, 0), (0, 1), (0, 0, 0)]))
CELLS: tuple[tuple[str, Policy, int], ...] = (
    ("look-ups", CHAIN, 1),
    ("look-ups", CHAIN, 4),
    ("tree of the first layers and look-ups", Union(static=TREE, chain=CHAIN, skip_at_match=4), 4),
    ("tree grown from look-ups", Grown(nodes=16, drafter=None), 1),
)


def chosen(tokenizer: Any, count: int, longest: int, window: int | None) -> list[PromptTokens]:
    """Prompts of all workloads in turn; where layers see a window, up to a third of them are longer than it."""
    known = [p for p in public_prompts("test", tokenizer) if len(p.tokens) <= longest]
    past = [p for p in known if window is not None and len(p.tokens) > window][: count // 3]
    by: dict[str, list[PromptTokens]] = {}
    for prompt in known:
        if all(prompt is not each for each in past):
            by.setdefault(prompt.workload, []).append(prompt)
    turn = [rows[i] for i in range(max(map(len, by.values()))) for rows in by.values() if i < len(rows)]
    return [*past, *turn][:count]


def references(folder: Path, prompts: list[PromptTokens], tokens: int) -> list[list[int]]:
    """What `generate` answers to each prompt by itself."""
    from transformers import GenerationConfig

    model = load_transformers(folder, torch.float32).eval()
    model.generation_config = GenerationConfig()
    found: list[list[int]] = []
    for number, prompt in enumerate(prompts):
        ids = torch.from_numpy(prompt.tokens)[None]
        with torch.inference_mode():
            out = model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, do_sample=False, pad_token_id=0
            )
        found.append(out[0, ids.shape[1] :].tolist())
        print(f"generate {number + 1} of {len(prompts)}", flush=True)
    assert all(len(text) == tokens for text in found), "every text must have its full length"
    return found


@contextmanager
def first_layers(folder: Path) -> Iterator[Any]:
    """A draft: the target's first layers, its norm and its head."""
    model = load_transformers(folder, torch.float32).eval()
    model.model.layers = model.model.layers[:LAYERS]
    model.config = copy.deepcopy(model.config)
    model.config.num_hidden_layers = LAYERS
    if getattr(model.config, "layer_types", None):
        model.config.layer_types = model.config.layer_types[:LAYERS]
    model.model.config = model.config
    yield wrap(model, name=f"first {LAYERS} layers")


def cell(
    target: Any, draft: Any, policy: Policy, batch: int, prompts: list[PromptTokens], expected: list[list[int]]
) -> dict[str, Any]:
    """One policy and batch: how many texts are equal, and where the others part."""
    tokens = len(expected[0])
    longest = max(len(p.tokens) for p in prompts) + tokens + 2
    engine = Engine(target, draft, policy=policy, max_batch=batch, max_context=longest)
    done = engine.generate([p.tokens for p in prompts], SamplingParams(max_new_tokens=tokens, ignore_eos=True))
    differ: list[dict[str, Any]] = []
    for prompt, found, text in zip(prompts, done, expected, strict=True):
        if list(found.tokens) != text:
            at = next(i for i, (a, b) in enumerate(zip(found.tokens, text, strict=True)) if a != b)
            laws = teacher_forced(target, prompt.tokens, np.array(text[: at + 1]))[at]
            gap = float((laws[text[at]] - laws[found.tokens[at]]).abs())
            differ.append({"id": prompt.id, "position": at, "logit_gap": gap})
    counters = engine.counters
    return {"batch": batch, "equal": len(prompts) - len(differ), "of": len(prompts), "differ": differ,
            "tokens_per_step": sum(map(len, expected)) / sum(each.steps for each in done),
            "emitted": counters.emitted}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--prompts", type=int, default=60)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--longest", type=int, default=900, help="tokens of a prompt at most")
    args = parser.parse_args()
    results: dict[str, Any] = {}
    for folder in args.folders:
        tokenizer = load_tokenizer(folder)
        from transformers import AutoConfig

        window = getattr(AutoConfig.from_pretrained(folder).get_text_config(), "sliding_window", None)
        prompts = chosen(tokenizer, args.prompts, args.longest, window)
        past = 0 if window is None else sum(len(p.tokens) + args.tokens > window for p in prompts)
        told: dict[str, Any] = {"prompts": len(prompts), "tokens": args.tokens, "window": window,
                                "texts_past_the_window": past, "cells": []}  # fmt: skip
        results[folder.name] = told
        expected = references(folder, prompts, args.tokens)
        target = load_model(folder, "float32")
        told["forward"] = type(target).__name__
        for name, policy, batch in CELLS:
            asks = isinstance(policy, Union)
            if asks:
                with first_layers(folder) as draft:
                    found = cell(target, draft, policy, batch, prompts, expected)
            else:
                found = cell(target, None, policy, batch, prompts, expected)
            told["cells"].append({"drafts": name, **found})
            print(folder.name, name, batch, f"{found['equal']} of {found['of']} equal", found["differ"], flush=True)
            write_report("real_lossless", {"results": results})


if __name__ == "__main__":
    main()
