"""Greedy text of real models, float32, token for token beside transformers' `generate`: 60 prompts of 128 tokens.

For each folder `generate` answers the prompts, some at a time; then this engine answers them at batch 1 with drafts out
of look-ups, and at batch 4 with a tree out of the model's own first layers beside them. A text that differs is compared
with what `generate` answers to its prompt by itself. End tokens are ignored, so that every text has its full length.
The result is written after each cell, and what it holds already is not run again, nor the prompts of a cell that was
cut short; a text that differs is kept with its place and the gap between the two logits there.

    python -m proofs_tests.benchmarks.real_lossless out/models/smollm2 path/to/qwen path/to/gemma

With ``--seconds`` a cell that is not through by then is kept with the prompts that it has, and completed by the next
run.
"""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from math import inf
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import torch

from proofs_tests.benchmarks._report import RESULTS, write_report
from reader_theory.documents import Chain, Policy, Static, Union
from reader_theory.trees import TokenTree
from runtime.engine.engine import Engine
from runtime.engine.sampling import SamplingParams
from runtime.measure.journal import Journal
from runtime.measure.prompts import PromptTokens, public_prompts
from runtime.models.inputs import teacher_forced
from runtime.models.load import load_model, load_tokenizer, wrap
from runtime.models.transformers import load_transformers

NAME = "real_lossless"
LAYERS = 4
"""Of the target's own, that make its draft."""
CHAIN = Chain(min_match=2, factor=2.0, max_tokens=16)
TREE = Static.of(TokenTree.from_rank_paths([(0,), (1,), (0, 0), (0, 1), (0, 0, 0)]))
CELLS: tuple[tuple[str, Policy, int], ...] = (
    ("look-ups", CHAIN, 1),
    ("tree of the first layers and look-ups", Union(static=TREE, chain=CHAIN, skip_at_match=4), 4),
)
TOGETHER = 8
"""Prompts that `generate` answers at once."""


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


def generated(model: Any, prompts: list[PromptTokens], tokens: int) -> list[list[int]]:
    """What `generate` answers to prompts, padded on their left."""
    longest = max(len(p.tokens) for p in prompts)
    ids = np.stack([np.pad(p.tokens, (longest - len(p.tokens), 0)) for p in prompts])
    seen = np.stack([np.arange(longest) >= longest - len(p.tokens) for p in prompts]).astype(np.int64)
    with torch.inference_mode():
        out = model.generate(
            torch.from_numpy(ids), attention_mask=torch.from_numpy(seen), max_new_tokens=tokens, do_sample=False,
            pad_token_id=0,
        )  # fmt: skip
    return out[:, longest:].tolist()


def references(model: Any, prompts: list[PromptTokens], tokens: int, kept: Path) -> list[list[int]]:
    """What `generate` answers to all of them, as kept or made now."""
    if kept.exists():
        held = json.loads(kept.read_text())
        if held["ids"] == [p.id for p in prompts] and len(held["texts"][0]) == tokens:
            return held["texts"]
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i].tokens))
    found: list[list[int]] = [[] for _ in prompts]
    for start in range(0, len(order), TOGETHER):
        part = order[start : start + TOGETHER]
        for i, text in zip(part, generated(model, [prompts[i] for i in part], tokens), strict=True):
            found[i] = text
        print(f"generate: {start + len(part)} of {len(order)} prompts", flush=True)
    assert all(len(text) == tokens for text in found), "every text must have its full length"
    kept.parent.mkdir(parents=True, exist_ok=True)
    scratch = kept.with_suffix(".tmp")
    scratch.write_text(json.dumps({"ids": [p.id for p in prompts], "texts": found}))
    scratch.replace(kept)
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
    served: tuple[Any, Any],
    policy: Policy,
    batch: int,
    prompts: list[PromptTokens],
    expected: list[list[int]],
    hf: Any,
    kept: Path,
    until: float,
) -> dict[str, Any]:
    """One policy and batch: how many texts are equal, and where the others part."""
    (target, draft), tokens = served, len(expected[0])
    done = answers(target, draft, policy, batch, prompts, tokens, kept, until)
    prompts = [each for each in prompts if each.id in done]
    differ: list[dict[str, Any]] = []
    alone = 0
    for number, prompt in enumerate(prompts):
        found, _ = done[prompt.id]
        if found != expected[number]:
            expected[number], alone = generated(hf, [prompt], tokens)[0], alone + 1
        text = expected[number]
        if found != text:
            at = next(i for i, (a, b) in enumerate(zip(found, text, strict=True)) if a != b)
            laws = teacher_forced(target, prompt.tokens, np.array(text[: at + 1]))[at]
            gap = float((laws[text[at]] - laws[found[at]]).abs())
            differ.append({"id": prompt.id, "position": at, "logit_gap": gap})
    return {"batch": batch, "equal": len(prompts) - len(differ), "of": len(prompts), "differ": differ,
            "compared_with_generate_alone": alone,
            "tokens_per_step": tokens * len(done) / sum(steps for _, steps in done.values())}  # fmt: skip


def answers(
    target: Any,
    draft: Any,
    policy: Policy,
    batch: int,
    prompts: list[PromptTokens],
    tokens: int,
    kept: Path,
    until: float,
) -> dict[str, tuple[list[int], int]]:
    """Text and steps of the first prompts that are through by then; what an earlier run has kept is not run again."""
    longest = max(len(p.tokens) for p in prompts) + tokens + 2
    engine = Engine(target, draft, policy=policy, max_batch=batch, max_context=longest)
    params = SamplingParams(max_new_tokens=tokens, ignore_eos=True)
    asked = {"prompts": [p.id for p in prompts], "tokens": tokens, "policy": policy.name, "batch": batch}
    with Journal(kept, asked) as journal:
        for start in range(len(journal.kept), len(prompts), TOGETHER):
            if journal.kept and monotonic() > until:
                break
            part = prompts[start : start + TOGETHER]
            for prompt, found in zip(part, engine.generate([p.tokens for p in part], params), strict=True):
                journal.add(prompt.id, [[int(token) for token in found.tokens], found.steps])
            print(f"{policy.name}: {len(journal.kept)} of {len(prompts)} prompts", flush=True)
        return {name: (text, steps) for name, (text, steps) in journal.kept.items()}


def checked(folder: Path, args: argparse.Namespace, results: dict[str, Any]) -> None:
    """All cells of one folder that `results` does not hold, written as they come."""
    from transformers import AutoConfig, GenerationConfig

    tokenizer = load_tokenizer(folder)
    window = getattr(AutoConfig.from_pretrained(folder).get_text_config(), "sliding_window", None)
    prompts = chosen(tokenizer, args.prompts, args.longest, window)
    past = 0 if window is None else sum(len(p.tokens) + args.tokens > window for p in prompts)
    facts = {"prompts": len(prompts), "tokens": args.tokens, "window": window, "texts_past_the_window": past}
    told = results.setdefault(folder.name, {**facts, "cells": []})
    if any(told[name] != value for name, value in facts.items()):
        told = results[folder.name] = {**facts, "cells": []}
    hf = load_transformers(folder, torch.float32).eval()
    hf.generation_config = GenerationConfig()
    expected = references(hf, prompts, args.tokens, args.scratch / f"{folder.name}.json")
    target = load_model(folder, "float32")
    told["forward"] = type(target).__name__
    for number, (name, policy, batch) in enumerate(CELLS):
        kept = args.scratch / f"{folder.name}.{number}.partial.jsonl"
        held = [one for one in told["cells"] if (one["drafts"], one["batch"]) == (name, batch)]
        if any(one["of"] == len(prompts) for one in held):
            continue
        with first_layers(folder) if isinstance(policy, Union) else nullcontext() as draft:
            found = cell((target, draft), policy, batch, prompts, expected, hf, kept, args.until)
        told["cells"] = [one for one in told["cells"] if one not in held]
        told["cells"].append({"drafts": name, **found})
        print(folder.name, name, batch, f"{found['equal']} of {found['of']} equal", found["differ"], flush=True)
        write_report(NAME, {"results": results})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--prompts", type=int, default=60)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--longest", type=int, default=900, help="tokens of a prompt at most")
    parser.add_argument("--scratch", type=Path, default=Path("out/real_lossless"), help="where references are kept")
    parser.add_argument("--seconds", type=float, default=inf, help="in which the last group of prompts may begin")
    args = parser.parse_args()
    args.until = monotonic() + args.seconds
    kept = RESULTS / f"{NAME}.json"
    results: dict[str, Any] = json.loads(kept.read_text())["results"] if kept.exists() else {}
    for folder in args.folders:
        checked(folder, args, results)


if __name__ == "__main__":
    main()
