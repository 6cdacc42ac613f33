"""The engine behind transformers' own `generate`."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from proofs_tests.tiny import POLICIES, generated, random_prompts, tiny_model
from reader_theory.errors import InvalidInputError
from runtime.plugins.transformers import speculative


def test_generate_gives_what_it_gives_without_the_engine() -> None:
    model = tiny_model("llama")
    method = speculative(tiny_model("llama", hidden=32, layers=1, seed=1), POLICIES["both"])
    for prompt in random_prompts(3):
        ids = torch.from_numpy(prompt.tokens)[None]
        mask = torch.ones_like(ids)
        out = model.generate(
            ids, attention_mask=mask, max_new_tokens=16, do_sample=False, pad_token_id=0, custom_generate=method
        )
        assert out[0, : ids.shape[1]].tolist() == prompt.tokens.tolist()
        assert out[0, ids.shape[1] :].tolist() == generated(model, prompt.tokens, 16)


def test_a_left_padded_batch_gives_what_each_row_gives_alone() -> None:
    model, prompts = tiny_model("llama"), [p.tokens for p in random_prompts(3)]
    width = max(map(len, prompts))
    ids, mask = torch.zeros((3, width), dtype=torch.int64), torch.zeros((3, width), dtype=torch.int64)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :], mask[row, width - len(prompt) :] = torch.from_numpy(prompt), 1
    stop = generated(model, prompts[0], 16)[7]
    out = model.generate(
        ids,
        attention_mask=mask,
        max_new_tokens=16,
        do_sample=False,
        pad_token_id=0,
        eos_token_id=stop,
        custom_generate=speculative(policy=POLICIES["retrieval"]),
    )
    for row, prompt in enumerate(prompts):
        whole = generated(model, prompt, 16)
        kept = whole[: whole.index(stop) + 1] if stop in whole else whole
        assert out[row, width : width + len(kept)].tolist() == kept
        assert not out[row, width + len(kept) :].any(), "padded behind the stop token"


@pytest.mark.parametrize(
    "options",
    [
        {"num_beams": 2}, {"no_repeat_ngram_size": 2}, {"return_dict_in_generate": True}, {"assistant_early_exit": 1},
        {"penalty_alpha": 0.6, "top_k": 4}, {"prompt_lookup_num_tokens": 3},
    ],
)  # fmt: skip
def test_what_the_engine_lacks_is_refused(options: dict[str, Any]) -> None:
    ids = torch.ones((1, 4), dtype=torch.int64)
    with pytest.raises(InvalidInputError, match=r"`generate` must|`return_dict_in_generate`"):
        tiny_model("llama").generate(
            ids, attention_mask=ids, max_new_tokens=4, pad_token_id=0, custom_generate=speculative(), **options
        )


def _cached(model: Any) -> Any:
    return model(torch.tensor([[3]]), use_cache=True).past_key_values


@pytest.mark.parametrize(
    ("family", "name", "value"),
    [
        ("gpt2", "token_type_ids", torch.ones((1, 4), dtype=torch.int64)),
        ("gpt2", "position_ids", torch.arange(4)[None] + 2),
        ("llama", "position_ids", torch.tensor([[0, 1, 1, 2]])),
        ("llama", "attention_mask", torch.tensor([[1, 0, 1, 1]])),
        ("llama", "attention_mask", torch.tensor([[1, 1, 1, 0]])),
        ("llama", "past_key_values", _cached),
        ("llama", "inputs_embeds", torch.ones((1, 4, 64))),
        ("llama", "assistant_tokenizer", object()),
    ],
)
def test_inputs_beside_tokens_are_refused_by_name(family: str, name: str, value: Any) -> None:
    model, ids = tiny_model(family), torch.ones((1, 4), dtype=torch.int64)
    told = {"attention_mask": ids, name: value(model) if callable(value) else value}
    given = {} if name == "inputs_embeds" else {"input_ids": ids}
    with pytest.raises(InvalidInputError, match=name):
        model.generate(**given, **told, max_new_tokens=4, pad_token_id=0, custom_generate=speculative())


def _seeing() -> Any:
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    text = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "head_dim": 8,
            "num_key_value_heads": 2, "intermediate_size": 64, "initializer_range": 0.3, "sliding_window": 16,
            "pad_token_id": 0, "eos_token_id": None, "bos_token_id": None}  # fmt: skip
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
              "image_size": 28, "patch_size": 14, "vision_use_head": False}  # fmt: skip
    config = Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4, image_token_index=63,
                          boi_token_index=61, eoi_token_index=62)  # fmt: skip
    torch.manual_seed(0)
    return Gemma3ForConditionalGeneration(config).eval()


def test_a_model_that_sees_answers_text_and_refuses_pictures() -> None:
    model, prompt = _seeing(), random_prompts(1)[0].tokens
    method = speculative(policy=POLICIES["retrieval"])
    ids = torch.from_numpy(prompt)[None]
    options: dict[str, Any] = dict(attention_mask=torch.ones_like(ids), max_new_tokens=8, do_sample=False)
    assert model.generate(ids, **options, custom_generate=method).tolist() == model.generate(ids, **options).tolist()
    for name, value in (
        ("pixel_values", torch.zeros((1, 3, 28, 28))), ("token_type_ids", torch.ones_like(ids)),
    ):  # fmt: skip
        with pytest.raises(InvalidInputError, match=name):
            model.generate(ids, **options, **{name: value}, custom_generate=method)


def test_penalties_of_the_generation_configuration_are_honoured() -> None:
    from transformers import GenerationConfig, LogitsProcessor

    class Penalties(LogitsProcessor):
        def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            times = torch.bincount(input_ids[0, len(prompt) :], minlength=scores.shape[-1])
            return scores - 1.0 * (times > 0) - 1.5 * times

    model, prompt = tiny_model("llama"), random_prompts(2)[1].tokens
    ids = torch.from_numpy(prompt)[None]
    asked = {"attention_mask": torch.ones_like(ids), "pad_token_id": 0}
    theirs = model.generate(ids, max_new_tokens=16, do_sample=False, logits_processor=[Penalties()], **asked)
    config = GenerationConfig(max_new_tokens=16, do_sample=False, presence_penalty=1.0, frequency_penalty=1.5)
    method = speculative(policy=POLICIES["retrieval"])
    ours = model.generate(ids, generation_config=config, custom_generate=method, **asked)
    assert ours.tolist() == theirs.tolist() != [[*prompt.tolist(), *generated(model, prompt, 16)]]


class _Heard:
    """A streamer that keeps what it hears."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.ended = False

    def put(self, value: torch.Tensor) -> None:
        self.tokens += value.flatten().tolist()

    def end(self) -> None:
        self.ended = True


def test_sampled_calls_differ_and_follow_torchs_seed() -> None:
    model, method = tiny_model("llama"), speculative(policy=POLICIES["retrieval"])
    ids = torch.tensor([[5, 6, 7, 8], [5, 6, 7, 8]])

    def call() -> list[list[int]]:
        options = dict(attention_mask=torch.ones_like(ids), max_new_tokens=12, pad_token_id=0, do_sample=True)
        return model.generate(ids, custom_generate=method, temperature=3.0, **options).tolist()

    torch.manual_seed(1)
    first, second = call(), call()
    torch.manual_seed(1)
    assert call() == first != second and first[0] != first[1]


@pytest.mark.parametrize("training", [False, True])
def test_a_streamer_hears_all_and_an_assistant_drafts(training: bool) -> None:
    model, draft, heard = tiny_model("llama"), tiny_model("llama", hidden=32, layers=1, seed=1), _Heard()
    prompt = random_prompts(1)[0].tokens
    ids = torch.from_numpy(prompt)[None]
    model.train(training)
    try:
        out = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=12,
            do_sample=False,
            pad_token_id=0,
            streamer=heard,
            assistant_model=draft,
            custom_generate=speculative(),
        )
        assert model.training is training
    finally:
        model.eval()
    assert heard.ended and heard.tokens == out[0].tolist()
    assert out[0, len(prompt) :].tolist() == generated(model, prompt, 12)
