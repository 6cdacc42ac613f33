"""What a configuration leaves to its family: tied heads, which layers have experts, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from reader_theory.cost.model import ModelShape
from reader_theory.errors import InvalidInputError

SIZES = {"hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 12, "vocab_size": 100}
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
