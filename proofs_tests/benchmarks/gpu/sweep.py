"""Sweep: policies by batch and context on one pair of models; real tokens, real acceptance, real cost."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from proofs_tests.benchmarks.gpu.models import Pair, prompts
from proofs_tests.benchmarks.gpu.settings import Clock, Settings, median_s
from reader_theory.documents import Chain, Off, Policy, policy_of
from reader_theory.trees import TokenTree
from runtime.engine.counters import StepTiming
from runtime.engine.engine import Engine
from runtime.engine.graphs.backend import Graphs
from runtime.engine.graphs.buckets import Bucket
from runtime.engine.graphs.forward import StaticForward
from runtime.engine.sampling import SamplingParams

WARM_STEPS = 2
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
    pair: Pair, settings: Settings, clock: Clock, names: tuple[str, ...] = tuple(POLICIES)
) -> list[dict[str, Any]]:
    """A row a batch, context, policy and round; requests go on from policy to policy, so that prompts are read once."""
    rows: list[dict[str, Any]] = []
    for context in settings.contexts:
        for batch in settings.batches:
            rows += _cell(pair, settings, clock, batch, context, names)
    return rows


def _cell(
    pair: Pair, settings: Settings, clock: Clock, batch: int, context: int, names: tuple[str, ...]
) -> list[dict[str, Any]]:
    if clock.left_s < 0.25 * settings.limit_s:
        clock.left_out.append(f"{pair.name}, batch {batch}, context {context}")
        return []
    steps = WARM_STEPS + settings.steps
    most = len(names) * settings.rounds * steps * 14
    room = context + most + 8
    backend = partial(Graphs, contexts=_contexts(context, room))
    engine = Engine(pair.target, pair.draft, max_batch=batch, max_context=room, backend=backend)
    for prompt in prompts(settings, context, batch):
        engine.add(prompt, SamplingParams(temperature=TEMPERATURE, max_new_tokens=most, ignore_eos=True))
    rows: list[dict[str, Any]] = []
    for turn in range(settings.rounds):
        for name in names:
            engine.use(POLICIES[name])
            for _ in range(WARM_STEPS):
                engine.step()
            engine.timings.clear()
            for _ in range(settings.steps):
                engine.step()
            rows.append({"pair": pair.name, "batch": batch, "context": context, "policy": name, "round": turn})
            rows[-1] |= _summary(engine, name, list(engine.timings)) | {"fallbacks": len(engine.backend.fallbacks)}
    rows.append(_forward_alone(pair, settings, engine, batch, context))
    return rows


def _contexts(context: int, room: int) -> tuple[int, ...]:
    """Buckets a little above the context, so that padding costs little: multiples of 256 up to what is needed."""
    first = -(-(context + 64) // 256) * 256
    return tuple(range(first, room + 512, 256))


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
        "tokens_per_s": emitted / float(step_s.sum()),
        "width": float(np.median([bucket.nodes for bucket in widths])),
        "slots": float(np.median([bucket.context for bucket in widths])),
        "levels": POLICIES[policy].tree.depth,
    }


def _forward_alone(pair: Pair, settings: Settings, engine: Engine, batch: int, context: int) -> dict[str, Any]:
    """Seconds of the target's forward of one token a row, its bytes, and plain steps at the same place."""
    engine.use(Off())
    for _ in range(WARM_STEPS):
        engine.step()
    engine.timings.clear()
    for _ in range(settings.steps):
        engine.step()
    plain_s = float(np.median([step.step_s for step in engine.timings]))
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


def _captured(pair: Pair, engine: Engine, bucket: Bucket) -> Any:
    import torch

    from runtime.engine.graphs.capture import Captured

    forward = StaticForward(pair.target, engine.cache, *bucket)
    device = pair.target.device
    tokens = torch.zeros((bucket.rows, bucket.nodes), dtype=torch.int64, device=device)
    lengths = torch.from_numpy(np.resize(engine.cache.lengths, bucket.rows)).to(device)
    one, zero = torch.ones_like(lengths), torch.zeros_like(lengths)
    return Captured(lambda: forward(tokens, tokens - 1, one, lengths, zero), device, _graphs(engine).graphs)
