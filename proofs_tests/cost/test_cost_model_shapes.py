"""Model shapes: parameter counts and KV bytes of public configurations, and operators that add up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reader_theory.cost.known import known_shape
from reader_theory.cost.model import ModelShape
from reader_theory.errors import InvalidInputError

LLAMA: dict[str, Any] = dict(
    model_type="llama",
    hidden_size=4096,
    num_attention_heads=32,
    num_key_value_heads=8,
    num_hidden_layers=32,
    intermediate_size=14336,
    vocab_size=128256,
    tie_word_embeddings=False,
)
MIXTRAL = {**LLAMA, "model_type": "mixtral", "num_local_experts": 8, "num_experts_per_tok": 2, "vocab_size": 32000}
DEEPSEEK = dict(
    model_type="deepseek_v3",
    hidden_size=7168,
    num_attention_heads=128,
    num_hidden_layers=61,
    intermediate_size=18432,
    moe_intermediate_size=2048,
    n_routed_experts=256,
    n_shared_experts=1,
    num_experts_per_tok=8,
    first_k_dense_replace=3,
    vocab_size=129280,
    kv_lora_rank=512,
    q_lora_rank=1536,
    qk_nope_head_dim=128,
    qk_rope_head_dim=64,
    v_head_dim=128,
    tie_word_embeddings=False,
    quantization_config={"quant_method": "fp8"},
)
GPT2 = dict(model_type="gpt2", n_embd=768, n_head=12, n_layer=12, vocab_size=50257)


@pytest.mark.parametrize(
    ("config", "billions", "active", "kv_bytes"),
    [
        (LLAMA, 8.03, 8.03, 131072),
        (MIXTRAL, 46.7, 12.9, 131072),
        (DEEPSEEK, 671.0, 37.6, 70272),
        (GPT2, 0.1236, 0.1236, 36864),
    ],
    ids=["grouped-query", "experts", "latent", "gpt2"],
)
def test_parameters_and_kv_are_those_of_the_published_models(
    config: dict[str, Any], billions: float, active: float, kv_bytes: float
) -> None:
    shape = ModelShape.from_config(config)
    assert shape.parameters() / 1e9 == pytest.approx(billions, rel=5e-3)
    assert shape.parameters(active=True) / 1e9 == pytest.approx(active, rel=5e-3)
    assert shape.kv_bytes_per_token() == kv_bytes


def test_a_configuration_is_read_from_its_file_and_folder(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    assert ModelShape.from_config(tmp_path) == ModelShape.from_config(tmp_path / "config.json")
    nested = ModelShape.from_config({"model_type": "vision", "text_config": LLAMA})
    assert nested.layers == 32 and nested.gated


def test_a_missing_size_is_named() -> None:
    with pytest.raises(InvalidInputError, match="num_hidden_layers"):
        ModelShape.from_config({k: v for k, v in LLAMA.items() if k != "num_hidden_layers"})


@pytest.mark.parametrize(
    ("quantization", "bits"),
    [
        (None, 16.0),
        ({"quant_method": "fp8"}, 8.0),
        ({"quant_method": "awq", "bits": 4, "group_size": 128}, 4 + 20 / 128),
        ({"quant_method": "mxfp4"}, 4.25),
        ({"config_groups": {"g": {"weights": {"num_bits": 4, "group_size": 32}}}}, 4.5),
    ],
)
def test_quantised_weights_carry_their_scales(quantization: Any, bits: float) -> None:
    assert ModelShape.from_config({**LLAMA, "quantization_config": quantization}).weight_bits == bits


@given(tokens=st.integers(1, 512), tp=st.sampled_from([1, 2, 4, 8]))
def test_linear_flops_are_two_per_active_weight_and_token_and_split_over_devices(tokens: int, tp: int) -> None:
    shape = known_shape("Llama-3.1-8B")
    whole, part = (shape.operators(tokens, batch=1, tensor_parallel=n) for n in (1, tp))
    flops = sum(o.flops for o in whole if o.kind in ("linear", "head"))
    weights = shape.parameters() - shape.vocabulary * shape.hidden
    assert flops == pytest.approx(2 * weights * tokens)
    assert sum(o.weight_bytes for o in part) == pytest.approx(sum(o.weight_bytes for o in whole) / tp)


def test_experts_are_read_as_often_as_tokens_touch_them() -> None:
    shape = ModelShape.from_config(MIXTRAL)
    assert shape.experts is not None
    assert shape.experts.touched(1) == pytest.approx(2) and shape.experts.touched(64) == pytest.approx(8, rel=1e-6)
    read = {t: next(o for o in shape.operators(t, batch=t) if o.kind == "experts").moved_bytes for t in (1, 64)}
    assert 3.9 < read[64] / read[1] < 4.1
