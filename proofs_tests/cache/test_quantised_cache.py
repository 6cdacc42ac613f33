"""A quantised cache: exact where its codec is, one law whatever drafts, and bytes counted to the last one."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from proofs_tests.models.matrix import build
from proofs_tests.tiny import POLICIES, VOCABULARY, random_prompts, tiny_model
from reader_theory.documents import policy_of
from reader_theory.errors import InvalidInputError
from reader_theory.memory import KVFormat, Window, rows_admitted
from reader_theory.trees import TokenTree
from runtime.cache.quantised.cache import QuantisedCache
from runtime.cache.quantised.codec import Codec
from runtime.cache.quantised.fit import fit_aqua
from runtime.cache.quantised.scheme import Aqua, Codecs, Integers, Predictor, Scheme
from runtime.engine.engine import Engine
from runtime.engine.sampling import SamplingParams
from runtime.measure.kv import keys_and_values, losses
from runtime.models.base import LanguageModel
from runtime.models.inputs import forward_trees, prefill
from runtime.models.lean import LeanModel
from runtime.models.load import wrap
from runtime.models.quantised import quantised

WINDOW = Window(first=2, recent=17, chunk=15)


class Exact(Codec):
    """Numbers as they are: the quantiser that loses nothing."""

    def __init__(self, chunk: int, channels: int) -> None:
        super().__init__(chunk, channels)
        self.record_bytes = 4 * chunk * channels

    def encode(self, numbers: NDArray[np.float32]) -> NDArray[np.uint8]:
        return np.ascontiguousarray(numbers, dtype=np.float32).view(np.uint8).ravel()

    def decode(self, records: NDArray[np.uint8]) -> NDArray[np.float32]:
        return np.ascontiguousarray(records).view(np.float32).reshape(-1, self.channels).copy()


@dataclass(frozen=True, eq=False)
class ExactScheme(Scheme):
    window: Window = WINDOW
    unturned: bool = False
    predictors: tuple[Predictor, ...] = field(default=())
    name: str = "exact"

    def codecs(self, layer: int, keys: tuple[int, int], values: tuple[int, int]) -> Codecs:
        made = (Exact(self.window.chunk, heads * size) for heads, size in (keys, values))
        return Codecs(*made, predictor=self.predictors[layer - 1] if layer and self.predictors else None)


@cache
def model(family: str = "llama", dtype: torch.dtype = torch.float64, layers: int = 2) -> LanguageModel:
    made = tiny_model(family, layers=layers)
    return wrap(deepcopy(made).to(dtype), check=False)  # turns are float32: it is off by more than float64 allows


@cache
def aqua(layers: int = 2) -> Aqua:
    target = model(layers=layers)
    assert isinstance(target, LeanModel)
    spans = np.random.default_rng(1).integers(0, VOCABULARY, (5, 96))
    found = keys_and_values(target, spans)
    return fit_aqua("aqua", ((4, 4), *((2, 2),) * (layers - 1)), *found, (target.kv_heads, target.head_dim), WINDOW)


def text(target: LanguageModel, policy: Any = POLICIES["off"], *, batch: int = 1, new: int = 36) -> list[list[int]]:
    draft = wrap(tiny_model("llama", hidden=32, layers=1, seed=1))
    engine = Engine(target, draft, policy=policy, max_batch=batch, max_context=128)
    done = engine.generate([p.tokens for p in random_prompts(4)], SamplingParams(max_new_tokens=new))
    return [list(each.tokens) for each in done]


@pytest.mark.parametrize(("family", "policy"), [("llama", "both"), ("gpt2", "both"), ("qwen3", "off")])
def test_an_exact_quantiser_gives_the_plain_caches_text(family: str, policy: str) -> None:
    target = model(family)
    assert text(quantised(target, ExactScheme()), POLICIES[policy], batch=3) == text(target)


def test_an_exact_quantiser_behind_predictors_and_turns_gives_the_plain_caches_logits() -> None:
    target, exact = model(), ExactScheme(unturned=True, predictors=aqua().predictors)
    span = np.random.default_rng(0).integers(0, VOCABULARY, (1, 90))
    assert np.allclose(losses(quantised(target, exact), span, 10), losses(target, span, 10), atol=2e-5)


@pytest.mark.parametrize(("name", "kind"), [("both", "aqua"), ("tree", "int4"), ("chain", "int2")])
def test_speculative_text_is_plain_text_under_the_same_cache(name: str, kind: str) -> None:
    scheme = aqua() if kind == "aqua" else Integers(int(kind[-1]), WINDOW)
    target = quantised(model(), scheme)
    assert text(target, POLICIES[name], batch=3) == text(target)


@pytest.mark.slow
@given(
    name=st.sampled_from(sorted(set(POLICIES) - {"off"})),
    batch=st.integers(1, 5),
    window=st.builds(Window, first=st.integers(0, 5), recent=st.integers(15, 30), chunk=st.integers(15, 25)),
    kind=st.sampled_from(["int4", "int2", "aqua"]),
)
@settings(max_examples=30, deadline=None)
def test_no_drafter_tree_batch_or_border_moves_the_text(name: str, batch: int, window: Window, kind: str) -> None:
    scheme = replace(aqua(), window=window) if kind == "aqua" else Integers(int(kind[-1]), window)
    target = quantised(model(), scheme)
    assert text(target, POLICIES[name], batch=batch, new=60) == text(target, new=60)


def test_texts_differ_from_the_plain_caches_so_that_equal_ones_say_something() -> None:
    assert text(quantised(model(), Integers(2, WINDOW))) != text(model())
    assert text(quantised(model(), aqua())) != text(model())


def test_a_border_that_drafts_moved_would_be_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The planted bug: all nodes of a forward see what the root sees, so that borders lie where steps begin."""
    target, tokens = quantised(model(), Integers(2, WINDOW)), np.random.default_rng(3).integers(0, VOCABULARY, 80)
    assert torch.allclose(_logits(target, tokens, 1), _logits(target, tokens, 7), atol=1e-9)
    monkeypatch.setattr(QuantisedCache, "masked", lambda self, mask, positions, hidden: mask)
    assert not torch.allclose(_logits(target, tokens, 1), _logits(target, tokens, 7), atol=1e-2)


@pytest.mark.parametrize("kind", ["int4", "aqua", "exact"])
def test_tokens_together_see_what_each_sees_alone(kind: str) -> None:
    """Logits after every token of a text, decoded one by one, in pieces, and as a tree's chain: the same."""
    scheme = {"int4": Integers(4, WINDOW), "aqua": aqua(), "exact": ExactScheme()}[kind]
    target, tokens = quantised(model(), scheme), np.random.default_rng(3).integers(0, VOCABULARY, 80)
    found = [_logits(target, tokens, piece) for piece in (1, 2, 5, WINDOW.reach)]
    for other in found[1:]:
        assert torch.allclose(found[0], other, atol=1e-9)


def _logits(target: LanguageModel, tokens: NDArray[np.int64], piece: int) -> torch.Tensor:
    cache, found = target.new_cache(1, len(tokens) + 1), []
    for first in range(0, len(tokens), piece):
        part = tokens[first : first + piece]
        parents = np.arange(len(part), dtype=np.int64)[None] - 1
        found.append(forward_trees(target, cache, part[None], parents, np.array([len(part)]))[0])
        cache.commit(np.arange(len(part), dtype=np.int64)[None], np.array([len(part)]))
    return torch.cat(found)


def test_what_is_read_is_what_the_sequential_decoder_makes_of_the_records(monkeypatch: pytest.MonkeyPatch) -> None:
    target, tokens = quantised(model(layers=3), aqua(3)), np.random.default_rng(4).integers(0, VOCABULARY, 70)
    cache = target.new_cache(2, 90)
    assert isinstance(cache, QuantisedCache) and isinstance(target, LeanModel)
    prefill(target, cache, tokens, 0)
    seen: list[torch.Tensor] = []
    for layer in cache.made:
        monkeypatch.setattr(layer, "update", lambda *x, plain=layer.update: _noted(seen, plain(*x)))
    forward_trees(target, cache, tokens[None, :1], np.full((1, 1), -1), np.ones(1, dtype=np.int64))
    count = int(cache.window.chunks(len(tokens)))
    places = WINDOW.first + np.arange(count * WINDOW.chunk)
    turns, before = target.rotations[: len(tokens)].numpy()[places].astype(np.complex64), None
    for layer, predictor in zip(cache.made, (None, *aqua(3).predictors), strict=True):
        codecs = layer.codecs
        keys, values = (
            np.concatenate([codec.decode(each[None]) for each in record[0, :count]])
            for codec, record in zip((codecs.keys, codecs.values), layer.records, strict=True)
        )
        if predictor is not None and before is not None:
            keys = keys + before[0] @ predictor.key[:-1] + predictor.key[-1]
            values = values + np.hstack((keys, before[1])) @ predictor.value[:-1] + predictor.value[-1]
        before = keys, values
        turned = (keys.view(np.complex64).reshape(len(keys), -1, turns.shape[-1]) * turns).view(np.float32)
        for numbers, view in ((turned, seen[2 * layer.place]), (values, seen[2 * layer.place + 1])):
            read = view[0, :, places].transpose(0, 1).reshape(len(keys), -1).numpy()
            assert np.allclose(read, numbers.reshape(len(keys), -1), atol=1e-4)


def _noted(seen: list[torch.Tensor], view: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """A layer's view, copied: the next layer's takes its place."""
    seen += [each.clone() for each in view]
    return view


def test_first_tokens_and_the_buffer_are_kept_as_they_are() -> None:
    target, tokens = model(), np.random.default_rng(5).integers(0, VOCABULARY, 70)
    small, plain = (each.new_cache(1, 90) for each in (quantised(target, Integers(2, WINDOW)), target))
    prefill(target, plain, tokens, 0)
    prefill(quantised(target, Integers(2, WINDOW)), small, tokens, 0)
    first, held = small.stores[0].keys, plain.stores[0].keys
    assert first is not None and held is not None
    assert torch.equal(first[:, :, : WINDOW.first], held[:, :, : WINDOW.first]), "layer 0 reads no cache"
    assert first.shape[2] == WINDOW.buffer < 70


def test_rows_that_leave_and_join_do_not_disturb_the_others() -> None:
    target = quantised(model(), Integers(2, WINDOW))
    params = [SamplingParams(max_new_tokens=count) for count in (60, 5, 33, 12, 47, 8)]
    prompts = [p.tokens for p in random_prompts(6, seed=3)]
    alone = [Engine(target, max_context=128).generate([p], q)[0].tokens for p, q in zip(prompts, params, strict=True)]
    together = Engine(target, max_batch=2, max_context=128).generate(prompts, params)
    assert [each.tokens for each in together] == alone


def held_bytes(cache: QuantisedCache) -> tuple[int, int]:
    """Bytes of buffers and records, and of views."""
    parts = [each for layer in cache.made for each in (layer.keys, layer.values, *layer.records) if each is not None]
    return sum(each.nbytes for each in parts), sum(each.nbytes for each in cache.views.values())


@pytest.mark.parametrize("kind", ["int8", "int4", "aqua"])
@pytest.mark.parametrize("slots", [12, 30, 77, 128])
def test_bytes_are_counted_to_the_last_one(kind: str, slots: int) -> None:
    scheme = aqua() if kind == "aqua" else Integers(int(kind[-1]), WINDOW)
    target = quantised(model(), scheme)
    cache = target.new_cache(3, 128)
    assert isinstance(cache, QuantisedCache)
    cache.fit(3, slots)
    prefill(target, cache, np.arange(slots - 2, dtype=np.int64) % VOCABULARY, 0)
    told, (stored, views) = cache.format, held_bytes(cache)
    assert told.window == WINDOW
    room = max(slots - 19, 0) // 15
    assert stored == 3 * (room * told.chunk_bytes + min(slots, 2 + 17 + 15 + 15) * told.token_bytes)
    assert stored + views <= 3 * told.row_bytes(slots)
    values = 2 * 2 * 2 * 16
    assert told.values_per_token == values and told.token_bytes == 8 * values
    chunk = {"int8": 15 * values + 4 * values, "int4": 15 * values // 2 + 4 * values}.get(kind)
    grids = 15 * 2 * (32 * 4 // 8 + 2) + 15 * 2 * (32 * 2 // 8 + 2)
    assert told.chunk_bytes == (grids if chunk is None else chunk)
    assert told.bits == 8 * told.chunk_bytes / (15 * values)


def test_a_rows_bits_count_first_tokens_and_buffer() -> None:
    told = KVFormat(name="x", values_per_token=10, token_bytes=40, window=WINDOW, chunk_bytes=150)
    assert told.bits == 8 and told.bits_at(33) == 32
    assert told.bits_at(34) == 8 * (150 + 19 * 40) / 340
    assert KVFormat(name="plain", values_per_token=10, token_bytes=40).bits_at(5) == 32


@pytest.mark.parametrize("kind", ["plain", "int8", "int4", "aqua"])
def test_the_largest_batch_that_is_predicted_is_what_the_engine_admits(kind: str) -> None:
    scheme = {"plain": None, "aqua": aqua()}.get(kind, Integers(int(kind[-1]) if kind[-1].isdigit() else 8, WINDOW))
    target = model() if scheme is None else quantised(model(), scheme)
    probe = target.new_cache(1, 8)
    prefill(target, probe, np.zeros(1, dtype=np.int64), 0)
    told = probe.format
    slots = 10 + 50 + 1
    for rows in (1, 3, 7):
        for short in (0, 1):
            budget = told.shared_bytes + rows * told.row_bytes(slots) - short
            predicted = rows_admitted([told], budget, slots)
            assert predicted == rows - short
            if not predicted:
                continue
            engine = Engine(target, max_batch=16, max_context=128, kv_bytes=budget)
            for number in range(9):
                engine.add(np.arange(10) + number, SamplingParams(max_new_tokens=50))
            engine.step()
            assert len(engine.rows) == predicted


def test_a_request_beyond_the_bytes_ends_at_once() -> None:
    engine = Engine(quantised(model(), Integers(4, WINDOW)), max_context=256, kv_bytes=30_000)
    request = engine.add(np.arange(200) % VOCABULARY, SamplingParams(max_new_tokens=50))
    assert request.finish is not None and "must fit in the bytes of the cache" in request.finish
    with pytest.raises(InvalidInputError, match=r"predictors.*--kv int8"):
        Engine(quantised(model(), aqua()), kv_bytes=1000)


def test_what_cannot_be_quantised_is_refused_before_it_runs() -> None:
    import transformers as tf

    with pytest.raises(InvalidInputError, match=r"rotary.*--kv int8"):
        quantised(model("gpt2"), aqua())
    with pytest.raises(InvalidInputError, match="fitted to"):
        quantised(model(layers=3), aqua())
    shape: dict[str, Any] = dict(vocab_size=VOCABULARY, num_hidden_layers=2, intermediate_size=64, bos_token_id=None)
    shape |= dict(eos_token_id=None, pad_token_id=None, max_position_embeddings=256)
    odd = tf.LlamaConfig(hidden_size=36, num_attention_heads=2, num_key_value_heads=1, head_dim=18, **shape)
    refused = wrap(tf.AutoModelForCausalLM.from_config(odd))
    with pytest.raises(InvalidInputError, match=r"Hadamard.*Got 1 heads of 18"):
        quantised(refused, Aqua("aqua", ((2, 2),) * 2, window=WINDOW))
    local = tf.MistralConfig(
        hidden_size=32, num_attention_heads=2, num_key_value_heads=1, head_dim=16, sliding_window=32, **shape
    )
    with pytest.raises(InvalidInputError, match="see all tokens"):
        quantised(wrap(tf.AutoModelForCausalLM.from_config(local)), Integers(8, WINDOW))
    shared = build("gemma3n_text", {"layer_types": ["full_attention"] * 4})
    with pytest.raises(InvalidInputError, match=r"of their own.*\[2, 3\]"):
        quantised(wrap(shared), Integers(8, WINDOW))
    with pytest.raises(InvalidInputError, match=r"buffer.*--max-nodes"):
        Engine(quantised(model(), Integers(8, WINDOW)), policy=policy_of(TokenTree.chain(16)))
    with pytest.raises(InvalidInputError, match="eager"):
        Engine(quantised(model(), Integers(8)), backend="graphs")


def test_a_layers_part_has_a_plain_cache() -> None:
    target = quantised(model(), Integers(8, WINDOW))
    assert isinstance(target, LeanModel) and target.part([0], "half").scheme is None
