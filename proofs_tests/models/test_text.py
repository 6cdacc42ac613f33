"""One way from text to tokens: engine, prompts file and chat give the tokenizer's own special tokens, once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from reader_theory.errors import InvalidInputError
from runtime.engine.request import encode
from runtime.measure.prompts import read_prompts
from runtime.models.text import encode_chat, encode_text

TEMPLATE = "<s>{% for m in messages %}{{ m['role'][0] }} {{ m['content'] }} {% endfor %}"
PICKY = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
WORDS = {"<s>": 0, "a": 1, "b": 2, "u": 3, "s": 4, "[U]": 5}


def tokenizer(template: str | None = TEMPLATE) -> Any:
    raw = Tokenizer(models.WordLevel(WORDS, unk_token="[U]"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    raw.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    made = PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<s>", unk_token="[U]")
    made.chat_template = template
    return made


def test_engine_and_prompts_file_encode_alike(tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text(json.dumps({"text": "a b"}) + "\n")
    (read,) = read_prompts(tmp_path / "p.jsonl", tokenizer())
    assert encode("a b", tokenizer()).tolist() == read.tokens.tolist() == [0, 1, 2]


def test_a_text_that_spells_its_first_token_gets_no_second_one() -> None:
    assert encode_text(tokenizer(), "<s> a").tolist() == encode_text(tokenizer(), "a").tolist() == [0, 1]


def test_a_template_holds_the_special_tokens_itself() -> None:
    messages = [{"role": "user", "content": "a"}]
    assert encode_chat(tokenizer(), messages).tolist() == [0, 3, 1]
    assert encode_chat(tokenizer(TEMPLATE.removeprefix("<s>")), messages).tolist() == [3, 1]


def test_a_base_model_gets_the_messages_joined() -> None:
    messages = [
        {"role": "system", "content": "a"},
        {"role": "assistant", "content": ""},
        {"role": "user", "content": "b"},
    ]
    assert encode_chat(tokenizer(None), messages).tolist() == encode_text(tokenizer(), "a\n\nb").tolist()


def test_what_a_template_refuses_is_said() -> None:
    with pytest.raises(InvalidInputError, match=r"System role not supported.*--plain"):
        encode_chat(tokenizer(PICKY), [{"role": "system", "content": "a"}])
