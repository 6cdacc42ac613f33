"""`reader datastore` sorts what people have into what drafts are taken from, whole or not at all."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from proofs_tests.cli.cli_examples import tokenizer
from proofs_tests.documents import documents_examples as examples
from runtime.cli.main import app
from runtime.models.text import encode_text
from runtime.models.vocabulary import fingerprint_of
from runtime.retrieval.datastore import Datastore


def invoke(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["datastore", *(str(argument) for argument in arguments)])


@pytest.fixture
def target(tmp_path: Path) -> Path:
    tokenizer().save_pretrained(tmp_path / "target")
    return tmp_path / "target"


def test_outputs_of_every_kind_are_sorted_in(tmp_path: Path, target: Path) -> None:
    words = tokenizer()
    trace = examples.trace(tmp_path / "trace.json")
    (tmp_path / "lines.jsonl").write_text(
        json.dumps({"prompt": "for number", "output": " in range"})
        + "\n"
        + json.dumps({"text": "total"})
        + "\n"
        + json.dumps({"output": [1, 2, 3]})
        + "\n"
    )
    (tmp_path / "whole.txt").write_text("print(total)\n")
    with gzip.open(tmp_path / "more.jsonl.gz", "wt") as file:
        file.write(json.dumps({"completion": "count"}) + "\n")
    path = tmp_path / "past.datastore"
    given = ("trace.json", "lines.jsonl", "whole.txt", "more.jsonl.gz")
    done = invoke("build", *(tmp_path / name for name in given), "--target", target, "-o", path, "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    texts = ("for number in range", "total", "print(total)\n", "count")
    expected = [encode_text(words, text).tolist() for text in texts] + [[1, 2, 3], trace.columns["token"].tolist()]
    made = Datastore.open(path)
    assert sorted(text.tolist() for text in made.texts()) == sorted(expected)
    assert told["rows"][0]["documents"] == 6 and told["rows"][0]["tokens"] == made.tokens
    assert made.tokenizer == told["rows"][0]["tokenizer"] == fingerprint_of(words)


def test_more_is_added_by_the_same_tokenizer_only(tmp_path: Path, target: Path) -> None:
    (tmp_path / "one.txt").write_text("range(count)")
    path = tmp_path / "past.datastore"
    assert invoke("build", tmp_path / "one.txt", "--target", target, "-o", path).exit_code == 0
    assert invoke("add", tmp_path / "one.txt", "--datastore", path, "--target", target).exit_code == 0
    assert Datastore.open(path).documents == 2
    before = path.read_bytes()
    refused = invoke("add", tmp_path / "one.txt", "--datastore", path)
    assert refused.exit_code == 2 and "one tokenizer" in refused.stderr
    assert path.read_bytes() == before
    shown = invoke("show", path)
    assert shown.exit_code == 0 and "documents" in shown.stdout


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        ('{"question": "why"}\n', "must hold an output"),
        ('{"output": {"a": 1}}\n', "text, or token ids"),
        ('{"output": [1, "a"]}\n', "text, or token ids"),
        ('{"output": [1, -4]}\n', "token ids in"),
        ('{"output": [100000]}\n', "vocabulary"),
        ('{"output": ""}\n', "must hold some output"),
    ],
)
def test_what_is_no_output_is_refused(tmp_path: Path, target: Path, content: str, rule: str) -> None:
    (tmp_path / "bad.jsonl").write_text(content)
    path = tmp_path / "past.datastore"
    done = invoke("build", tmp_path / "bad.jsonl", "--target", target, "-o", path)
    assert done.exit_code == 2 and rule in done.stderr, done.output
    assert not path.exists()


def test_what_is_no_datastore_is_refused(tmp_path: Path) -> None:
    (tmp_path / "no.datastore").write_bytes(np.arange(200, dtype=np.uint8).tobytes())
    for name in ("no.datastore", "absent.datastore"):
        done = invoke("show", tmp_path / name)
        assert done.exit_code == 2 and "datastore" in done.stderr
