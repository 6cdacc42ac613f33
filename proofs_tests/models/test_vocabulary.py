"""A tokenizer is known by its numbered vocabulary, merges and normaliser, whatever was added, padded or templated."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from reader_theory.errors import InvalidInputError
from runtime.models.load import load_tokenizer
from runtime.models.vocabulary import Vocabulary, check_pair, fingerprint_of

HOUSE = Path(__file__).parents[2] / "runtime" / "models" / "house"


class Written:
    """A tokenizer that is its JSON."""

    def __init__(self, **parts: Any) -> None:
        model = {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]]} | parts.pop("model", {})
        self.text = json.dumps({"model": model, "normalizer": None, "added_tokens": []} | parts)

    @property
    def backend_tokenizer(self) -> Written:
        return self

    def to_str(self) -> str:
        return self.text


SAME = {
    "older merges": Written(model={"merges": ["a b"]}),
    "another order of the vocabulary": Written(model={"vocab": {"ab": 2, "b": 1, "a": 0}}),
    "added tokens": Written(added_tokens=[{"id": 3, "content": "<|chat|>"}]),
    "padding and template": Written(padding={"length": 8}, post_processor={"type": "TemplateProcessing"}),
    "options at their defaults": Written(model={"dropout": None, "fuse_unk": False}),
}
OTHER = {
    "two tokens exchanged": Written(model={"vocab": {"b": 0, "a": 1, "ab": 2}}),
    "one token more": Written(model={"vocab": {"a": 0, "b": 1, "ab": 2, "c": 3}}),
    "other merges": Written(model={"merges": [["b", "a"]]}),
    "a normaliser": Written(normalizer={"type": "Lowercase"}),
}


@pytest.mark.parametrize("name", SAME)
def test_one_tokenizer_has_one_fingerprint(name: str) -> None:
    assert fingerprint_of(SAME[name]) == fingerprint_of(Written()) != ""


@pytest.mark.parametrize("name", OTHER)
def test_another_tokenizer_has_another(name: str) -> None:
    assert fingerprint_of(OTHER[name]) != fingerprint_of(Written())


def test_the_house_pair_has_one_that_does_not_move() -> None:
    found = {fingerprint_of(load_tokenizer(HOUSE / name)) for name in ("target", "draft")}
    assert found == {"91bc5eeb1a11c6a2"}
    assert fingerprint_of(None) == ""


def test_a_tokenizer_of_python_is_known_by_its_vocabulary() -> None:
    class Slow:
        def __init__(self, *words: str) -> None:
            self.words = words

        def get_vocab(self) -> dict[str, int]:
            return {word: number for number, word in enumerate(self.words)}

    assert fingerprint_of(Slow("a", "b")) == fingerprint_of(Slow("a", "b")) != fingerprint_of(Slow("b", "a"))


def test_pairs_are_made_by_tokenizer_and_not_by_size() -> None:
    target = Vocabulary(152_064, "one")
    check_pair(target, Vocabulary(151_936, "one"))
    check_pair(target, Vocabulary(152_064))
    check_pair(Vocabulary(152_064), Vocabulary(152_064, "other"))
    with pytest.raises(InvalidInputError, match="one tokenizer"):
        check_pair(target, Vocabulary(152_064, "other"))
    with pytest.raises(InvalidInputError, match="one vocabulary"):
        check_pair(target, Vocabulary(151_936))


def test_a_datastore_holds_fewer_ids_than_the_target_knows() -> None:
    target = Vocabulary(4096, "one")
    check_pair(target, Vocabulary(300), "datastore")
    with pytest.raises(InvalidInputError, match="datastore"):
        check_pair(target, Vocabulary(4097, "one"), "datastore")
    with pytest.raises(InvalidInputError, match="Build the datastore anew"):
        check_pair(target, Vocabulary(300, "other"), "datastore")
