"""Languages as people state them: choices, expressions and schemas, in a real tokenizer's tokens, and the commands."""

from __future__ import annotations

import json
import re
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from proofs_tests.benchmarks.grammar import (
    by_library_masks,
    by_plain_forwards,
    distance,
    enumerated,
    in_float64,
    strings_of,
)
from reader_theory.documents import Off, RunRecord
from reader_theory.errors import InvalidInputError
from reader_theory.grammar import Language, Trie, prefixes_of
from runtime.cli.main import app
from runtime.engine.engine import Engine
from runtime.engine.sampling import SamplingParams
from runtime.grammar.gap import grammar_gap
from runtime.grammar.matched import Matched, grammar_of, listed_texts
from runtime.grammar.read import LanguageSpec, language_of, read_language
from runtime.measure.prompts import PromptTokens
from runtime.measure.run import Task, measure_cells
from runtime.models.house import house_folder
from runtime.models.inputs import teacher_forced
from runtime.models.load import load_model, load_tokenizer
from runtime.models.vocabulary import fingerprint_of


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return load_tokenizer(house_folder("target"))


@pytest.fixture(scope="module")
def target() -> Any:
    return load_model(house_folder("target"))


def texts_of(language: Language, tokenizer: Any, room: int = 40) -> list[str]:
    graph = prefixes_of(language, room)
    return [tokenizer.decode(list(p)) for p, done in zip(graph.paths, graph.complete, strict=True) if done]


def spec(**fields: Any) -> LanguageSpec:
    return LanguageSpec.model_validate(fields)


FINITE = {
    "strings": ({"strings": ["yes", "no", "it depends"]}, {"yes", "no", "it depends"}),
    "regex": ({"regex": "a(b|cd)?[0-2]"}, {f"a{m}{d}" for m in ("", "b", "cd") for d in "012"}),
    "enum": ({"schema": {"enum": ["a", "é", 3, None]}}, {'"a"', '"é"', "3", "null"}),
    "object": (
        {
            "schema": {
                "type": "object",
                "properties": {"on": {"type": "boolean"}, "n": {"enum": [1, 2]}},
                "required": ["on", "n"],
                "additionalProperties": False,
            }
        },
        {f'{{"on":{on},"n":{n}}}' for on in ("true", "false") for n in (1, 2)},
    ),
}


@pytest.mark.parametrize("kind", FINITE)
def test_a_finite_language_has_exactly_its_texts(kind: str, tokenizer: Any) -> None:
    told, texts = FINITE[kind]
    language = language_of(spec(**told), tokenizer)
    found = texts_of(language, tokenizer)
    assert set(found) == texts and len(found) == len(texts)
    assert language.tokenizer == fingerprint_of(tokenizer)


def test_a_text_counts_once_or_as_often_as_tokens_spell_it(tokenizer: Any) -> None:
    once = language_of(spec(strings=["return"]), tokenizer)
    every = language_of(spec(strings=["return"], tokenisations="all"), tokenizer)
    assert isinstance(once, Trie) and len(texts_of(once, tokenizer)) == 1
    spelt = texts_of(every, tokenizer)
    assert set(spelt) == {"return"} and len(spelt) > 1
    vocabulary = {tokenizer.decode([token]) for token in range(len(tokenizer))}
    cuts = 0
    for where in product((False, True), repeat=len("return") - 1):
        parts, start = [], 0
        for place, cut in enumerate([*where, True], start=1):
            if cut:
                parts.append("return"[start:place])
                start = place
        cuts += all(part in vocabulary for part in parts)
    assert len(spelt) == cuts


def test_a_language_without_bound_is_masked_by_its_matcher(target: Any, tokenizer: Any) -> None:
    language = language_of(spec(regex="(ab|c)+d", tokenisations="all"), tokenizer)
    assert isinstance(language, Matched)
    engine = Engine(target, max_batch=2, max_context=128, tokenizer=tokenizer)
    end = tuple(tokenizer("\n", add_special_tokens=False)["input_ids"][:1])
    for validity in ("mask", "lookahead:1"):
        asked = [
            SamplingParams(
                temperature=1.0, max_new_tokens=40, language=language, validity=validity, stop_token_ids=end, seed=seed
            )
            for seed in range(3)
        ]
        for done in engine.generate(["abab"] * 3, asked):
            text = tokenizer.decode(done.tokens[:-1] if done.finish == "stop" else done.tokens)
            assert re.fullmatch("(ab|c)+d", text) if done.finish == "stop" else re.fullmatch("(ab|c)*a?d?", text), text
    refused = engine.generate(["abab"], SamplingParams(language=language, stop_token_ids=end, max_new_tokens=40))[0]
    assert "prefixes can be listed" in refused.finish


def test_a_matcher_allows_only_what_the_list_does_and_all_where_text_is_not_forced(tokenizer: Any) -> None:
    """Where only one text can follow, the library keeps one of its spellings."""
    listed = language_of(spec(regex="(yes|no|none)", tokenisations="all"), tokenizer)
    matched = Matched(grammar_of("regex", "(yes|no|none)"), tokenizer)
    waiting: list[tuple[tuple[int, ...], Any, Any]] = [((), listed.start, matched.start)]
    for path, ours, theirs in waiting:
        assert listed.complete(ours) == matched.complete(theirs), path
        expected, found = set(listed.tokens(ours, 40).tolist()), set(matched.tokens(theirs, 40).tolist())
        assert found <= expected and (found or not expected), path
        assert path or found == expected, "three texts can follow the empty prefix"
        for token in sorted(found):
            waiting.append(((*path, token), listed.after(ours, token), matched.after(theirs, token)))
    assert len(waiting) > 5


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({"regex": "a(?=b)"}, "look-around"),
        ({"schema": {"type": "frob"}}, "frob"),
        ({"schema": {"enum": []}}, "(at least one text|llguidance takes)"),
        ({"regex": "[a-z]+"}, "all their spellings"),
        ({"strings": []}, "at least one text"),
        ({"dyck": {"pairs": [["(", "not one token at all"]], "length": 4}}, "must be one token"),
        ({"automaton": {"start": 0, "accepting": [1], "moves": [[0, 5, 0], [0, 5, 1]]}}, "deterministic"),
        ({"automaton": {"start": 0, "accepting": [1], "moves": [[0, 5, 0]]}}, "a string that ends"),
    ],
)
def test_what_states_no_language_is_refused_with_the_way_out(told: Any, said: str, tokenizer: Any) -> None:
    with pytest.raises(InvalidInputError, match=said) as refused:
        language_of(spec(**told), tokenizer)
    assert refused.value.fix


def test_a_grammar_that_never_ends_is_refused() -> None:
    from llguidance import LLMatcher

    with pytest.raises(InvalidInputError, match=r"a text that ends|at least one text"):
        listed_texts(LLMatcher.grammar_from_lark('start: "a" start'))


@pytest.mark.parametrize(
    ("name", "content", "texts"),
    [
        ("choices.txt", "yes\nno\n", {"yes", "no"}),
        ("list.json", '["yes", "no"]', {"yes", "no"}),
        ("schema.json", '{"enum": ["yes", "no"]}', {'"yes"', '"no"'}),
        ("spec.json", '{"regex": "yes|no"}', {"yes", "no"}),
    ],
)
def test_files_of_every_form_are_read(name: str, content: str, texts: set[str], tokenizer: Any, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    assert set(texts_of(read_language(tmp_path / name, tokenizer), tokenizer)) == texts


NO_LANGUAGES = {
    "cut off": "{",
    "two kinds": '{"regex": "a", "strings": ["b"]}',
    "no list": '{"strings": 5}',
    "numbers": "[1, 2]",
    "a number": "3",
    "nested too deeply": "[" * 100_000,
    "half of a character": '["\\ud800"]',
    "half of a character in a schema": '{"enum": ["\\ud800"]}',
    "no number in a schema": '{"enum": [NaN]}',
    "a whole number of 5000 digits": '{"enum": [' + "9" * 5000 + "]}",
}


@pytest.mark.parametrize("case", NO_LANGUAGES)
def test_a_file_that_states_no_language_is_refused(case: str, tokenizer: Any, tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text(NO_LANGUAGES[case])
    with pytest.raises(InvalidInputError, match=r"the file of a language|llguidance takes"):
        read_language(tmp_path / "bad.json", tokenizer)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_byte_order_mark_is_no_part_of_a_choice(encoding: str, tokenizer: Any, tmp_path: Path) -> None:
    (tmp_path / "choices.txt").write_text("yes\nno\n", encoding=encoding)
    assert set(texts_of(read_language(tmp_path / "choices.txt", tokenizer), tokenizer)) == {"yes", "no"}


@pytest.mark.parametrize("name", ["choices.txt", "choices.json"])
def test_a_file_that_is_not_utf_8_is_refused_with_its_byte(name: str, tokenizer: Any, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes('["\u00e9"]'.encode("latin-1"))
    with pytest.raises(InvalidInputError, match="must be UTF-8 text"):
        read_language(tmp_path / name, tokenizer)


def test_the_gap_is_that_of_the_laws_by_plain_forwards(target: Any, tokenizer: Any) -> None:
    """Each string's probability from a forward over it as a whole, without trie, engine or Phi."""
    language = language_of(spec(strings=["return", "return None", "raise", "pass"]), tokenizer)
    prompt = np.array(tokenizer("def f():\n    ")["input_ids"], dtype=np.int64)
    end = int(tokenizer("\n", add_special_tokens=False)["input_ids"][0])
    asked = SamplingParams(temperature=1.0, max_new_tokens=20, language=language, stop_token_ids=(end,))
    gap = grammar_gap(target, prompt, asked)
    assert gap.forwards == 1
    strings = list(gap.faithful)
    ends = sorted({end, *target.end_tokens})
    shares = []
    for string in strings:
        law = teacher_forced(target, prompt, np.array([*string, end], dtype=np.int64)).double().softmax(-1).numpy()
        shares.append(law[np.arange(len(string)), string].prod() * law[-1, ends].sum())
    parts = np.array(shares) / sum(shares)
    assert sum(abs(parts - [gap.faithful[string] for string in strings])) / 2 < 1e-5  # the house target runs in float32
    assert gap.mass == pytest.approx(sum(shares), rel=1e-3) and gap.total_variation > 0


def test_in_float64_both_laws_are_those_of_separate_forwards_to_rounding(tokenizer: Any) -> None:
    """As the benchmark on a real model has it: nothing on the way is narrower than the model."""
    from transformers import AutoModelForCausalLM

    made = AutoModelForCausalLM.from_pretrained(house_folder("target"), dtype=torch.float64)
    plain, target = in_float64(made), load_model(house_folder("target"), "float64")
    language = language_of(spec(strings=["return", "return None", "raise", "pass"]), tokenizer)
    prompt = np.array(tokenizer("def f():\n    ")["input_ids"], dtype=np.int64)
    end = int(tokenizer("\n", add_special_tokens=False)["input_ids"][0])
    asked = SamplingParams(temperature=1.0, max_new_tokens=20, language=language, stop_token_ids=(end,))
    gap = grammar_gap(target, prompt, asked)
    strings, ends = strings_of(language, 19), tuple(sorted({end, *target.end_tokens}))
    laws = by_plain_forwards(plain, prompt.tolist(), strings)
    masked = by_library_masks(strings, laws, ends, tokenizer, every_spelling=False)
    assert distance(gap.faithful, enumerated(strings, laws, ends)) < 1e-12
    assert distance(gap.projected, masked) < 1e-12 < 1e-4 < gap.total_variation


def test_a_record_says_which_law_it_is_of(target: Any, tokenizer: Any, tmp_path: Path) -> None:
    prompts = [PromptTokens(str(i), "code", np.array(tokenizer("x = 1\n")["input_ids"])) for i in range(2)]
    end = int(tokenizer("\n", add_special_tokens=False)["input_ids"][0])
    target_with_end = load_model(house_folder("target"))
    target_with_end.end_tokens = (end,)
    laws = []
    for validity in ("exact", "mask"):
        measure_cells(
            target_with_end, None, [Task("code", 2, Off())], prompts, path=tmp_path / "run.json", new_tokens=12,
            temperature=1.0, dtype="float32", names=("target", {}), tokenizer=tokenizer, validity=validity,
            language=language_of(spec(strings=["y = 2", "print(x)"]), tokenizer), compare_plain=False,
        )  # fmt: skip
        record = RunRecord.read(tmp_path / "run.json")
        laws.append(record.law)
        assert {request.finish for request in record.requests} == {"stop"}
    assert laws == ["grammar_faithful (exact)", "grammar_projected (mask)"]


def test_the_command_prints_the_gap_and_what_suffers(tmp_path: Path) -> None:
    (tmp_path / "choices.txt").write_text("return\nraise\npass\n")
    (tmp_path / "prompts.jsonl").write_text(json.dumps({"text": "def f():\n    "}) + "\n")
    arguments = ["grammar-gap", str(tmp_path / "choices.txt"), "--prompts", str(tmp_path / "prompts.jsonl")]
    done = CliRunner().invoke(app, [*arguments, "--json", "--worst", "2"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert 0 <= told["mean_total_variation"] <= 1 and len([row for row in told["rows"] if "string" in row]) == 2
    bad = CliRunner().invoke(app, ["grammar-gap", str(tmp_path / "none.txt"), *arguments[2:]])
    assert bad.exit_code == 2 and "must exist" in bad.output
