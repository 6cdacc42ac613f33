"""Weights are held once, followed where they are somebody else's, and read only where the module tree is known."""

from __future__ import annotations

import gc
import subprocess
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from proofs_tests.tiny import generated, random_prompts, tiny_model
from runtime.engine.engine import Engine
from runtime.engine.sampling import SamplingParams
from runtime.models import products
from runtime.models.lean import LeanModel, is_lean
from runtime.models.linear import AdaptiveLinear, FollowingLinear
from runtime.models.load import load_model, wrap
from runtime.models.transformers import TransformersModel


@pytest.fixture
def cache(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    products._kept.cache_clear()
    yield tmp_path / "reader-theory" / "products.json"
    products._kept.cache_clear()


def _fresh(family: str = "llama", seed: int = 3) -> Any:
    return type(tiny_model(family))(tiny_model(family, seed=seed).config).eval()


EVERY_LAYOUT = [products.STREAMED, products.TURNED, *products.LAYOUTS]


def _choice(monkeypatch: pytest.MonkeyPatch, layout: str) -> None:
    """Every weight by one product: one of those that read rows, or that of a layout."""
    in_rows = layout not in products.LAYOUTS
    if layout == products.STREAMED and layout not in products.row_products():
        pytest.skip("torch's threads are not GNU's here: no product of ours")
    every = (layout if in_rows else products.TURNED,) * len(products.ROW_BUCKETS)
    layout = products.ROWS if in_rows else layout
    monkeypatch.setattr("runtime.models.linear.choose", lambda *_: products.Choice(every, layout))


@pytest.mark.parametrize("layout", EVERY_LAYOUT)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_product_is_the_product(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, layout: str) -> None:
    _choice(monkeypatch, layout)
    weight, bias = torch.randn(48, 32).to(dtype), torch.randn(48).to(dtype)
    linear = AdaptiveLinear(weight, bias)
    for rows in (1, 3, 8, 200):
        x = torch.randn(rows, 32).to(dtype)
        found, expected = linear(x), torch.nn.functional.linear(x.double(), weight.double(), bias.double())
        assert found.shape == (rows, 48) and found.is_contiguous()
        torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-4 if dtype == torch.float32 else 0.2)


@pytest.mark.parametrize("layout", products.LAYOUTS)
def test_a_packed_weight_is_let_go_of(monkeypatch: pytest.MonkeyPatch, layout: str) -> None:
    if products.pack(torch.zeros(64, 64), layout) is None:
        pytest.skip(f"this torch has no {layout}")
    _choice(monkeypatch, layout)
    weight = torch.randn(64, 64)
    held, linear = weakref.ref(weight), AdaptiveLinear(weight)
    del weight
    gc.collect()
    assert linear.weight is None and held() is None
    kept = torch.randn(64, 64)
    assert AdaptiveLinear(kept, in_rows=True).weight is kept


def test_a_choice_is_measured_once_and_kept(cache: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "AGREE", 1e9)
    monkeypatch.setattr(products, "SECONDS", 1e9)
    weight = torch.randn(256, 256)
    first = products.choose(weight)
    assert len(first.rows) == len(products.ROW_BUCKETS) and cache.exists()
    products._kept.cache_clear()
    monkeypatch.setattr(products, "_measure", lambda *_: pytest.fail("measured again"))
    assert products.choose(weight) == first


@pytest.mark.parametrize("text", ["", "[]", "null", '{"a": 1}', '{"a": {"rows": ["no such"], "layout": "rows"}}'])
def test_a_damaged_file_of_choices_is_not_read(cache: Any, text: str) -> None:
    cache.parent.mkdir(parents=True)
    cache.write_text(text)
    assert products._kept() == {}


def test_times_that_do_not_repeat_are_not_kept(cache: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "SECONDS", -1.0)
    weight = torch.randn(256, 256)
    able = [name for name in products.LAYOUTS if products.pack(weight.bfloat16(), name) is not None]
    ours = products.row_products()
    for theirs in (ours, {name: each for name, each in ours.items() if name != products.STREAMED}):
        monkeypatch.setattr(products, "row_products", lambda theirs=theirs: theirs)
        streams = products.STREAMED in theirs
        assert products.choose(weight).layout == products.ROWS
        expected = products.ROWS if streams or not able else able[0]
        assert products.choose(weight.bfloat16()).layout == expected
        assert not cache.exists()
        products._kept.cache_clear()


def _taken(linear: float, streamed: float, onednn: float) -> list[dict[str, float]]:
    one = {products.LINEAR: linear, products.TURNED: 9.0, products.STREAMED: streamed, "onednn": onednn}
    return [one] * len(products.ROW_BUCKETS)


@pytest.mark.parametrize(
    ("seconds", "step", "layout"),
    [
        ((1.0, 1.4, 1.8), products.STREAMED, products.ROWS),
        ((1.0, 1.6, 1.8), products.LINEAR, products.ROWS),
        ((1.0, 1.2, 1.1), products.STREAMED, products.ROWS),
        ((1.8, 1.9, 1.0), products.STREAMED, "onednn"),
    ],
    ids=["nearly the fastest", "too slow", "packed is a little faster", "packed is much faster"],
)
def test_the_streamed_product_is_taken_where_it_is_nearly_the_fastest(
    seconds: tuple[float, float, float], step: str, layout: str
) -> None:
    """For the rows of a step; beyond, the fastest."""
    choice = products._chosen(_taken(*seconds), [products.LINEAR, products.TURNED, products.STREAMED], ["onednn"])
    steps = sum(rows <= products.EVEN_ROWS for rows in products.ROW_BUCKETS)
    assert choice.rows == (step,) * steps + (products.LINEAR,) * (len(products.ROW_BUCKETS) - steps)
    assert choice.layout == layout


@pytest.mark.parametrize("far", [64, 128])
def test_it_is_taken_as_far_on_as_it_is_nearly_the_fastest(far: int) -> None:
    taken = _taken(1.0, 1.0, 9.0)
    place = products.ROW_BUCKETS.index(far)
    taken[place] = taken[place] | {products.STREAMED: 2.0}
    choice = products._chosen(taken, [products.LINEAR, products.TURNED, products.STREAMED], ["onednn"])
    assert choice.rows == (products.STREAMED,) * place + (products.LINEAR,) * (len(taken) - place)


def test_one_slow_number_of_rows_is_enough_not_to_take_it() -> None:
    taken = _taken(1.0, 1.0, 9.0)
    taken[3] = taken[3] | {products.STREAMED: 2.0}
    choice = products._chosen(taken, [products.LINEAR, products.TURNED, products.STREAMED], ["onednn"])
    assert choice.rows[3] == products.LINEAR


def test_a_wrapped_model_follows_its_weights() -> None:
    model, prompt = _fresh("qwen2"), random_prompts(1)[0].tokens
    target = wrap(model)
    assert isinstance(target, LeanModel)
    engine, params = Engine(target, max_batch=1, max_context=96), SamplingParams(max_new_tokens=12)
    assert engine.generate([prompt], params)[0].tokens == generated(model, prompt, 12)
    before = generated(model, prompt, 12)
    model.load_state_dict({name: each.flip(0) for name, each in model.state_dict().items()})
    model.model.layers[0].mlp.up_proj.weight = torch.nn.Parameter(torch.randn(128, 64) / 4)
    assert generated(model, prompt, 12) != before
    assert engine.generate([prompt], params)[0].tokens == generated(model, prompt, 12)


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_taken_weights_are_those_of_the_model(family: str) -> None:
    model = _fresh(family)
    prompt = random_prompts(1)[0].tokens
    expected = generated(model, prompt, 12)
    engine = Engine(wrap(model, weights="take"), max_batch=1, max_context=96)
    assert engine.generate([prompt], SamplingParams(max_new_tokens=12))[0].tokens == expected
    assert model.model.layers[0].mlp.up_proj.weight is None


class _Scaled(torch.nn.Linear):
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(input)


def _hook(model: Any) -> None:
    model.model.layers[1].register_forward_hook(lambda _module, _args, out: out)


def _replace(model: Any) -> None:
    model.model.layers[0].mlp.down_proj = _Scaled(128, 64, bias=False)


def _override(model: Any) -> None:
    model.model.layers[0].mlp.forward = lambda x: x


def _parametrize(model: Any) -> None:
    torch.nn.utils.parametrizations.weight_norm(model.model.layers[0].self_attn.q_proj)


def _mix(model: Any) -> None:
    model.model.layers[0].mlp.double()


@pytest.mark.parametrize("change", [_hook, _replace, _override, _parametrize, _mix])
def test_a_module_tree_that_is_not_known_runs_as_it_is(change: Callable[[Any], None]) -> None:
    model = _fresh()
    assert is_lean(model)
    change(model)
    assert not is_lean(model)
    assert isinstance(wrap(model, check=False), TransformersModel)


def test_projections_side_by_side_have_their_own_biases() -> None:
    modules = [torch.nn.Linear(16, 8), torch.nn.Linear(16, 4, bias=False)]
    x = torch.randn(3, 16)
    torch.testing.assert_close(FollowingLinear(modules)(x), torch.cat([each(x) for each in modules], dim=1))


@pytest.mark.parametrize("layout", EVERY_LAYOUT)
def test_a_folder_whose_pages_are_given_back_decodes_as_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str
) -> None:
    _choice(monkeypatch, layout)
    model, prompt = tiny_model("qwen2", hidden=128), random_prompts(1)[0].tokens
    model.save_pretrained(tmp_path)
    engine = Engine(load_model(tmp_path), max_batch=1, max_context=96)
    done = engine.generate([prompt], SamplingParams(max_new_tokens=12))
    assert done[0].tokens == generated(model, prompt, 12)


def test_pages_of_a_weight_are_given_back() -> None:
    from runtime.models.memory import give_back

    weight = torch.ones(1 << 20)
    give_back(weight)
    assert float(weight.sum()) <= 2 * 4096 / 4  # what is left lies on the pages at its two ends


PEAK = """
import re, sys
from pathlib import Path
from runtime.models.load import load_model

def told(name):
    return int(re.search(name + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024

for folder in sys.argv[1:]:  # the first for what is loaded once
    before = told("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    load_model(folder, "bfloat16")
    print(told("VmHWM") - before)
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak of memory is read from /proc")
def test_weights_that_are_converted_are_in_memory_once(tmp_path: Path) -> None:
    """A folder in float32 beside the same in bfloat16: mapped, its file would add twice the weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    shape: dict[str, Any] = dict(vocab_size=4096, hidden_size=1024, intermediate_size=2048, num_attention_heads=8,
                                 max_position_embeddings=64, num_hidden_layers=3)  # fmt: skip
    model = LlamaForCausalLM(LlamaConfig(**shape))
    weights = 2 * model.num_parameters()
    model.save_pretrained(tmp_path / "float32")
    model.bfloat16().save_pretrained(tmp_path / "bfloat16")
    tiny_model("llama").save_pretrained(tmp_path / "small")

    def peak(name: str) -> int:
        command = [sys.executable, "-c", PEAK, str(tmp_path / "small"), str(tmp_path / name)]
        return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])

    assert peak("float32") < peak("bfloat16") + weights


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_a_weight_is_converted_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    """However large an embedding is, no more of it than a piece is in memory in both types."""
    from runtime.models import transformers as loading

    model, sizes, put = tiny_model("llama"), list[int](), torch.Tensor.__setitem__
    model.save_pretrained(tmp_path)
    whole = loading.load_transformers(tmp_path, dtype).state_dict()

    def seen(made: torch.Tensor, place: Any, value: Any) -> None:
        sizes.append(value.numel())
        put(made, place, value)

    with monkeypatch.context() as patched:
        patched.setattr(loading, "_PIECE", 100)
        patched.setattr(torch.Tensor, "__setitem__", seen)
        parts = loading.load_transformers(tmp_path, dtype).state_dict()
    widest = max(weight.shape[-1] for weight in whole.values())
    assert bool(sizes) == (dtype != torch.float32) and max(sizes, default=0) <= max(widest, 100)
    for name, weight in model.state_dict().items():
        assert torch.equal(whole[name], weight.to(dtype)) and torch.equal(parts[name], weight.to(dtype))


def test_a_release_that_reads_weights_by_another_name_loads_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from runtime.models import transformers as loading

    tiny_model("llama").save_pretrained(tmp_path)
    expected = loading.load_transformers(tmp_path, torch.bfloat16).state_dict()
    monkeypatch.setattr(loading, "_copied_by", lambda _: None)
    monkeypatch.setattr(loading._Weight, "converted", None)
    found = loading.load_transformers(tmp_path, torch.bfloat16).state_dict()
    assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)
