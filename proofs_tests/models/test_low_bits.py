"""Targets of 8 and 4 bits: weights are what their codes say, both forwards are one model, drafts change no text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from proofs_tests.tiny import POLICIES, random_prompts, tiny_model
from reader_theory.errors import InvalidInputError
from runtime.engine.engine import Engine
from runtime.engine.sampling import SamplingParams
from runtime.measure.run import _near_tie
from runtime.models.check import COARSE
from runtime.models.house import house_folder
from runtime.models.inputs import teacher_forced
from runtime.models.lean import LeanModel
from runtime.models.load import load_model, wrap
from runtime.models.low_bits import GROUP, LARGEST, QUANTISED, Codes, PackedCodes, QuantisedLinear, quantise
from runtime.models.transformers import TransformersModel

BITS = sorted(QUANTISED.values())


@given(st.sampled_from(BITS), st.integers(1, 3), st.integers(1, 4), st.floats(-6, 6), st.integers(0, 99))
def test_a_code_is_the_nearest_and_stands_for_itself(bits: int, n: int, k: int, scale: float, seed: int) -> None:
    weight = torch.randn(16 * n, GROUP * k, generator=torch.Generator().manual_seed(seed)) * 10.0**scale
    weight[0] = 0
    codes = Codes.of(weight, bits)
    step = codes.scales.repeat_interleave(weight.shape[1] // codes.scales.shape[1], dim=1)
    # Scales are rounded to bfloat16, so that a largest entry may lie beyond its largest code.
    assert bool(((codes.values - weight).abs() <= step * (0.5 + LARGEST[bits] * 2.0**-8)).all())
    assert torch.equal(Codes.of(codes.values, bits).codes, codes.codes)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("rows", [1, 2, 5, 8, 33, 70])
def test_the_product_is_that_of_the_values(bits: int, rows: int) -> None:
    codes, bias = Codes.of(torch.randn(48, 96), bits), torch.randn(48).bfloat16()
    x = torch.randn(rows, 96).bfloat16()
    found = PackedCodes(codes, bias)(x)
    expected = x.double() @ codes.values.double().t() + bias.double()
    assert found.dtype == torch.bfloat16 and found.shape == (rows, 48)
    torch.testing.assert_close(found.double(), expected, rtol=0.02, atol=0.1)


def test_bytes_are_those_of_codes_and_scales() -> None:
    weight = torch.randn(64, 128)
    assert Codes.of(weight, 8).size_bytes == 64 * 128 + 64 * 4
    assert Codes.of(weight, 4).size_bytes == 64 * 128 / 2 + 64 * (128 // GROUP) * 4


@pytest.mark.parametrize("name", QUANTISED)
@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "mistral"])
def test_both_forwards_run_the_quantised_model(name: str, family: str) -> None:
    """transformers' forward with the layers replaced, and ours with them joined and packed, are one model."""
    torch.manual_seed(0)
    model = type(tiny_model(family))(tiny_model(family).config).eval().bfloat16()
    quantise(model, name)
    linears = [module for module in model.modules() if isinstance(module, QuantisedLinear)]
    assert len(linears) == 2 * 7 + 1 and type(model.lm_head) is QuantisedLinear
    whole = [teacher_forced(TransformersModel(model), tokens[:8], tokens[8:]) for tokens in _texts()]
    ours = wrap(model, weights="take")  # its check compares trees over the cache with that forward
    assert isinstance(ours, LeanModel) and all(each.codes is None for each in linears)
    for tokens, expected in zip(_texts(), whole, strict=True):
        found = teacher_forced(ours, tokens[:8], tokens[8:])
        error = (found - expected).abs().amax(-1) / expected.abs().max()
        assert float(error.median()) < COARSE, error


def _texts() -> list[Any]:
    return [prompt.tokens[:20] for prompt in random_prompts(3)]


@pytest.mark.parametrize("name", QUANTISED)
def test_another_family_runs_as_transformers_has_it(name: str) -> None:
    import transformers as tf

    config = tf.Gemma3TextConfig(
        vocab_size=64, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, max_position_embeddings=256, sliding_window=8, pad_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    model = tf.AutoModelForCausalLM.from_config(config).eval().bfloat16()
    quantise(model, name)
    served = wrap(model, weights="take")
    assert isinstance(served, TransformersModel)
    assert all(each.codes is None for each in model.modules() if isinstance(each, QuantisedLinear))
    engine = Engine(served, max_batch=2, max_context=96)
    done = engine.generate([p.tokens[:20] for p in random_prompts(2)], SamplingParams(max_new_tokens=8))
    assert [len(each.tokens) for each in done] == [8, 8]


@pytest.mark.parametrize("name", QUANTISED)
def test_drafts_leave_the_text_of_the_house_target(name: str) -> None:
    target = load_model(house_folder("target"), name)
    rng = np.random.default_rng(0)
    passages = [rng.integers(0, target.vocabulary, n) for n in (3, 14, 6)]
    prompts = [np.tile(passage, 3) for passage in passages]  # repeated, so that look-ups find what comes next
    asked = SamplingParams(max_new_tokens=40, ignore_eos=True)
    texts: dict[str, list[Any]] = {}
    for which in ("off", "retrieval"):
        engine = Engine(target, max_batch=3, max_context=160, policy=POLICIES[which])
        texts[which] = [engine.add(prompt, asked) for prompt in prompts]
        while engine.step():
            pass
    assert sum(request.accepted for request in texts["retrieval"]) > 0
    for plain, drafted in zip(texts["off"], texts["retrieval"], strict=True):
        assert plain.output == drafted.output or _near_tie(drafted, plain, target)


def test_what_is_no_linear_layer_is_refused() -> None:
    with pytest.raises(InvalidInputError, match=r"most of its parameters in linear layers.*0% of"):
        quantise(type(tiny_model("gpt2"))(tiny_model("gpt2").config), "int8")


def test_a_type_that_is_not_known_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"one of float32.*int8, int4.*'int3'"):
        load_model(tmp_path, "int3")
