"""Any model is right, or refused when it is loaded: windows, chunks, states, positions; a few rows of the matrix."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from proofs_tests.models.matrix import build, try_one
from proofs_tests.tiny import generated, random_prompts, tiny_model
from reader_theory.errors import InvalidInputError
from runtime.engine.engine import Engine
from runtime.engine.sampling import SamplingParams
from runtime.models.base import LanguageModel
from runtime.models.check import SelfCheck
from runtime.models.layers import masks_by_kind
from runtime.models.load import load_model, wrap
from runtime.models.transformers import TransformersModel


@cache
def _draft() -> LanguageModel:
    return wrap(tiny_model("llama", hidden=32, layers=1, seed=1))


@pytest.mark.parametrize(
    "family", ["mistral", "gemma2", "gemma3_text", "qwen2", "gpt_oss", "llama4_text", "falcon", "gptj"]
)
def test_families_equal_generate_inside_and_past_their_windows(family: str) -> None:
    extra = {"use_sliding_window": True, "max_window_layers": 1} if family == "qwen2" else {}
    row = try_one(family, "", extra, _draft())
    assert row is not None and row.verdict == "equal", row


@pytest.mark.parametrize(
    ("family", "why"),
    [("mamba", "state"), ("qwen3_next", "state"), ("bloom", "ALiBi"), ("gpt_neo", "logits off"), ("lfm2", "state")],
)
def test_what_cannot_be_served_is_refused_with_the_reason(family: str, why: str) -> None:
    model = build(family, {})
    assert model is not None
    with pytest.raises(InvalidInputError, match=why):
        wrap(model)


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
