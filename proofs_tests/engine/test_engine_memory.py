"""Requests wait until their keys and values fit; one that runs out of memory ends alone; none is overtaken."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from proofs_tests.tiny import POLICIES, generated, random_prompts, tiny_model
from reader_theory.errors import InvalidInputError
from reader_theory.memory import Layout, reserved_tokens
from runtime.cache.rows import RowCache
from runtime.engine.engine import Engine
from runtime.engine.sampling import SamplingParams
from runtime.models.base import LanguageModel, Output
from runtime.models.load import wrap


def _engine(**options: Any) -> Engine:
    draft = wrap(tiny_model("llama", hidden=32, layers=1, seed=1))
    return Engine(
        wrap(tiny_model("llama")), draft, **({"policy": POLICIES["both"], "max_batch": 4, "max_context": 96} | options)
    )


def _held(engine: Engine) -> int:
    small = engine.drafters["draft"].cache
    assert small is not None
    return max(cache.held_rows * cache.held_slots for cache in (engine.cache, small))


def test_memory_held_never_exceeds_the_budget_and_everyone_is_served() -> None:
    engine, params = _engine(kv_tokens=240), SamplingParams(max_new_tokens=16)
    prompts = [p.tokens for p in random_prompts(7)]
    requests, together = [engine.add(prompt, params) for prompt in prompts], set()
    while engine.step():
        together.add(len(engine.rows))
        assert _held(engine) <= 240
        if engine.rows:
            contexts = [len(r.prompt) + 16 for r in engine.rows]
            layout, scratch = Layout(kind="rectangular"), engine.scheduler.scratch
            wanted = reserved_tokens(layout, contexts, tree_tokens=scratch, tokens_per_step=scratch)
            assert engine.counters.kv_tokens == wanted <= 240
    assert max(together) < 4, "memory, and not the batch, was the limit"
    assert max(together) > 1
    for request, prompt in zip(requests, prompts, strict=True):
        assert request.output == generated(tiny_model("llama"), prompt, 16)
    assert engine.counters.finished == {"length": 7} and engine.counters.peak_kv_tokens <= 240


def test_a_budget_in_bytes_counts_target_and_draft() -> None:
    engine = _engine(kv_bytes=400_000)
    small = engine.drafters["draft"].cache
    assert small is not None
    each = engine.cache.kv_bytes_per_token() + small.kv_bytes_per_token()
    assert each == 4 * 2 * (2 * 2 * 16 + 1 * 2 * 8), "keys and values, float32: layers x kv heads x head size"
    assert engine.scheduler.kv_tokens == 400_000 // each
    with pytest.raises(InvalidInputError, match="two tokens"):
        _engine(kv_bytes=each)


def test_a_request_that_never_fits_ends_at_once_and_none_is_overtaken() -> None:
    engine = _engine(kv_tokens=120, max_batch=2)
    prompt = random_prompts(1)[0].tokens[:4]
    long = engine.add(prompt, SamplingParams(max_new_tokens=85))
    assert long.finish is not None and "token slots" in long.finish
    first = engine.add(prompt, SamplingParams(max_new_tokens=16))
    blocked = engine.add(prompt, SamplingParams(max_new_tokens=60))
    small = engine.add(prompt, SamplingParams(max_new_tokens=4))
    engine.step()
    assert first.output and not blocked.output and not small.output
    while engine.step():
        assert not (small.output and not blocked.output)
    assert [r.finish for r in (first, blocked, small)] == ["length"] * 3


class _RunsOut(LanguageModel):
    """A model whose allocator fails where `fails` says so."""

    def __init__(self, model: LanguageModel, fails: Any) -> None:
        self.model, self.fails = model, fails
        self.vocabulary, self.max_positions = model.vocabulary, model.max_positions
        self.dtype, self.device, self.name = model.dtype, model.device, model.name

    def new_cache(self, rows: int, slots: int) -> RowCache:
        return self.model.new_cache(rows, slots)

    def forward(self, tokens: torch.Tensor, *others: Any, **options: Any) -> Output:
        if self.fails(tokens):
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 EB")
        return self.model.forward(tokens, *others, **options)


@pytest.mark.parametrize("where", ["prefill", "target step", "draft step"])
def test_a_request_that_runs_out_of_memory_ends_alone(where: str) -> None:
    prompts, params = [p.tokens for p in random_prompts(4)], SamplingParams(max_new_tokens=12)
    longest = max(len(prompt) for prompt in prompts)

    def fails(tokens: torch.Tensor) -> bool:
        return tokens.shape == (1, longest) if where == "prefill" else len(tokens) == 4

    target, draft = wrap(tiny_model("llama")), wrap(tiny_model("llama", hidden=32, layers=1, seed=1))
    models = (target, _RunsOut(draft, fails)) if where == "draft step" else (_RunsOut(target, fails), draft)
    done = Engine(*models, policy=POLICIES["both"], max_batch=4, max_context=96).generate(prompts, params)
    failed = [completion for completion in done if completion.finish.startswith("error: out of memory")]
    assert len(failed) == 1
    for completion, prompt in zip(done, prompts, strict=True):
        whole = generated(tiny_model("llama"), prompt, 12)
        assert completion.tokens == (whole[: len(completion.tokens)] if completion in failed else whole)


def test_an_error_that_is_no_lack_of_memory_is_not_hidden() -> None:
    class Broken(_RunsOut):
        def forward(self, tokens: torch.Tensor, *others: Any, **options: Any) -> Output:
            raise RuntimeError("shapes do not match")

    engine = Engine(Broken(wrap(tiny_model("llama")), None), max_context=64)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        engine.generate([[1, 2, 3]], SamplingParams(max_new_tokens=4))


def test_drafts_never_outgrow_a_row_or_the_models_positions() -> None:
    prompt, model = random_prompts(1)[0].tokens, tiny_model("llama")
    for context in (len(prompt) + 21, len(prompt) + 23):
        engine = _engine(max_context=context, max_batch=1)
        assert engine.generate([prompt], SamplingParams(max_new_tokens=20))[0].tokens == generated(model, prompt, 20)
    short = wrap(tiny_model("llama", hidden=32, layers=1, seed=1))
    short.max_positions = len(prompt) + 8
    engine = Engine(wrap(model), short, policy=POLICIES["tree"], max_batch=1, max_context=96)
    assert engine.generate([prompt], SamplingParams(max_new_tokens=20))[0].tokens == generated(model, prompt, 20)
    drafted = [step.drafted for step in engine.timings]
    assert drafted[0] and not drafted[-1], "a draft model past its positions is left out"


def test_cancelling_a_waiting_request_leaves_no_trace() -> None:
    engine = _engine(max_batch=1)
    prompts = [p.tokens for p in random_prompts(3)]
    requests = [engine.add(prompt, SamplingParams(max_new_tokens=6), id="same") for prompt in prompts]
    engine.step()
    engine.cancel(requests[2])
    while engine.step():
        pass
    assert [r.finish for r in requests] == ["length", "length", "cancelled"] and not requests[2].output
    assert engine.counters.finished == {"length": 2, "cancelled": 1}
    assert np.all(engine.cache.lengths == 0) or len(engine.rows) == 0
