"""Any model is right, or refused when it is loaded: windows, chunks, states, positions; a few rows of the matrix."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from proofs_tests.models.matrix import ASKING, build, try_one
from proofs_tests.tiny import POLICIES, generated, random_prompts, tiny_model
from reader_theory.errors import InvalidInputError
from runtime.engine.engine import Engine
from runtime.engine.sampling import SamplingParams
from runtime.models.check import SelfCheck
from runtime.models.layers import masks_by_kind
from runtime.models.load import load_model, wrap
from runtime.models.transformers import TransformersModel


@cache
def _draft() -> Any:
    return tiny_model("llama", hidden=32, layers=1, seed=1)


@pytest.mark.parametrize(
    "family", ["mistral", "gemma2", "gemma3_text", "qwen2", "gpt_oss", "llama4_text", "deepseek_v3", "gptj"]
)
def test_families_equal_generate_inside_and_past_their_windows(family: str) -> None:
    extra = {"use_sliding_window": True, "max_window_layers": 1} if family == "qwen2" else {}
    row = try_one(family, "", extra, _draft())
    assert row is not None and row.verdict == "equal", row


@pytest.mark.parametrize(
    ("family", "why"),
    [
        ("mamba", "state"),
        ("qwen3_next", "state"),
        ("bloom", "ALiBi"),
        ("gpt_neo", "counts slots of the cache"),
        ("lfm2", "state"),
    ],
)
def test_what_cannot_be_served_is_refused_with_the_reason(family: str, why: str) -> None:
    model = build(family, {})
    assert model is not None
    with pytest.raises(InvalidInputError, match=why):
        wrap(model)


@pytest.mark.parametrize(
    ("family", "extra", "why"),
    [
        ("llama", {"is_causal": False}, "is_causal: false"),
        ("gpt2", {"is_causal": False}, "is_causal: false"),
        ("gemma3_text", {"use_bidirectional_attention": True}, "use_bidirectional_attention: true"),
        ("gemma", {"use_bidirectional_attention": True}, "use_bidirectional_attention: true"),
        ("bert", {"is_decoder": False}, "later tokens move its logits"),
        ("big_bird", {}, "later tokens move its logits"),
        ("mistral", {"sliding_window": 1}, "token by token over its own cache"),
        ("gpt_oss", {"sliding_window": 1}, "token by token over its own cache"),
        ("llama4_text", {"attention_chunk_size": 1}, "token by token over its own cache"),
    ],
)  # fmt: skip
def test_what_is_not_causal_or_parts_from_its_own_cache_is_refused(
    family: str, extra: dict[str, Any], why: str
) -> None:
    model = build(family, extra)
    assert model is not None
    with pytest.raises(InvalidInputError, match=why):
        wrap(model)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_to_later_tokens_is_measured_whatever_the_configuration_says(dtype: torch.dtype) -> None:
    model = build("llama", {})
    assert model is not None
    SelfCheck(model.to(dtype))
    model.config.is_causal = False
    with pytest.raises(InvalidInputError, match="later tokens move its logits"):
        SelfCheck(model)


def test_windows_and_chunks_count_positions_along_a_path_not_slots() -> None:
    hidden = -1e9
    mask = torch.full((1, 1, 2, 8), hidden)
    mask[0, 0, 0, [0, 1, 2, 3]] = 0
    mask[0, 0, 1, [0, 1, 2, 4, 7]] = 0  # a node whose ancestor lies two slots before it
    masks = masks_by_kind(mask, {"full_attention": None, "sliding_attention": 3, "chunked_attention": 4}, hidden, 5)
    seen = {kind: [np.flatnonzero(row == 0).tolist() for row in each[0, 0].numpy()] for kind, each in masks.items()}
    assert seen == {
        "full_attention": [[0, 1, 2, 3], [0, 1, 2, 4, 7]],
        "sliding_attention": [[1, 2, 3], [2, 4, 7]],
        "chunked_attention": [[0, 1, 2, 3], [7]],
    }
    assert masks_by_kind(mask, {"sliding_attention": 5}, hidden, 5) is mask


def test_a_window_wider_than_the_check_is_narrowed_while_it_runs() -> None:
    model = build("mistral", {"sliding_window": 100})
    assert model is not None
    trial = SelfCheck(model)
    assert len(trial.prompts[1]) == 10 and model.config.sliding_window == 100

    class Blind(TransformersModel):
        def forward(self, *args: Any, **options: Any) -> Any:
            self.model.config.sliding_window, held = None, self.model.config.sliding_window
            try:
                return super().forward(*args, **options)
            finally:
                self.model.config.sliding_window = held

    with pytest.raises(InvalidInputError, match="logits off"):
        trial.compare(Blind(model))
    trial.compare(TransformersModel(model))


def test_rows_end_where_rotations_would_change() -> None:
    rope = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 4, "long_factor": [3.0] * 4}
    model = build("phi3", {"rope_parameters": rope, "original_max_position_embeddings": 40, "sliding_window": None})
    assert model is not None
    target = wrap(model)
    assert target.max_positions == 40
    engine, prompt = Engine(target, max_batch=1, max_context=64), random_prompts(1)[0].tokens[:20]
    short = engine.generate([prompt], SamplingParams(max_new_tokens=12))[0]
    assert short.tokens == generated(model, prompt, 12)


@pytest.mark.parametrize(("family", "drafts"), [("gpt2", "both"), ("llama", "chain"), ("phi3", "retrieval")])
def test_no_row_goes_past_the_positions_of_its_model(family: str, drafts: str) -> None:
    rope = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 4, "long_factor": [3.0] * 4}
    growing = {"rope_parameters": rope, "original_max_position_embeddings": 40, "sliding_window": None}
    model = build(family, growing if family == "phi3" else {"max_position_embeddings": 40})
    assert model is not None
    draft = wrap(_draft()) if drafts in ASKING else None
    engine = Engine(wrap(model), draft, policy=POLICIES[drafts], max_batch=3, max_context=128)
    prompts = [np.resize(np.arange(3, 12), length) for length in (30, 31, 12)]
    full, beyond, short = engine.generate(prompts, SamplingParams(max_new_tokens=10))
    assert full.tokens == generated(model, prompts[0], 10) and short.tokens == generated(model, prompts[2], 10)
    assert beyond.finish.startswith("error") and not beyond.tokens


@pytest.mark.parametrize(
    ("family", "extra", "most"),
    [("gpt_neo", {"window_size": 200}, 200), ("llama4_text", {"floor_scale": 200, "no_rope_layers": [0, 1]}, 99)],
)
def test_what_the_check_cannot_reach_bounds_the_rows(family: str, extra: dict[str, Any], most: int) -> None:
    model = build(family, extra)
    assert model is not None
    assert wrap(model).max_positions == most


def _with_adapter(model: Any) -> None:
    inner = model.model.layers[0].mlp.up_proj

    class Adapted(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.base, self.added = inner, torch.nn.Linear(inner.in_features, inner.out_features)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.base(x) + self.added(x)

    model.model.layers[0].mlp.up_proj = Adapted()


def _with_hook(model: Any) -> None:
    model.model.layers[1].register_forward_hook(lambda _module, _given, out: out * torch.linspace(1, 2, out.shape[-1]))


def _with_other_forward(model: Any) -> None:
    norm = model.model.norm
    norm.forward = lambda x: type(norm).forward(norm, x) * torch.linspace(1, 2, x.shape[-1])


@pytest.mark.parametrize("change", [_with_adapter, _with_hook, _with_other_forward])
def test_what_is_added_after_wrapping_is_refused_and_then_served(change: Callable[[Any], None]) -> None:
    model = build("llama", {})
    assert model is not None
    prompt, params = random_prompts(1)[0].tokens, SamplingParams(max_new_tokens=8)
    engine = Engine(wrap(model), max_batch=1, max_context=64)
    before = engine.generate([prompt], params)[0].tokens
    change(model)
    with pytest.raises(InvalidInputError, match="as it was when it was wrapped"):
        engine.generate([prompt], params)
    after = Engine(wrap(model), max_batch=1, max_context=64).generate([prompt], params)[0].tokens
    assert after == generated(model, prompt, 8) != before


def test_a_model_in_training_mode_is_left_in_it() -> None:
    model = build("gpt2", {"resid_pdrop": 0.5})
    assert model is not None
    prompt, params = random_prompts(1)[0].tokens, SamplingParams(max_new_tokens=8)
    expected = generated(model, prompt, 8)
    model.train()
    model.transformer.h[0].eval()
    before = [module.training for module in model.modules()]
    assert Engine(wrap(model), max_batch=1, max_context=64).generate([prompt], params)[0].tokens == expected
    assert [module.training for module in model.modules()] == before


@pytest.mark.parametrize("odd", ["missing", "unexpected"])
def test_a_checkpoint_with_other_weights_is_refused(tmp_path: Path, odd: str) -> None:
    from safetensors.torch import load_file, save_file

    tiny_model("qwen3").save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    if odd == "missing":
        weights.pop("model.layers.0.mlp.up_proj.weight")
    else:
        weights["model.layers.0.mlp.lora_A.weight"] = torch.zeros(2, 2)
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InvalidInputError, match=odd):
        load_model(tmp_path)


def test_soft_caps_are_kept_when_a_folder_is_loaded(tmp_path: Path) -> None:
    model = build("gemma2", {"attn_logit_softcapping": 1.0})
    assert model is not None
    model.save_pretrained(tmp_path)
    prompt, target = random_prompts(1)[0].tokens, load_model(tmp_path)
    assert isinstance(target, TransformersModel) and target.model.config._attn_implementation == "eager"
    done = Engine(target, max_batch=1, max_context=64).generate([prompt], SamplingParams(max_new_tokens=8))
    assert done[0].tokens == generated(model, prompt, 8)
