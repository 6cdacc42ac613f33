"""What ends a request: the model's end-of-sequence tokens, the request's own stop tokens and stop texts."""

from __future__ import annotations

import numpy as np
import pytest

from reader_theory.documents import policy_of
from reader_theory.trees import TokenTree
from runtime.engine.engine import Engine
from runtime.engine.sampling import SamplingParams
from runtime.models.house import house_folder
from runtime.models.load import load_model
from runtime.models.table import TableModel

COUNTING = np.roll(np.eye(8), 1, axis=1)
"""Each token is followed by the next."""


class _Letters:
    """A tokenizer of which token 3 is "cd", and the others are letters."""

    def decode(self, tokens: list[int]) -> str:
        return "".join("cd" if token == 3 else "?abcdefg"[token] for token in tokens)

    def __call__(self, text: str, **_: object) -> dict[str, list[int]]:
        return {"input_ids": ["?abcdefg".index(letter) for letter in text]}


def _engine(ends: tuple[int, ...] = (), tokenizer: object = None) -> Engine:
    target = TableModel(COUNTING)
    target.end_tokens = ends
    policy = policy_of(TokenTree.chain(3))
    return Engine(target, TableModel(COUNTING), policy=policy, max_batch=2, max_context=64, tokenizer=tokenizer)


@pytest.mark.parametrize(("ends", "expected"), [((5,), [1, 2, 3, 4, 5]), ((5, 3), [1, 2, 3])])
def test_the_models_end_tokens_end_a_request_unless_they_are_ignored(
    ends: tuple[int, ...], expected: list[int]
) -> None:
    (done,) = _engine(ends).generate([[0]], SamplingParams(max_new_tokens=7))
    assert done.tokens == expected and done.finish == "stop"
    (done,) = _engine(ends).generate([[0]], SamplingParams(max_new_tokens=7, ignore_eos=True))
    assert done.tokens == [1, 2, 3, 4, 5, 6, 7] and done.finish == "length"


@pytest.mark.parametrize(
    ("stop", "tokens", "text"), [("bc", 3, "a"), ("d", 3, "abc"), ("de", 5, "abcd"), ("ef", 6, "abcdd")]
)
def test_a_stop_text_ends_a_request_across_tokens_and_steps(stop: str, tokens: int, text: str) -> None:
    (done,) = _engine(tokenizer=_Letters()).generate([[0]], SamplingParams(max_new_tokens=7, stop=(stop,)))
    assert (len(done.tokens), done.text, done.finish) == (tokens, text, "stop")


def test_a_stop_text_without_a_tokenizer_ends_with_an_error() -> None:
    request = _engine().add([0], SamplingParams(stop=("a",)))
    assert (request.finish or "").startswith("error: `stop` must come with a tokenizer")


def test_biases_and_bad_words_hold_along_the_draft() -> None:
    flat = np.full((8, 8), 0.125)
    engine = Engine(TableModel(flat), TableModel(flat), policy=policy_of(TokenTree.chain(3)), max_context=64)
    (done,) = engine.generate([[0]], SamplingParams(max_new_tokens=6, logit_bias={5: 1.0, 2: 0.5}, bad_words=((5, 5),)))
    assert done.tokens == [5, 2, 5, 2, 5, 2]


def test_a_loaded_model_has_its_end_tokens() -> None:
    assert load_model(house_folder("target")).end_tokens == (0,)
