"""The engine in static shapes gives the tokens of the plain engine, and says what it cuts when memory runs out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from proofs_tests.tiny import POLICIES, random_prompts, tiny_model
from reader_theory.documents import Grown, Policy, policy_of
from reader_theory.errors import InvalidInputError
from reader_theory.trees import TokenTree
from runtime.cache.rows import RowCache
from runtime.engine.engine import Engine
from runtime.engine.graphs.backend import Graphs
from runtime.engine.graphs.buckets import Bucket, Buckets, powers_up_to
from runtime.engine.graphs.packed import Packed
from runtime.engine.sampling import SamplingParams
from runtime.models.base import LanguageModel, Output
from runtime.models.load import wrap

GROWN = Grown(nodes=10, levels=2, width=3, candidates=4)
PROMPTS = [prompt.tokens for prompt in random_prompts(7)]


def graph_engine(*models: Any, **options: Any) -> Engine:
    return Engine(*models, **options, backend="graphs")


def graphs(engine: Engine) -> Graphs:
    assert isinstance(engine.backend, Graphs)
    return engine.backend


def models(forward: Any = "auto") -> tuple[LanguageModel, LanguageModel]:
    return wrap(tiny_model("llama"), forward), wrap(tiny_model("llama", hidden=32, layers=1, seed=1))


@pytest.mark.parametrize("temperature", [0.0, 0.9])
@pytest.mark.parametrize("name", POLICIES)
def test_static_shapes_give_the_tokens_of_the_engine(name: str, temperature: float) -> None:
    params = [SamplingParams(temperature=temperature, max_new_tokens=12 + i, seed=3) for i in range(len(PROMPTS))]
    target, draft = models()
    plain = Engine(target, draft, policy=POLICIES[name], max_batch=3, max_context=200)
    static = graph_engine(target, draft, policy=POLICIES[name], max_batch=3, max_context=200)
    expected, found = plain.generate(PROMPTS, params), static.generate(PROMPTS, params)
    assert [done.tokens for done in found] == [done.tokens for done in expected]
    assert [done.steps for done in found] == [done.steps for done in expected]
    assert static.backend.fallbacks == []
    counted = static.counters
    assert sum(map(sum, counted.accepted.values())) == sum(done.accepted for done in found)
    assert sum(map(sum, counted.offered.values())) == sum(step.nodes for step in static.timings)


def test_transformers_models_run_in_static_shapes() -> None:
    target, draft = models("transformers")
    params = SamplingParams(max_new_tokens=10)
    expected = Engine(target, max_batch=2, max_context=128).generate(PROMPTS[:3], params)
    static = graph_engine(target, draft, policy=POLICIES["both"], max_batch=2, max_context=128)
    assert [done.tokens for done in static.generate(PROMPTS[:3], params)] == [done.tokens for done in expected]


def test_requests_of_several_temperatures_share_a_batch() -> None:
    target, draft = models()
    params = [SamplingParams(temperature=t, max_new_tokens=9, seed=1) for t in (0.0, 1.0, 0.0, 0.7)]
    expected = Engine(target, max_batch=4, max_context=128).generate(PROMPTS[:4], params)
    static = graph_engine(target, draft, policy=POLICIES["tree"], max_batch=4, max_context=128)
    assert [done.tokens for done in static.generate(PROMPTS[:4], params)] == [done.tokens for done in expected]


class Cramped(LanguageModel):
    """A model that runs out of memory where a forward has too many tokens, or a cache too many rows."""

    def __init__(self, model: LanguageModel, tokens: int, rows: int = 99) -> None:
        self.model, self.tokens, self.most_rows = model, tokens, rows
        self.vocabulary, self.max_positions, self.name = model.vocabulary, model.max_positions, model.name
        self.dtype, self.device = model.dtype, model.device

    def new_cache(self, rows: int, slots: int) -> RowCache:
        if rows > self.most_rows:
            raise torch.OutOfMemoryError("no room for the cache")
        return self.model.new_cache(rows, slots)

    def forward(
        self,
        tokens: torch.Tensor,
        positions: torch.Tensor,
        mask: torch.Tensor | None,
        cache: RowCache,
        *,
        last_only: bool = False,
        hidden: Sequence[int] = (),
    ) -> Output:
        decoding = cache.start is None
        if decoding and tokens.numel() > self.tokens:
            raise torch.OutOfMemoryError("no room for the forward")
        return self.model.forward(tokens, positions, mask, cache, last_only=last_only, hidden=hidden)


def test_a_bucket_without_memory_is_cut_and_said() -> None:
    target, draft = models()
    params = SamplingParams(max_new_tokens=14)
    expected = Engine(target, max_batch=2, max_context=128).generate(PROMPTS[:4], params)
    cramped = graph_engine(Cramped(target, 8), draft, policy=POLICIES["tree"], max_batch=2, max_context=128)
    with pytest.warns(ResourceWarning, match="cut to a smaller one"):
        found = cramped.generate(PROMPTS[:4], params)
    assert [done.tokens for done in found] == [done.tokens for done in expected]
    assert len(cramped.backend.fallbacks) == 1 and graphs(cramped).buckets.dropped[0].nodes == 8
    assert {step.width for step in cramped.timings if step.rows == 2} == {4}


def test_a_draft_without_memory_is_left_out_and_said() -> None:
    target, draft = models()
    params = SamplingParams(max_new_tokens=14)
    expected = Engine(target, max_batch=2, max_context=128).generate(PROMPTS[:4], params)
    cramped = graph_engine(target, Cramped(draft, 0), policy=POLICIES["both"], max_batch=2, max_context=128)
    with pytest.warns(ResourceWarning, match="steps go without"):
        found = cramped.generate(PROMPTS[:4], params)
    assert [done.tokens for done in found] == [done.tokens for done in expected]
    assert len(cramped.backend.fallbacks) == 1 and not cramped.timings[-1].drafted


def test_rows_are_halved_when_their_cache_finds_no_memory() -> None:
    target, _ = models()
    with pytest.warns(ResourceWarning, match="8 rows does not fit"):
        engine = graph_engine(Cramped(target, 99, rows=4), max_batch=8, max_context=128)
    assert engine.max_batch == 4
    with pytest.warns(ResourceWarning), pytest.raises(InvalidInputError, match="one row"):
        graph_engine(Cramped(target, 99, rows=0), max_batch=2, max_context=128)


def test_a_step_that_never_fits_is_an_error() -> None:
    target, _ = models()
    engine = graph_engine(Cramped(target, 0), max_batch=1, max_context=128)
    with pytest.warns(ResourceWarning), pytest.raises(InvalidInputError, match="must find memory"):
        engine.generate(PROMPTS[:1], SamplingParams(max_new_tokens=4))


def test_the_cache_stays_where_it_is() -> None:
    target, draft = models()
    engine = graph_engine(target, draft, policy=POLICIES["both"], max_batch=3, max_context=200)
    before = [store.data_ptr() for store in graphs(engine).pool.stores]
    engine.generate(PROMPTS, SamplingParams(max_new_tokens=20))
    assert [tensor.data_ptr() for layer in engine.cache.stores for tensor in (layer.keys, layer.values)] == before  # pyright: ignore


def test_steps_reuse_their_static_parts() -> None:
    target, draft = models()
    engine = graph_engine(target, draft, policy=POLICIES["tree"], max_batch=2, max_context=200)
    engine.generate(PROMPTS[:2], SamplingParams(max_new_tokens=20))
    parts = len(graphs(engine)._drafting) + len(graphs(engine)._verifying)
    engine.generate(PROMPTS[:2], SamplingParams(max_new_tokens=20))
    assert len(graphs(engine)._drafting) + len(graphs(engine)._verifying) == parts <= len(engine.timings)


@pytest.mark.parametrize(("prompt", "new_tokens"), [([], 128), ([99], 3), ([1] * 120, 20)])
def test_what_cannot_be_served_ends_at_once(prompt: list[int], new_tokens: int) -> None:
    engine = graph_engine(models()[0], max_batch=1, max_context=128)
    request = engine.add(prompt, SamplingParams(max_new_tokens=new_tokens))
    assert (request.finish or "").startswith("error") and not engine.waiting


MIXED = [
    SamplingParams(temperature=1.0, top_k=8, seed=2, max_new_tokens=11),
    SamplingParams(temperature=0.8, top_p=0.9, repetition_penalty=1.2, seed=3, max_new_tokens=14),
    SamplingParams(max_new_tokens=12),
    *(
        SamplingParams(temperature=0.9, verification=rule, seed=5, max_new_tokens=13)
        for rule in ("gumbel", "block", "without_replacement")
    ),
    SamplingParams(temperature=1.0, seed=1, max_new_tokens=10),
]


@pytest.mark.parametrize("policy", [*POLICIES.values(), GROWN], ids=str)
def test_rules_filters_and_grown_policies_run_in_static_shapes(policy: Policy) -> None:
    target, draft = models()
    plain = Engine(target, draft, policy=policy, max_batch=3, max_context=200)
    static = graph_engine(target, draft, policy=policy, max_batch=3, max_context=200)
    expected, found = plain.generate(PROMPTS, MIXED), static.generate(PROMPTS, MIXED)
    assert [(done.tokens, done.steps) for done in found] == [(done.tokens, done.steps) for done in expected]
    assert static.counters.rules == plain.counters.rules


def test_a_request_is_cancelled_and_streamed_in_static_shapes() -> None:
    engine = graph_engine(*models(), policy=POLICIES["both"], max_batch=2, max_context=128)
    whole = [token for piece in engine.stream(PROMPTS[0], SamplingParams(max_new_tokens=12)) for token in piece]
    assert whole == engine.generate(PROMPTS[:1], SamplingParams(max_new_tokens=12))[0].tokens
    request = engine.add(PROMPTS[1], SamplingParams(max_new_tokens=12))
    engine.step()
    engine.cancel(request)
    assert request.finish == "cancelled" and not engine.rows


def test_a_tree_beyond_the_scratch_is_refused() -> None:
    target, draft = models()
    with pytest.raises(InvalidInputError, match="nodes"):
        graph_engine(target, draft, policy=policy_of(TokenTree.chain(300)), max_batch=1, max_context=128)


@given(st.integers(1, 9), st.integers(1, 20), st.integers(0, 300))
def test_the_smallest_bucket_that_holds_a_step_is_picked(rows: int, nodes: int, longest: int) -> None:
    buckets = Buckets(powers_up_to(9), powers_up_to(20), powers_up_to(400, 64))
    found = buckets.pick(rows, nodes, longest)
    assert found.rows >= rows and found.nodes >= nodes and found.context >= longest + found.nodes
    smaller = [size for size in buckets.contexts if size < found.context]
    assert all(size < longest + found.nodes for size in smaller)
    buckets.drop(found)
    if found.nodes > 1:
        assert buckets.pick(rows, nodes, longest).nodes < found.nodes


def test_buckets_without_a_size_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="increase"):
        Buckets((2, 1), (1,), (64,))
    with pytest.raises(InvalidInputError, match="largest of 2"):
        Buckets((1, 2), (1,), (64,)).pick(3, 1, 0)
    assert Buckets((1, 2), (1,), (64,)).pick(2, 1, 3) == Bucket(2, 1, 64)


def test_packed_numbers_keep_their_kind() -> None:
    packed = Packed({"whole": (2, 3), "real": (4,)}, torch.device("cpu"), ("real",))
    packed.host["real"].copy_(torch.tensor([0.5, -1.0, 2.0, 3.0]))
    packed.host["whole"].fill_(7)
    packed.upload()
    assert packed.device["real"].tolist() == [0.5, -1.0, 2.0, 3.0] and packed.device["whole"].sum() == 42
    packed.arrays["real"][1:3], packed.arrays["whole"][0] = 4.5, 8
    assert packed.device["real"].tolist() == [0.5, 4.5, 4.5, 3.0] and packed.device["whole"].sum() == 45
    assert packed.device["real"].dtype == torch.float64 and np.prod(packed.device["whole"].shape) == 6


@pytest.mark.gpu
@pytest.mark.parametrize("name", POLICIES)
def test_graphs_give_the_tokens_of_the_engine_on_the_card(name: str) -> None:
    target = wrap(tiny_model("llama").double().to("cuda"))
    draft = wrap(tiny_model("llama", hidden=32, layers=1, seed=1).double().to("cuda"))
    params = SamplingParams(max_new_tokens=16)
    expected = Engine(target, max_batch=3, max_context=200).generate(PROMPTS, params)
    static = graph_engine(target, draft, policy=POLICIES[name], max_batch=3, max_context=200)
    assert [done.tokens for done in static.generate(PROMPTS, params)] == [done.tokens for done in expected]
