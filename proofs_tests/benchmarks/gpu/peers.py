"""Peers and divergence: transformers' own generation in the same run, and how often bfloat16 output differs."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch

from proofs_tests.benchmarks.gpu.models import Pair, prompts
from proofs_tests.benchmarks.gpu.settings import Settings, wait
from proofs_tests.benchmarks.gpu.sweep import POLICIES
from runtime.engine.engine import Engine
from runtime.engine.sampling import SamplingParams
from runtime.models.house import house_folder
from runtime.models.transformers import load_transformers


def peers(pair: Pair, settings: Settings) -> list[dict[str, Any]]:
    """Tokens a second at batch 1 and the shortest context, prefill included, each method on the same prompts."""
    context, count = settings.contexts[0], settings.new_tokens
    texts = prompts(settings, context, settings.prompts)
    assistant = load_transformers(house_folder("draft"), getattr(torch, settings.dtype), settings.device)
    config = assistant.generation_config
    config.num_assistant_tokens, config.num_assistant_tokens_schedule = 4, "constant"
    config.assistant_confidence_threshold = 0.0
    options: dict[str, dict[str, Any]] = {
        "transformers plain, dynamic cache": {},
        "transformers assisted, 4 tokens": {"assistant_model": assistant},
        "transformers prompt lookup, 10 tokens": {"prompt_lookup_num_tokens": 10},
        "transformers plain, static cache, not compiled": {"cache_implementation": "static", "disable_compile": True},
    }
    rows = [_transformers(name, pair, texts, count, settings.device, given) for name, given in options.items()]
    engine = Engine(pair.target, pair.draft, max_batch=1, max_context=context + count + 8, backend="graphs")
    for name in ("off", "chain 4", "tree 13", "retrieval", "tree 5 + retrieval"):
        engine.use(POLICIES[name])
        engine.generate(texts[:1], SamplingParams(max_new_tokens=count, ignore_eos=True))
        start = time.perf_counter()
        engine.generate(texts, SamplingParams(max_new_tokens=count, ignore_eos=True))
        rows.append(_row(f"ours, {name}", len(texts) * count, time.perf_counter() - start))
    return rows


def _transformers(
    name: str, pair: Pair, texts: list[Any], count: int, device: str, given: dict[str, Any]
) -> dict[str, Any]:
    times: list[float] = []
    try:
        for text in (texts[0], *texts):
            ids = torch.from_numpy(text)[None].to(device)
            wait(device)
            start = time.perf_counter()
            pair.plain.generate(  # pyright: ignore
                ids,
                attention_mask=torch.ones_like(ids),
                do_sample=False,
                min_new_tokens=count,
                max_new_tokens=count,
                pad_token_id=0,
                **given,
            )
            wait(device)
            times.append(time.perf_counter() - start)
    except Exception as error:
        return {"method": name, "tokens_per_s": None, "why": f"{type(error).__name__}: {str(error)[:200]}"}
    return _row(name, len(texts) * count, sum(times[1:]))


def _row(name: str, tokens: int, seconds: float) -> dict[str, Any]:
    return {"method": name, "tokens_per_s": tokens / seconds}


def divergence(pair: Pair, settings: Settings) -> dict[str, Any]:
    """Share of greedy outputs that a tree changes, beside the share that another batch shape changes."""
    texts = prompts(settings, settings.contexts[0], max(settings.prompts, 2))
    params = SamplingParams(max_new_tokens=settings.new_tokens, ignore_eos=True)

    def outputs(policy: str, batch: int) -> list[list[int]]:
        room = settings.contexts[0] + settings.new_tokens + 8
        engine = Engine(
            pair.target, pair.draft, policy=POLICIES[policy], max_batch=batch, max_context=room, backend="graphs"
        )
        return [done.tokens for done in engine.generate(texts, params)]

    alone, together, tree = outputs("off", 1), outputs("off", len(texts)), outputs("tree 13", 1)
    return {
        "dtype": settings.dtype,
        "requests": len(texts),
        "tokens": settings.new_tokens,
        "tree_against_plain": float(np.mean([a != b for a, b in zip(alone, tree, strict=True)])),
        "plain_against_plain_in_a_batch": float(np.mean([a != b for a, b in zip(alone, together, strict=True)])),
    }
