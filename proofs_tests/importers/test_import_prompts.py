"""Prompts come out of what people have: every format by its content, in any wrapping; what is none is named."""

from __future__ import annotations

import bz2
import codecs
import contextlib
import gzip
import json
import lzma
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reader_theory.errors import InvalidInputError
from runtime.importers import PROMPT_FORMATS, ImportedPrompt, read_prompt_file, write_prompts
from runtime.importers.prompts import PromptFormat
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
WEATHER = {"type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}
CALLS = [
    {"role": "user", "content": "Weather in Oslo?"},
    {"role": "assistant", "content": None, "tool_calls": [{"id": "c1", **WEATHER}]},
    {"role": "tool", "tool_call_id": "c1", "content": "4 degrees"},
]
ITEMS = [
    {"role": "user", "content": [{"type": "input_text", "text": "Weather in Oslo?"}]},
    {"type": "reasoning", "summary": []},
    {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": '{"city": "Oslo"}'},
    {"type": "function_call_output", "call_id": "c1", "output": "4 degrees"},
]


def sharegpt(folder: Path, *conversations: Any) -> Path:
    path = folder / "sharegpt.json"
    path.write_text(json.dumps(list(conversations)))
    return path


def jsonl(folder: Path, *lines: Any) -> Path:
    path = folder / "requests.jsonl"
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    return path


def said(prompt: ImportedPrompt) -> str:
    return prompt.text or "|".join(f"{message['role']}:{message['content']}" for message in prompt.messages)


EXAMPLES: dict[str, tuple[Any, str, str, str | None]] = {
    "text": ({"text": "Once"}, "Once", "default", None),
    "mt-bench": (
        {"question_id": 81, "category": "writing", "turns": ["One?", "Two?"]}, "user:One?", "writing", None,
    ),
    "humaneval": (
        {"task_id": "HumanEval/0", "prompt": "def f():\n", "entry_point": "f", "canonical_solution": "  pass"},
        "def f():\n", "code", "  pass",
    ),
    "sharegpt": (CONVERSATION, "system:Be brief.|user:One?", "chat", "1"),
    "openai": ({"messages": CALLS}, "user:Weather in Oslo?|assistant:|tool:4 degrees", "chat", None),
    "responses": (
        {"input": ITEMS, "instructions": "Be brief."},
        "system:Be brief.|user:Weather in Oslo?|assistant:|tool:4 degrees", "chat", None,
    ),
    "alpaca": (
        {"instruction": "Add.", "input": "1 2", "output": "3"}, "user:Add.\n\n1 2", "chat", "3",
    ),
    "gsm8k": ({"question": "2 + 2?", "answer": "#### 4"}, "user:2 + 2?", "math", "#### 4"),
}  # fmt: skip


def test_every_format_has_an_example() -> None:
    assert set(EXAMPLES) == set(PROMPT_FORMATS.names)


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_format_is_known_by_its_content(tmp_path: Path, name: str) -> None:
    row, text, workload, reference = EXAMPLES[name]
    for told in (read_prompt_file(jsonl(tmp_path, row)), read_prompt_file(sharegpt(tmp_path, row))):
        (prompt,) = told.prompts
        assert (told.format, said(prompt), prompt.workload, prompt.reference) == (name, text, workload, reference)
    assert read_prompt_file(jsonl(tmp_path, row), format=name, workload="mine").prompts[0].workload == "mine"


WRAPPINGS: dict[str, Any] = {
    "plain": lambda content: content,
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "byte order mark": lambda content: codecs.BOM_UTF8 + content,
    "UTF-16": lambda content: content.decode().encode("utf-16"),
    "Windows lines": lambda content: content.replace(b"\n", b"\r\n"),
}


@pytest.mark.parametrize("name", WRAPPINGS)
@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".txt", ".gz", ""])
def test_how_a_file_is_wrapped_does_not_matter(tmp_path: Path, name: str, suffix: str) -> None:
    rows = "".join(json.dumps({"text": f"é {i}"}, ensure_ascii=False) + "\n" for i in range(3))
    path = tmp_path / f"rows{suffix}"
    path.write_bytes(WRAPPINGS[name](rows.encode()))
    assert [p.text for p in read_prompt_file(path).prompts] == ["é 0", "é 1", "é 2"]


def test_plain_text_is_a_prompt_a_line(tmp_path: Path) -> None:
    path = tmp_path / "asked.txt"
    path.write_text("What is it?\n\n[INST] Who? [/INST]\r\n42\n")
    found = read_prompt_file(path)
    assert [p.text for p in found.prompts] == ["What is it?", "[INST] Who? [/INST]", "42"]
    assert [p.id for p in found.prompts] == ["asked-001", "asked-003", "asked-004"]


def test_a_folder_of_texts_is_a_prompt_a_file(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.txt").write_text(f"{name}\nand more")
    assert [(p.id, p.text, p.source) for p in read_prompt_file(tmp_path).prompts] == [
        ("a", "a\nand more", "a"), ("b", "b\nand more", "b"),
    ]  # fmt: skip


@pytest.mark.parametrize("kind", ["parquet", "save_to_disk", "arrow file", "csv"])
def test_data_sets_in_a_folder_are_read(tmp_path: Path, kind: str) -> None:
    import pyarrow as pa
    from pyarrow import csv, ipc, parquet

    tables = [pa.table({"question": [f"{i}?"], "answer": [f"{i}."]}) for i in range(2)]
    for i, table in enumerate(tables):
        if kind == "parquet":
            (tmp_path / "data").mkdir(exist_ok=True)
            parquet.write_table(table, tmp_path / "data" / f"test-0000{i}-of-00002.parquet")
        elif kind == "csv":
            csv.write_csv(table, tmp_path / f"rows-0{i}.csv")
        else:
            path = tmp_path / f"data-0000{i}-of-00002.arrow"
            make = ipc.new_stream if kind == "save_to_disk" else ipc.new_file
            with pa.OSFile(str(path), "wb") as sink, make(sink, table.schema) as writer:
                writer.write_table(table)
    (tmp_path / "dataset_info.json").write_text("{}")
    (tmp_path / "README.md").write_text("about")
    found = read_prompt_file(tmp_path)
    assert [(said(p), p.reference, p.workload) for p in found.prompts] == [
        ("user:0?", "0.", "math"), ("user:1?", "1.", "math"),
    ]  # fmt: skip
    assert len({p.id for p in found.prompts}) == 2


def test_conversations_of_a_table_lose_the_fields_that_they_never_had(tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    parquet.write_table(pa.Table.from_pylist([{"messages": CALLS[:1]}, {"messages": CALLS}]), tmp_path / "a.parquet")
    first, second = read_prompt_file(tmp_path / "a.parquet").prompts
    assert first.messages == ({"role": "user", "content": "Weather in Oslo?"},)
    assert [m["role"] for m in second.messages] == ["user", "assistant", "tool"]


def test_splits_are_not_mixed(tmp_path: Path) -> None:
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        jsonl(tmp_path / split, {"text": split})
    with pytest.raises(InvalidInputError, match=r"one split.*test.*train"):
        read_prompt_file(tmp_path)
    assert read_prompt_file(tmp_path / "test").prompts[0].text == "test"
    with pytest.raises(InvalidInputError, match="hold a data set"):
        (tmp_path / "empty").mkdir()
        read_prompt_file(tmp_path / "empty")


def test_another_field_can_be_named(tmp_path: Path) -> None:
    path = jsonl(tmp_path, {"article": "News.", "highlights": "N."})
    with pytest.raises(InvalidInputError, match=r"'article', 'highlights'.*--field"):
        read_prompt_file(path)
    assert read_prompt_file(path, field="article").prompts[0].text == "News."


def test_a_conversation_is_cut_before_its_answers(tmp_path: Path) -> None:
    prompts = read_prompt_file(sharegpt(tmp_path, CONVERSATION), turns=2).prompts
    assert [(said(p), p.reference, p.source) for p in prompts] == [
        ("system:Be brief.|user:One?", "1", "abc"),
        ("system:Be brief.|user:One?|assistant:1|user:Two?", "2", "abc"),
    ]
    assert [p.id for p in prompts] == ["abc-0", "abc-1"]


def test_a_second_turn_needs_an_answer_to_the_first(tmp_path: Path) -> None:
    row = {"question_id": 1, "turns": ["One?", "Two?"]}
    assert [said(p) for p in read_prompt_file(jsonl(tmp_path, row), turns=2).prompts] == ["user:One?"]
    prompts = read_prompt_file(jsonl(tmp_path, row | {"reference": ["1", "2"]}), turns=2).prompts
    assert [(said(p), p.reference) for p in prompts] == [
        ("user:One?", "1"), ("user:One?|assistant:1|user:Two?", "2"),
    ]  # fmt: skip


def test_conversations_that_nobody_answered_are_left_out_and_counted(tmp_path: Path) -> None:
    alone = {"id": "x", "conversations": [{"from": "gpt", "value": "Hello"}, {"from": "human", "value": "Bye"}]}
    found = read_prompt_file(sharegpt(tmp_path, alone, CONVERSATION))
    assert (len(found.prompts), found.rows, list(found.left_out.values())) == (1, 2, [1])
    with pytest.raises(InvalidInputError, match="turn that is answered"):
        read_prompt_file(sharegpt(tmp_path, alone))
    later = {"input": "And?", "previous_response_id": "r1"}
    assert list(read_prompt_file(jsonl(tmp_path, {"input": "Who?"}, later)).left_out.values()) == [1]


def test_requests_of_every_shape_are_read(tmp_path: Path) -> None:
    chat = [{"role": "developer", "content": "S"}, {"role": "user", "content": [{"type": "text", "text": "U"}]}]
    answered = [*chat, {"role": "assistant", "content": "A"}]
    batch = {"custom_id": "r-1", "method": "POST", "url": "/v1/chat/completions", "body": {"messages": chat}}
    lines = ({"messages": answered}, batch, {"prompt": "P", "id": 9}, {"prompt": ["Q", "R"]})
    prompts = read_prompt_file(jsonl(tmp_path, *lines), workload="mine").prompts
    assert [(p.id, said(p), p.reference) for p in prompts] == [
        ("requests-001", "system:S|user:U", "A"), ("r-1", "system:S|user:U", None), ("9", "P", None),
        ("requests-004-0", "Q", None), ("requests-004-1", "R", None),
    ]  # fmt: skip
    assert {p.workload for p in prompts} == {"mine"}


@pytest.mark.parametrize("name", ["openai", "responses"])
def test_arguments_of_a_call_are_what_their_json_says(tmp_path: Path, name: str) -> None:
    (prompt,) = read_prompt_file(jsonl(tmp_path, EXAMPLES[name][0])).prompts
    (call,) = next(message["tool_calls"] for message in prompt.messages if "tool_calls" in message)
    assert call["function"] == {"name": "weather", "arguments": {"city": "Oslo"}}


@pytest.mark.parametrize(
    "damaged", [{"prompt": [1, 2]}, {"messages": []}, {"body": 3}, 3, None, {"messages": [{"role": 1}]}]
)
def test_a_line_that_is_of_no_format_is_named(tmp_path: Path, damaged: Any) -> None:
    with pytest.raises(InvalidInputError, match="line 2"):
        read_prompt_file(jsonl(tmp_path, {"prompt": "fine"}, damaged))
    with pytest.raises(InvalidInputError, match="item 2"):
        read_prompt_file(sharegpt(tmp_path, CONVERSATION, damaged))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b'{"prompt": "fine"}\n\n{"prompt": \n', "line 3"),
        (b'{"prompt": \n"a"', "line 2"),
        ("caf\u00e9".encode("latin-1"), r"0xe9 at offset 3.*iconv -f latin1 -t utf-8"),
        (gzip.compress(b'{"text": "a"}' * 100, mtime=0)[:-20], "whole gzip file"),
        (b"\x28\xb5\x2f\xfd....", "unzstd"),
        (b"PK\x03\x04....", "unzip"),
        (b"PAR1........PAR1", "whole table"),
        (b"[" * 100_000 + b"]" * 100_000, "nested too deeply"),
        (b'{"text": ' + b"9" * 5000 + b"}", "digits"),
        (b"", "at least one prompt"),
        (b"{}", "format that is known"),
        (b"null", "format that is known"),
    ],
)
def test_what_cannot_be_read_is_refused_with_the_place(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_bytes(content)
    with pytest.raises(InvalidInputError, match=says):
        read_prompt_file(path)
    with pytest.raises(InvalidInputError, match="must exist"):
        read_prompt_file(tmp_path / "nowhere")


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("noise") / "prompts"


@given(st.binary(max_size=60), st.sampled_from(["", ".jsonl", ".json", ".txt", ".parquet", ".csv", ".gz"]))
def test_random_bytes_are_prompts_or_refused(noise: Path, content: bytes, suffix: str) -> None:
    path = noise.with_suffix(suffix)
    path.write_bytes(content)
    with contextlib.suppress(InvalidInputError):
        assert read_prompt_file(path).prompts


KEYS = [
    "text",
    "turns",
    "prompt",
    "messages",
    "conversations",
    "input",
    "question",
    "role",
    "content",
    "from",
    "value",
    "type",
    "task_id",
    "tools",
    "tool_calls",
    "function",
    "arguments",
    "instruction",
    "body",
]
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    max_leaves=12,
)


@given(st.lists(json_values, min_size=1, max_size=3))
def test_random_rows_are_prompts_or_refused(noise: Path, rows: list[Any]) -> None:
    noise.write_text(json.dumps(rows))
    try:
        prompts = read_prompt_file(noise, turns=2).prompts
    except InvalidInputError:
        return
    assert all(isinstance(p.text, str) and isinstance(p.id, str) and (p.text or p.messages) for p in prompts)


def test_half_characters_are_replaced(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text('{"text": "a\\ud83d b \\ud83d\\ude00"}\n')
    assert read_prompt_file(path).prompts[0].text == "a\ufffd b \U0001f600"


def test_line_separators_inside_a_text_do_not_split_it(tmp_path: Path) -> None:
    (prompt,) = read_prompt_file(jsonl(tmp_path, {"prompt": "a\u2028b\u0085c"})).prompts
    assert prompt.text == "a\u2028b\u0085c"


@dataclass(frozen=True)
class Letters:
    """A tokenizer of one token a letter, with a first token of its own and a template."""

    bos_token: str = "<"
    chat_template: str = "yes"
    seen: list[Any] = field(default_factory=list)

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        return {"input_ids": [ord(c) for c in (self.bos_token if add_special_tokens else "") + text]}

    def apply_chat_template(self, messages: Any, **options: Any) -> str:
        self.seen.append(options)
        return self.bos_token + "".join(f"{m['role'][0]}:{m['content']};" for m in messages)


def spelled(tokens: Any) -> str:
    return "".join(map(chr, tokens))


def test_written_prompts_are_what_record_reads(tmp_path: Path) -> None:
    prompts = [
        ImportedPrompt("a", "chat", "one\u2028é", source="s"),
        ImportedPrompt("a", "chat", messages=({"role": "user", "content": "two"},), reference="ref"),
    ]
    read = read_prompts(write_prompts(tmp_path / "p.jsonl", prompts[:1]), Letters())
    assert [(p.id, p.workload, p.source) for p in read] == [("a", "chat", "s")]
    assert spelled(read[0].tokens) == "<one\u2028é"
    (read,) = read_prompts(write_prompts(tmp_path / "p.jsonl", prompts[1:]), Letters())
    assert (read.id, spelled(read.tokens)) == ("a", "<u:two;")
    rows = write_prompts(tmp_path / "p.jsonl", prompts).read_text().strip().split("\n")
    assert [json.loads(row)["id"] for row in rows] == ["a", "a#2"]


def test_every_format_goes_straight_into_record(tmp_path: Path) -> None:
    for row, *_ in EXAMPLES.values():
        (read,) = read_prompts(jsonl(tmp_path, row), Letters())
        assert spelled(read.tokens).count("<") == 1, "special tokens once"


def test_a_format_is_added_from_outside(tmp_path: Path) -> None:
    class Riddle(PromptFormat):
        name = "riddle"
        keys = "`riddle`"

        def matches(self, row: Any) -> bool:
            return isinstance(row, dict) and "riddle" in row

        def read(self, row: Any, name: str) -> list[ImportedPrompt]:
            return [ImportedPrompt(name, "", text=row["riddle"])]

    PROMPT_FORMATS.register(Riddle)
    try:
        found = read_prompt_file(jsonl(tmp_path, {"riddle": "What?"}))
        assert (found.format, found.prompts[0].text) == ("riddle", "What?")
    finally:
        PROMPT_FORMATS._found.pop("riddle")
