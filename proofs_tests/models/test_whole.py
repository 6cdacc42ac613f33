"""A step's forward in one call is the one whose operations are called one by one."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from proofs_tests.models.compiled import only_compiled
from reader_theory.memory import Window
from runtime.cache.quantised.scheme import Integers
from runtime.models import whole
from runtime.models.inputs import prefill, run_trees
from runtime.models.lean import LeanModel
from runtime.models.load import load_model
from runtime.models.quantised import quantised

COMMON: dict[str, Any] = {
    "hidden_size": 96, "intermediate_size": 160, "num_hidden_layers": 3, "num_attention_heads": 6,
    "num_key_value_heads": 2, "head_dim": 32, "vocab_size": 320, "max_position_embeddings": 256,
}  # fmt: skip
LENGTHS, NODES = (5, 33, 66), 7


@pytest.fixture(autouse=True)
def compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    only_compiled(monkeypatch)


def _written(folder: Path, family: str) -> Path:
    torch.manual_seed(0)
    if family == "llama":
        model: Any = LlamaForCausalLM(LlamaConfig(**COMMON, attention_bias=True))
    else:
        model = Qwen2ForCausalLM(Qwen2Config(**COMMON))
    for name, each in model.named_parameters():
        torch.nn.init.normal_(each, 1.0 if "norm" in name else 0.0, 0.2)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(params=["llama", "qwen2"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    yield _written(tmp_path / "model", request.param)


def _forwards(
    model: LeanModel, batch: int, queries: int, layers: tuple[int, ...], counts: tuple[int, ...] | None = None
) -> tuple[torch.Tensor, ...]:
    """Logits and hidden states of ragged trees, and what the next forward reads of their keys and values."""
    drawn, cache = np.random.default_rng(1), model.new_cache(batch, 128)
    for row in range(batch):
        prefill(model, cache, drawn.integers(3, 320, LENGTHS[row]), row)
    parents = np.array([[-1, *(drawn.integers(0, node) for node in range(1, queries))] for _ in range(batch)])
    tokens = drawn.integers(3, 320, parents.shape)
    out = run_trees(model, cache, tokens, parents, np.array(counts or [queries] * batch), hidden=layers)
    path, kept = np.zeros((batch, queries), dtype=np.int64), np.full(batch, 1)
    cache.commit(path, kept)
    after = run_trees(model, cache, tokens[:, :1], parents[:, :1], kept).logits
    return out.logits, *out.hidden, after


@pytest.mark.parametrize(("batch", "queries"), [(1, 1), (1, NODES), (3, 1), (3, NODES), (3, 21)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8", "int4"])
def test_it_is_the_forward_of_its_operations(
    folder: Path, dtype: str, batch: int, queries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_model(folder, dtype)
    assert isinstance(model, LeanModel) and model.final_layer is not None
    layers, ran = (0, 2, model.final_layer), list[int]()
    run = whole._Forward.__call__
    monkeypatch.setattr(whole._Forward, "__call__", lambda self, *a: ran.append(1) or run(self, *a))
    found = _forwards(model, batch, queries, layers)
    assert len(ran) >= 2, "it was not run"
    monkeypatch.setattr(model, "_whole", None)
    rounding = 2e-5 if dtype == "float32" else 3e-2
    for one, other in zip(found, _forwards(model, batch, queries, layers), strict=True):
        assert one.dtype == other.dtype and one.shape == other.shape
        assert (one - other).abs().max() <= rounding * other.abs().max()


@pytest.mark.parametrize("counts", [(1,), (NODES,), (NODES, 1, 3), (NODES, NODES, NODES)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_over_a_quantised_cache_it_is_too_on_both_sides_of_a_border(
    folder: Path, dtype: str, counts: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = load_model(folder, dtype)
    assert isinstance(made, LeanModel) and made.final_layer is not None
    model = quantised(made, Integers(4, Window(first=2, recent=17, chunk=15)))
    assert isinstance(model, LeanModel)
    layers, ran = (0, 2, made.final_layer), list[int]()
    run = whole._Forward.__call__
    monkeypatch.setattr(whole._Forward, "__call__", lambda self, *a: ran.append(1) or run(self, *a))
    found = _forwards(model, len(counts), max(counts), layers, counts)
    assert len(ran) >= 2, "it was not run"
    monkeypatch.setattr(model, "_whole", None)
    rounding = 2e-5 if dtype == "float32" else 3e-2
    for one, other in zip(found, _forwards(model, len(counts), max(counts), layers, counts), strict=True):
        for row, count in enumerate(counts):
            mine, held = (each[row, : min(count, each.shape[1])] for each in (one, other))
            assert (mine - held).abs().max() <= rounding * held.abs().max()


@pytest.mark.parametrize("counts", [(2, 7, 1), (1, 30, 33), (7, 1, 0), (60, 3, 9)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("one_call", [True, False])
def test_what_pads_a_row_is_not_computed_and_changes_nothing(
    folder: Path, dtype: str, counts: tuple[int, ...], one_call: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_model(folder, dtype)
    assert isinstance(model, LeanModel) and model.final_layer is not None and model.packs
    layers, queries = (0, 2, model.final_layer), max(counts)
    monkeypatch.setattr(model, "_whole", model._whole if one_call else None)
    *packed, after = _forwards(model, 3, queries, layers, counts)
    monkeypatch.setattr(model, "_whole", None)
    monkeypatch.setattr(model, "packs", False)
    *padded, then = _forwards(model, 3, queries, layers, counts)
    rounding = 2e-5 if dtype == "float32" else 3e-2
    for one, other in zip(packed, padded, strict=True):
        for row, count in enumerate(counts):
            mine, held = one[row, :count], other[row, :count]
            assert not count or (mine - held).abs().max() <= rounding * held.abs().max()
            assert not one[row, count:].any()
    kept = [row for row, count in enumerate(counts) if count]
    assert (after[kept] - then[kept]).abs().max() <= rounding * then.abs().max()


def test_rows_of_any_company_have_the_same_bits(folder: Path) -> None:
    model = load_model(folder)
    assert isinstance(model, LeanModel)
    few, many = (_forwards(model, 3, 7, (), counts)[0] for counts in ((7, 2, 1), (7, 7, 7)))
    assert (
        torch.equal(few[0], many[0]) and torch.equal(few[1, :2], many[1, :2]) and torch.equal(few[2, :1], many[2, :1])
    )


def test_it_stands_aside_where_operations_are_not_compiled(folder: Path) -> None:
    """As those of long forwards."""
    model = load_model(folder)
    assert isinstance(model, LeanModel) and model._whole is not None
    cache, many = model.new_cache(1, 200), whole.MOST + 1
    tokens = np.zeros((1, many), dtype=np.int64)
    made = model._whole._made.made
    made.clear()  # of the check at load
    run_trees(model, cache, tokens, np.arange(-1, many - 1)[None], np.array([many]))
    assert not made
    run_trees(model, cache, tokens[:, :4], np.arange(-1, 3)[None], np.array([4]))
    assert [tokens for tokens, _ in made] == [4]


def test_an_unknown_token_is_refused(folder: Path) -> None:
    model = load_model(folder)
    with pytest.raises(IndexError):
        run_trees(model, model.new_cache(1, 20), np.array([[320]]), np.array([[-1]]), np.array([1]))


def test_a_part_of_a_model_has_places_of_its_own(folder: Path) -> None:
    model = load_model(folder)
    assert isinstance(model, LeanModel)
    part, tokens, first = model.part([0, 2], "part"), np.array([[7]]), np.array([[-1]])
    logits = [run_trees(each, each.new_cache(1, 20), tokens, first, np.array([1])).logits for each in (model, part)]
    part._whole = None
    again = run_trees(part, part.new_cache(1, 20), tokens, first, np.array([1])).logits
    torch.testing.assert_close(logits[1], again, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(*logits)


def test_two_threads_do_not_share_a_forward(folder: Path) -> None:
    """A model that two engines serve at once: places are those of one forward at a time."""
    model = load_model(folder)
    alone = [_text(model, seed) for seed in (1, 2)]
    found: dict[int, list[int]] = {}
    threads = [threading.Thread(target=lambda s=seed: found.update({s: _text(model, s)})) for seed in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[1], found[2]] == alone


def _text(model: Any, seed: int) -> list[int]:
    cache, made = model.new_cache(1, 128), list[int]()
    logits = prefill(model, cache, np.random.default_rng(seed).integers(3, 320, 6), 0)
    for _ in range(60):
        made.append(int(logits.argmax()))
        logits = run_trees(model, cache, np.array([[made[-1]]]), np.array([[-1]]), np.array([1])).logits[0, 0]
        cache.lengths[0] += 1
    return made
