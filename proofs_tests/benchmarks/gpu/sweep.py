"""Sweep: policies by batch and context on one pair of models; real tokens, real acceptance, real cost."""

from __future__ import annotations

import gc
import traceback
from functools import partial
from typing import Any

import numpy as np
import torch

from proofs_tests.benchmarks.gpu.models import Pair, prompts
from proofs_tests.benchmarks.gpu.settings import Clock, Settings, median_s
from reader_theory.documents import Chain, Off, Policy, Union, policy_of
from reader_theory.trees import TokenTree
from runtime.engine.counters import StepTiming
from runtime.engine.engine import Engine
from runtime.engine.graphs.backend import Graphs
from runtime.engine.graphs.buckets import Bucket
from runtime.engine.graphs.capture import Captured
from runtime.engine.graphs.forward import StaticForward
from runtime.engine.sampling import SamplingParams

WARM_STEPS, SPARE_STEPS = 2, 4
PROFILED = 3
PARTS = ("draft_s", "retrieval_s", "target_s", "verify_s", "commit_s")
TEMPERATURE = 0.8
"""Greedy text of the house models falls into loops, which flatter retrieval."""
RETRIEVAL = Chain(min_match=2, offset=1, factor=1, max_tokens=8)
WIDE = TokenTree.from_rank_paths(
    [(0,), (1,), (2,), (3,), (0, 0), (0, 1), (1, 0), (2, 0), (0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0), (0, 0, 0, 0)]
)
NARROW = TokenTree.from_rank_paths([(0,), (1,), (0, 0), (0, 1), (0, 0, 0)])
POLICIES: dict[str, Policy] = {
    "off": Off(),
    "chain 2": policy_of(TokenTree.chain(2)),
    "chain 4": policy_of(TokenTree.chain(4)),
    "tree 5": policy_of(NARROW),
    "tree 13": policy_of(WIDE),
    "retrieval": RETRIEVAL,
    "tree 5 + retrieval": policy_of(NARROW, RETRIEVAL),
}


def sweep(
    pair: Pair,
    settings: Settings,
    clock: Clock,
    rows: list[dict[str, Any]],
    reserve_s: float,
    names: tuple[str, ...] = tuple(POLICIES),
) -> None:
    """A row a batch, context, policy and round; requests go on from policy to policy, so that prompts are read once.

    Rows join `rows` as they come. What fails is noted, and the rest goes on; with `reserve_s` seconds left it ends.
    """
    for context in settings.contexts:
        for batch in settings.batches:
            cell = f"{pair.name}, batch {batch}, context {context}"
            free()
            clock.part(cell, lambda b=batch, c=context: _cell(pair, settings, clock, rows, b, c, names), reserve_s)


def free() -> None:
    """Give the card's memory back: graphs and caches refer to each other."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _cell(
    pair: Pair,
    settings: Settings,
    clock: Clock,
    rows: list[dict[str, Any]],
    batch: int,
    context: int,
    names: tuple[str, ...],
) -> None:
    steps = WARM_STEPS + settings.steps + SPARE_STEPS
    most = 1 + steps * (1 + settings.rounds * sum(1 + _deepest(POLICIES[name]) for name in names))
    room = context + most + 8
    engine = _engine(pair, batch, room, _contexts(context, room))
    if engine.max_batch < batch:
        clock.left_out.append(f"{pair.name}, batch {batch}, context {context}: no memory")
        return
    for prompt in prompts(settings, context, batch):
        engine.add(prompt, SamplingParams(temperature=TEMPERATURE, max_new_tokens=most, ignore_eos=True))
    for turn in range(settings.rounds):
        for name in names:
            cell: dict[str, Any] = {"pair": pair.name, "batch": batch, "context": context}
            try:
                timed = _steps(engine, POLICIES[name], settings.steps)
            except Exception:
                clock.failed[f"{name}, {cell}, round {turn}"] = traceback.format_exc()
            else:
                rows.append(cell | {"policy": name, "round": turn} | _summary(engine, name, timed))
    rows.append(_forward_alone(pair, settings, engine, batch, context))


def _deepest(policy: Policy) -> int:
    """Most draft tokens that a step may accept."""
    chain = policy.chain if isinstance(policy, Union) else policy
    return max(policy.tree.depth, chain.max_tokens if isinstance(chain, Chain) else 0)


def _engine(pair: Pair, batch: int, room: int, contexts: tuple[int, ...]) -> Engine:
    backend = partial(Graphs, contexts=contexts)
    return Engine(pair.target, pair.draft, max_batch=batch, max_context=room, backend=backend)


def _contexts(context: int, room: int) -> tuple[int, ...]:
    """Buckets a little above the context, so that padding costs little: multiples of 256 up to what is needed."""
    first = -(-(context + 64) // 256) * 256
    return tuple(range(first, room + 512, 256))


def _steps(engine: Engine, policy: Policy, count: int) -> list[StepTiming]:
    """At most `count` steps that recorded nothing, after some that are not counted."""
    engine.use(policy)
    for _ in range(WARM_STEPS):
        engine.step()
    timed: list[StepTiming] = []
    for _ in range(count + SPARE_STEPS):
        before = _graphs(engine).recorded
        engine.step()
        if _graphs(engine).recorded == before:
            timed.append(engine.timings[-1])
        if len(timed) == count:
            break
    return timed


def _graphs(engine: Engine) -> Graphs:
    assert isinstance(engine.backend, Graphs)
    return engine.backend


def _summary(engine: Engine, policy: str, steps: list[StepTiming]) -> dict[str, Any]:
    step_s = np.array([step.step_s for step in steps])
    rows = np.array([step.rows for step in steps])
    emitted = sum(step.emitted for step in steps)
    longest = int(engine.cache.lengths.max())
    widths = [_graphs(engine).buckets.pick(int(step.rows), int(step.width), longest) for step in steps]
    return {
        "step_s": float(np.median(step_s)),
        "spread_s": [float(step_s.min()), float(step_s.max())],
        "tokens_per_step": emitted / float(rows.sum()),
        "tokens_per_s": emitted / len(steps) / float(np.median(step_s)),
        "width": float(np.median([bucket.nodes for bucket in widths])),
        "slots": float(np.median([bucket.context for bucket in widths])),
        "levels": POLICIES[policy].tree.depth,
        "fallbacks": len(engine.backend.fallbacks),
        "parts_s": {name: float(np.median([getattr(step, name) for step in steps])) for name in PARTS},
    }


def _forward_alone(pair: Pair, settings: Settings, engine: Engine, batch: int, context: int) -> dict[str, Any]:
    """Seconds of the target's forward of one token a row, its bytes, and plain steps at the same place."""
    plain_s = float(np.median([step.step_s for step in _steps(engine, Off(), settings.steps)]))
    longest = int(engine.cache.lengths.max())
    bucket = _graphs(engine).buckets.pick(batch, 1, longest)
    seconds = median_s(_captured(pair, engine, bucket), settings.device)
    return {
        "pair": pair.name,
        "batch": batch,
        "context": context,
        "policy": "forward alone",
        "step_s": seconds,
        "plain_step_s": plain_s,
        "floor_bytes": pair.weight_bytes + pair.kv_bytes(batch * longest),
    }


def kernels(pair: Pair, settings: Settings) -> dict[str, list[dict[str, Any]]]:
    """Kernels of a step, by batch, context and policy: name, how many a step, seconds a step."""
    from torch.profiler import ProfilerActivity, profile

    few, many, short, long = settings.batches[0], settings.batches[-1], settings.contexts[0], settings.contexts[-1]
    found: dict[str, list[dict[str, Any]]] = {}
    for batch, context in ((few, short), (many, short), (few, long)):
        free()
        engine = _engine(pair, batch, context + 400, (context + 256,))
        for prompt in prompts(settings, context, batch):
            engine.add(prompt, SamplingParams(max_new_tokens=200, ignore_eos=True))
        for name in ("off", "tree 13"):
            _steps(engine, POLICIES[name], 3)
            with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as seen:
                for _ in range(PROFILED):
                    engine.step()
                torch.cuda.synchronize()
            rows = [(row.key, row.count, row.self_device_time_total) for row in seen.key_averages()]
            found[f"batch {batch}, context {context}, {name}"] = [
                {"kernel": key[:110], "a_step": count / PROFILED, "seconds": us / 1e6 / PROFILED}
                for key, count, us in sorted(rows, key=lambda row: -row[2])[:30]
                if us > 0
            ]
    return found


def _captured(pair: Pair, engine: Engine, bucket: Bucket) -> Any:
    forward = StaticForward(pair.target, engine.cache, *bucket)
    device = pair.target.device
    tokens = torch.zeros((bucket.rows, bucket.nodes), dtype=torch.int64, device=device)
    lengths = torch.from_numpy(np.resize(engine.cache.lengths, bucket.rows)).to(device)
    one, zero = torch.ones_like(lengths), torch.zeros_like(lengths)
    return Captured(lambda: forward(tokens, tokens - 1, one, lengths, zero), device, _graphs(engine).graphs)
