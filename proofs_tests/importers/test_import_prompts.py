"""Recorded conversations become prompts that end where an answer began; what is none is refused by its line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from reader_theory.errors import InvalidInputError
from runtime.importers import ImportedPrompt, read_openai_jsonl, read_sharegpt, write_prompts
from runtime.measure.prompts import read_prompts

CONVERSATION = {
    "id": "abc",
    "conversations": [
        {"from": "system", "value": "Be brief."},
        {"from": "human", "value": "One?"},
        {"from": "gpt", "value": "1"},
        {"from": "human", "value": "Two?"},
        {"from": "gpt", "value": "2"},
    ],
}


def sharegpt(folder: Path, *conversations: Any) -> Path:
    path = folder / "sharegpt.json"
    path.write_text(json.dumps(list(conversations)))
    return path


def jsonl(folder: Path, *lines: Any) -> Path:
    path = folder / "requests.jsonl"
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    return path


def roles(messages: list[dict[str, str]]) -> str:
    return "|".join(f"{message['role']}:{message['content']}" for message in messages)


def test_a_conversation_is_cut_before_its_answers(tmp_path: Path) -> None:
    prompts = read_sharegpt(sharegpt(tmp_path, CONVERSATION), turns=2, render=roles)
    assert [(p.text, p.reference) for p in prompts] == [
        ("system:Be brief.|user:One?", "1"),
        ("system:Be brief.|user:One?|assistant:1|user:Two?", "2"),
    ]
    assert [p.id for p in read_sharegpt(sharegpt(tmp_path, CONVERSATION))] == ["abc-0"]


def test_conversations_that_nobody_answered_are_left_out(tmp_path: Path) -> None:
    alone = {"id": "x", "conversations": [{"from": "gpt", "value": "Hello"}, {"from": "human", "value": "Bye"}]}
    assert len(read_sharegpt(sharegpt(tmp_path, alone, CONVERSATION))) == 1
    with pytest.raises(InvalidInputError, match="turn that is answered"):
        read_sharegpt(sharegpt(tmp_path, alone))


@pytest.mark.parametrize(
    "damaged", [{"messages": []}, {"conversations": [{"role": "user"}]}, 3, {"conversations": None}]
)
def test_a_damaged_conversation_is_named(tmp_path: Path, damaged: Any) -> None:
    with pytest.raises(InvalidInputError, match="conversation 2"):
        read_sharegpt(sharegpt(tmp_path, CONVERSATION, damaged))


def test_requests_of_every_shape_are_read(tmp_path: Path) -> None:
    chat = [{"role": "system", "content": "S"}, {"role": "user", "content": [{"type": "text", "text": "U"}]}]
    answered = [*chat, {"role": "assistant", "content": "A"}]
    batch = {"custom_id": "r-1", "method": "POST", "url": "/v1/chat/completions", "body": {"messages": chat}}
    lines = ({"messages": answered}, batch, {"prompt": "P", "id": 9}, {"prompt": ["Q"]})
    prompts = read_openai_jsonl(jsonl(tmp_path, *lines), workload="mine", render=roles)
    assert [(p.id, p.text, p.reference) for p in prompts] == [
        ("1", "system:S|user:U", "A"), ("r-1", "system:S|user:U", None), ("9", "P", None), ("4", "Q", None),
    ]  # fmt: skip
    assert {p.workload for p in prompts} == {"mine"}


@pytest.mark.parametrize(
    "damaged", [{"prompt": [1, 2]}, {"messages": []}, {"body": 3}, "text", {"messages": [{"role": 1}]}]
)
def test_a_line_that_is_no_request_is_named(tmp_path: Path, damaged: Any) -> None:
    with pytest.raises(InvalidInputError, match="line 2"):
        read_openai_jsonl(jsonl(tmp_path, {"prompt": "fine"}, damaged))


def test_a_line_that_is_not_json_is_named(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text('{"prompt": "fine"}\n\n{"prompt": \n')
    with pytest.raises(InvalidInputError, match="line 3"):
        read_openai_jsonl(path)
    path.write_text("{}")
    with pytest.raises(InvalidInputError, match="one JSON array"):
        read_sharegpt(path)
    with pytest.raises(InvalidInputError, match="must exist"):
        read_sharegpt(tmp_path / "nowhere")


def test_line_separators_inside_a_text_do_not_split_it(tmp_path: Path) -> None:
    (prompt,) = read_openai_jsonl(jsonl(tmp_path, {"prompt": "a\u2028b\u0085c"}))
    assert prompt.text == "a\u2028b\u0085c"


def test_written_prompts_are_what_record_reads(tmp_path: Path) -> None:
    prompts = [ImportedPrompt("a", "chat", "one\u2028é"), ImportedPrompt("a", "chat", "two", "ref")]
    path = write_prompts(tmp_path / "p.jsonl", prompts)
    read = read_prompts(path, lambda text: {"input_ids": [ord(c) for c in text]})
    assert [(p.id, p.workload) for p in read] == [("a", "chat"), ("a#2", "chat")]
    assert "".join(map(chr, read[0].tokens)) == "one\u2028é"
