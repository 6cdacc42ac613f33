"""Questions whose answers can be checked, and the final answer in a text."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reader_theory.errors import InvalidInputError, require
from runtime.importers.rows import read_rows
from runtime.models.text import encode_text
from runtime.training.addition.wording import Question, held_out_questions

__all__ = ["NUMBER", "Asked", "FinalAnswer", "house_part", "house_questions", "read_questions"]

NUMBER = r"-?\d+(?:\.\d+)?"
"""The last number of a text, where nobody says what its final answer is."""
HOUSE_PARTS = {"mine": (0, 200), "curve": (200, 200), "test": (400, 400)}
"""First of the house's questions for mining, for choosing a threshold and for judging the choice, and how many."""


@dataclass(frozen=True)
class Asked:
    """A question.

    Attributes
    ----------
    tokens : (P,) int64
    answer : str, optional
        The right one; the target's own where it is not known.
    """

    id: str
    tokens: NDArray[np.int64]
    answer: str | None = None


class FinalAnswer:
    """Reads the final answer off a text: the last match of a regular expression, its group where it has one.

    Raises
    ------
    InvalidInputError
        If it is no regular expression, or one of several groups.

    Examples
    --------
    >>> FinalAnswer(r"is (\\d+)").read("3 is 3, and the sum is 42.")
    '42'
    """

    def __init__(self, pattern: str) -> None:
        rule, fix = "`answer` must be a regular expression with one group at most", f"The last number is {NUMBER}."
        try:
            self.pattern = re.compile(pattern)
        except re.error as error:
            raise InvalidInputError(rule, got=f"{pattern!r}: {error}", fix=fix) from error
        require(self.pattern.groups <= 1, rule, got=f"{self.pattern.groups} groups in {pattern!r}", fix=fix)

    def read(self, text: str) -> str | None:
        """The final answer; None where there is none."""
        found = self.pattern.findall(text)
        return str(found[-1]).strip() if found else None

    def of(self, tokens: Sequence[int], tokenizer: Any) -> str | None:
        """That of the text of some tokens, end tokens left out."""
        return self.read(tokenizer.decode(list(tokens), skip_special_tokens=True))


def house_questions(part: str, tokenizer: Any, limit: int | None = None) -> list[Asked]:
    """Questions of column addition that the house pair was not trained on; no part shares one with another."""
    return [
        Asked(f"{each.first}+{each.second}", encode_text(tokenizer, each.prompt), str(each.answer))
        for each in house_part(part, limit)
    ]


def house_part(part: str, limit: int | None = None) -> list[Question]:
    """The same as texts."""
    require(part in HOUSE_PARTS, f"`part` must be one of {', '.join(HOUSE_PARTS)}", got=repr(part), fix="Choose one.")
    first, count = HOUSE_PARTS[part]
    return held_out_questions(first, min(count, limit or count))


def read_questions(path: Path, tokenizer: Any, limit: int | None = None) -> list[Asked]:
    """Questions of a file: a JSON object a line with `text`, and `id` and `answer` where they are known.

    Raises
    ------
    InvalidInputError
        Naming the line that is no question.
    """
    rule = "`--questions` must have a JSON object with a `text` a line, and `answer` and `id` where they are known"
    fix = 'For example {"id": "1", "text": "What is 2 plus 2?", "answer": "4"}.'
    found, ids = list[Asked](), set[str]()
    for row in read_rows(path):
        if len(found) == limit:
            break
        told, where = row.value, row.where
        whole = isinstance(told, dict) and isinstance(told.get("text"), str) and bool(told["text"])
        require(whole, rule, got=f"{where}: {str(told)[:80]!r}", fix=fix)
        named = all(isinstance(told.get(key), str | int | float | None) for key in ("id", "answer"))
        require(named, rule, got=f"{where}: an id or answer that is no text or number", fix=fix)
        tokens, name = encode_text(tokenizer, told["text"]), str(told.get("id") or _name(told["text"]))
        require(len(tokens) > 0 and name not in ids, rule, got=f"{where}: no token, or an id twice", fix=fix)
        answer = told.get("answer")
        ids.add(name)
        found.append(Asked(name, np.asarray(tokens, dtype=np.int64), None if answer is None else str(answer)))
    require(len(found) > 1, rule, got=f"{len(found)} questions in `{path}`", fix="Give two at least.")
    return found


def _name(text: str) -> str:
    """Id of a question that has none: the same for the same text, in whatever file."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]
