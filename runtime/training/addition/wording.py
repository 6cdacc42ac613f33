"""The task: two numbers of three digits, added column by column in words that are drawn anew each time.

Most words have several that do as well; the digits and the carry have none. So a draft differs from its target where it
matters and where it does not, and the last number of the answer can be checked.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

__all__ = ["ANSWER", "Question", "draw_questions", "held_out_questions", "vocabulary_of_the_task", "worked_answer"]

ANSWER = r"is (\d+)\.$"
"""The final answer in a worked answer, as a regular expression."""
DIGITS = 3
HELD_OUT = 16
"""One question in so many is never trained on."""
ASKED = (
    "Add {} and {}.",
    "What is {} plus {}?",
    "Find the sum of {} and {}.",
    "How much is {} with {} added?",
)
COLUMNS = ("ones", "tens", "hundreds")
OPENED = ("In", "For", "At", "On")
PLACED = ("column", "place", "row", "digits")
ADDED = ("plus", "and", "with")
CARRIED_IN = ("plus the carried", "and the kept", "with the held")
CAME_TO = ("makes", "gives", "is", "equals")
SO = ("so", "then", "thus", "hence")
WRITTEN = ("write", "put", "note", "set")
KEPT = ("carry", "keep", "hold", "take")
CLOSED = ("So", "Thus", "Therefore", "Hence")
CALLED = ("answer", "sum", "total", "result")
NUMBERS = ("nothing", "one")

Choice = np.random.Generator


@dataclass(frozen=True)
class Question:
    """Two numbers to add.

    Attributes
    ----------
    prompt : str
        The question; it ends in a line break.
    answer : int
        Their sum.
    """

    first: int
    second: int
    prompt: str

    @property
    def answer(self) -> int:
        """Their sum."""
        return self.first + self.second


def draw_questions(rng: Choice, count: int, *, held_out: bool = False) -> list[Question]:
    """Questions on numbers of three digits: those to train on, or others, which training never sees."""
    found = list[Question]()
    while len(found) < count:
        a, b = rng.integers(10 ** (DIGITS - 1), 10**DIGITS, size=2).tolist()
        if ((7 * a + b) % HELD_OUT == 0) == held_out:
            found.append(Question(a, b, f"{_one(rng, ASKED).format(a, b)}\n"))
    return found


def held_out_questions(first: int, count: int) -> list[Question]:
    """Questions number `first` and on of a fixed list that training never sees, each pair of numbers once."""
    drawn = draw_questions(np.random.default_rng(2), 2 * (first + count), held_out=True)
    once = {(question.first, question.second): question for question in drawn}
    return list(once.values())[first : first + count]


def worked_answer(question: Question, rng: Choice) -> str:
    """One way to write the answer out; every word that may be another is drawn alike among those that do."""
    carry, lines = 0, list[str]()
    for place, column in enumerate(COLUMNS):
        digits = [n // 10**place % 10 for n in (question.first, question.second)]
        total = sum(digits) + carry
        brought = f" {_one(rng, CARRIED_IN)} one" if carry else ""
        carry, digit = divmod(total, 10)
        lines.append(
            f"{_one(rng, OPENED)} the {column} {_one(rng, PLACED)}, {digits[0]} {_one(rng, ADDED)} {digits[1]}{brought}"
            f" {_one(rng, CAME_TO)} {total}, {_one(rng, SO)} {_one(rng, WRITTEN)} {digit}"
            f" and {_one(rng, KEPT)} {NUMBERS[carry]}.\n"
        )
    return f"{''.join(lines)}{_one(rng, CLOSED)} the {_one(rng, CALLED)} is {question.answer}."


def vocabulary_of_the_task() -> list[str]:
    """Every token of questions and answers: words and digits with and without the blank before, marks, line break."""
    told = " ".join(
        (*ASKED, *COLUMNS, *OPENED, *PLACED, *ADDED, *CARRIED_IN, *CAME_TO, *SO, *WRITTEN, *KEPT, *CLOSED, *CALLED)
    )
    words = sorted({*re.findall(r"[A-Za-z]+", told), *NUMBERS, "the"})
    bare = [*words, *"0123456789"]
    return [*bare, *(f" {each}" for each in bare), *".,?", " ", "\n"]


def _one(rng: Choice, among: tuple[str, ...]) -> str:
    return among[int(rng.integers(len(among)))]
