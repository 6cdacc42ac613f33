"""What a configuration leaves to its family: tied heads, which layers have experts, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from reader_theory.cost.device import find_device
from reader_theory.cost.model import ModelShape
from reader_theory.cost.step import StepCost
from reader_theory.cost.terms import StepConditions
from reader_theory.errors import InvalidInputError

SIZES = {"hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 12, "vocab_size": 100}
KINDS = [*["sliding_attention"] * 3, "full_attention"] * 3
SPARSE = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 32}


@pytest.mark.parametrize(
    ("family", "tied"),
    [("llama", False), ("mistral", False), ("qwen2", False), ("qwen3", False), ("phi3", False), ("gpt_neox", False),
     ("gptj", False), ("codegen", False), ("stablelm", False), ("gpt2", True), ("opt", True), ("bloom", True),
     ("mpt", True), ("falcon", True), ("gpt_bigcode", True), ("starcoder2", True), ("gpt_neo", True), ("gemma", True),
     ("gemma2", True), ("gemma3_text", True), ("cohere", True), ("cohere2", True), ("smollm3", True),
     ("ernie4_5", True), ("ernie4_5_moe", True)],
)  # fmt: skip
def test_a_head_is_tied_as_the_family_has_it_unless_the_configuration_says(family: str, tied: bool) -> None:
    assert ModelShape.from_config({**SIZES, "model_type": family}).tied is tied
    for told in (True, False):
        assert ModelShape.from_config({**SIZES, "model_type": family, "tie_word_embeddings": told}).tied is told


@pytest.mark.parametrize(
    ("told", "dense"),
    [({}, 0), ({"first_k_dense_replace": 3}, 3), ({"mlp_only_layers": [0, 5]}, 2), ({"decoder_sparse_step": 2}, 6),
     ({"decoder_sparse_step": 2, "mlp_only_layers": [1]}, 7), ({"interleave_moe_layer_step": 4}, 9),
     ({"moe_layers": [1, 3, 5]}, 9), ({"moe_layer_freq": 2, "first_k_dense_replace": 1}, 7),
     ({"moe_layer_freq": [0, *[1] * 11]}, 1), ({"moe_layer_start_index": 1}, 1)],
)  # fmt: skip
def test_layers_with_experts_are_counted_where_they_are(told: dict[str, Any], dense: int) -> None:
    shape = ModelShape.from_config({**SIZES, **SPARSE, "model_type": "a", **told})
    assert shape.experts is not None and shape.experts.dense_layers == dense
    assert shape.expert_layers() == 12 - dense


@pytest.mark.parametrize(
    "told",
    [{"compress_rates": {"compressed_sparse_attention": 4}}, {"compress_ratios": [4, 128]}, {"index_topk": 2048},
     {"layer_types": ["heavily_compressed_attention"] * 12}, {"layer_types": ["linear_attention"] * 12},
     {"linear_num_key_heads": 4}, {"mamba_d_state": 16}, {"is_encoder_decoder": True}],
)  # fmt: skip
def test_layers_that_do_not_read_all_keys_and_values_are_refused_with_the_reason(told: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError, match=r"attends to keys and values.*reader calibrate"):
        ModelShape.from_config({**SIZES, "model_type": "a", **told})


@pytest.mark.parametrize("written", [True, False])
@pytest.mark.parametrize(
    ("family", "told"),
    [("gemma2", {}), ("gemma3_text", {}), ("cohere2", {}), ("exaone4", {}), ("gpt_oss", {}), ("olmo3", {}),
     ("llama4_text", {}), ("mistral", {"sliding_window": 128}), ("starcoder2", {"sliding_window": 128}),
     ("phi3", {"sliding_window": 128}), ("mixtral", {"sliding_window": 128}), ("llama", {}), ("qwen2", {}),
     ("qwen2", {"use_sliding_window": True, "sliding_window": 128, "max_window_layers": 5}),
     ("qwen3", {"use_sliding_window": True, "sliding_window": 128, "max_window_layers": 9})],
)  # fmt: skip
def test_layers_of_a_window_are_those_that_transformers_makes(family: str, told: dict[str, Any], written: bool) -> None:
    """As the configuration's own `layer_types` have it, and where an older one leaves these out."""
    made = pytest.importorskip("transformers").AutoConfig.for_model(family, num_hidden_layers=12, **told).to_dict()
    kinds = made.get("layer_types") or ["sliding_attention" if told.get("sliding_window") else "full_attention"] * 12
    if not written:
        made.pop("layer_types", None)
    shape = ModelShape.from_config(made)
    assert shape.windowed == sum(kind != "full_attention" for kind in kinds)
    assert shape.window == (shape.windowed and (made.get("sliding_window") or made.get("attention_chunk_size")))


def test_attention_past_its_window_takes_no_longer() -> None:
    """Bytes and work of a model are those of its layers apart, each by what it reads; rooflines and fits alike."""
    plain = {**SIZES, "model_type": "mistral", "num_key_value_heads": 2, "head_dim": 128}
    whole, local = (ModelShape.from_config({**plain, "sliding_window": window}) for window in (None, 512))
    mixed = ModelShape.from_config({**plain, "sliding_window": 512, "layer_types": KINDS})
    for context in (16, 512, 4096):
        near, far = _attention(whole, min(context, 512)), _attention(whole, context)
        assert _attention(local, context) == pytest.approx(near)
        both = tuple((9 * a + 3 * b) / 12 for a, b in zip(near, far, strict=True))
        assert _attention(mixed, context) == pytest.approx(both)
    for device in ("h100", "l4"):
        step = StepCost(mixed, find_device(device)).model
        near, far = (float(step.parts(StepConditions(batch=64, context=c))["target attention"]) for c in (512, 8192))
        every = StepCost(whole, find_device(device)).model
        grown = [float(every.parts(StepConditions(batch=64, context=c))["target attention"]) for c in (512, 8192)]
        assert far - near == pytest.approx((grown[1] - grown[0]) * 3 / 12, rel=1e-6)


def test_layer_types_that_do_not_name_every_layer_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="name every layer"):
        ModelShape.from_config({**SIZES, "model_type": "a", "sliding_window": 8, "layer_types": KINDS[:5]})


def _attention(shape: ModelShape, context: int) -> tuple[float, float]:
    (found,) = (one for one in shape.operators(8, batch=2, context=context) if one.kind == "attention")
    return float(found.moved_bytes), float(found.flops)
