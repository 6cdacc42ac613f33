"""Mine: along the target's greedy answers, which of the draft's other tokens change the final answer.

Semi-greedy: the first mismatch past the border is spliced in and the target writes on. Where the final answer stays the
target's own (not the right one), the mismatch is unimportant and the spliced text becomes the current one; so of two
that are harmful together alone, the second is important. The border moves behind the mismatch either way.
Garipov et al. 2025, "AutoJudge: judge decoding without manual annotation".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reader_theory.documents import Stamp
from reader_theory.documents.judge import MinedMismatches
from reader_theory.errors import require
from runtime.engine.engine import Engine
from runtime.engine.sampling import SamplingParams
from runtime.judge.questions import Asked, FinalAnswer
from runtime.models.base import LanguageModel
from runtime.models.inputs import prefill, teacher_forced
from runtime.models.states import final_states, probe_of

__all__ = ["Course", "Mismatch", "mine", "mine_courses"]

Progress = Callable[[str, int, int], None]
Answer = Callable[[Sequence[int]], "str | None"]
"""The final answer in an output; None where there is none."""


@dataclass(frozen=True)
class Mismatch:
    """A place where the draft would have put another token than the text has, and whether it mattered."""

    position: int
    target_token: int
    draft_token: int
    important: bool


@dataclass
class Course:
    """One question's way through the miner.

    Attributes
    ----------
    answer : str or None
        The target's own final answer.
    output : list of int
        The current text.
    """

    asked: Asked
    answer: str | None
    output: list[int]
    mismatches: list[Mismatch] = field(default_factory=list[Mismatch])
    border: int = 0
    drafted: NDArray[np.int64] | None = None

    def next_mismatch(self, draft: LanguageModel) -> int | None:
        """First place past the border where the draft's most likely token is another."""
        if self.drafted is None:
            self.drafted = teacher_forced(draft, self.asked.tokens, np.array(self.output)).argmax(-1).numpy(force=True)
        ahead = np.flatnonzero(self.drafted[self.border :] != np.array(self.output)[self.border :])
        return None if not len(ahead) else self.border + int(ahead[0])

    def spliced(self, at: int) -> list[int]:
        """The text up to there, with the draft's token."""
        assert self.drafted is not None, "`next_mismatch` has been asked"
        return [*self.output[:at], int(self.drafted[at])]

    def settle(self, at: int, alternative: list[int], answer: str | None) -> None:
        """Note the mismatch at `at`, given the text that goes on from the draft's token, and its final answer."""
        important = answer != self.answer
        self.mismatches.append(Mismatch(at, self.output[at], alternative[at], important))
        self.border = at + 1
        if not important:
            self.output, self.drafted = alternative, None


def mine_courses(
    target: LanguageModel,
    draft: LanguageModel,
    asked: Sequence[Asked],
    answer: Answer,
    *,
    new_tokens: int,
    batch: int = 32,
    progress: Progress | None = None,
) -> list[Course]:
    """The courses of questions that the target comes to a final answer of, to their end.

    Parameters
    ----------
    new_tokens : int
        Longest output.
    batch : int
        Questions at once.
    """
    longest = max(len(each.tokens) for each in asked) + new_tokens
    engine = Engine(target, max_batch=batch, max_context=longest + 2)
    outputs = _written(engine, [(each.tokens, []) for each in asked], new_tokens)
    courses = [Course(each, answer(output), output) for each, output in zip(asked, outputs, strict=True)]
    going = answered = [course for course in courses if course.answer is not None]
    while going:
        places = [(course, at) for course in going if (at := course.next_mismatch(draft)) is not None]
        spliced = [(course.asked.tokens, course.spliced(at)) for course, at in places]
        for (course, at), alternative in zip(places, _written(engine, spliced, new_tokens), strict=True):
            course.settle(at, alternative, answer(alternative))
        going = [course for course, _ in places]
        if progress:
            progress("questions", len(answered) - len(going), len(answered))
    return answered


def _written(engine: Engine, begun: Sequence[tuple[NDArray[np.int64], list[int]]], new_tokens: int) -> list[list[int]]:
    """What the target makes of outputs that have begun, greedily; those that are whole stay."""
    ends = set(engine.target.end_tokens)
    open_ones = [i for i, (_, output) in enumerate(begun) if len(output) < new_tokens and not ends & {*output[-1:]}]
    done = engine.generate(
        [np.concatenate((begun[i][0], np.array(begun[i][1], dtype=np.int64))) for i in open_ones],
        [SamplingParams(max_new_tokens=new_tokens - len(begun[i][1])) for i in open_ones],
    )
    found = [list(output) for _, output in begun]
    for i, completion in zip(open_ones, done, strict=True):
        require(
            not completion.finish.startswith("error"),
            "the target must be able to answer every question",
            got=f"question of {len(begun[i][0])} tokens: {completion.finish}",
            fix="Leave the question out, or pass fewer --new-tokens.",
        )
        found[i] += completion.tokens
    return found


def mine(
    target: LanguageModel,
    draft: LanguageModel,
    asked: Sequence[Asked],
    answer: FinalAnswer,
    tokenizer: Any,
    *,
    path: str | Path,
    new_tokens: int,
    names: tuple[str, str] = ("target", "draft"),
    batch: int = 32,
    seed: int = 0,
    progress: Progress | None = None,
) -> MinedMismatches:
    """Mine the mismatches of questions, with the states of both models at each, and write them to `path`.

    Raises
    ------
    InvalidInputError
        If a model gives no final states, or the target comes to no final answer of any question.
    """
    probes = probe_of(target), probe_of(draft)
    courses = mine_courses(
        target, draft, asked, lambda output: answer.of(output, tokenizer),
        new_tokens=new_tokens, batch=batch, progress=progress,
    )  # fmt: skip
    courses = [course for course in courses if course.mismatches]
    require(
        bool(courses),
        "the target must come to final answers, and the draft differ from it somewhere",
        got=f"no mismatch in {len(asked)} questions, with the final answer {answer.pattern.pattern!r}",
        fix="Pass the --answer that its answers end in, and more --new-tokens.",
    )
    states = [
        np.concatenate(both, axis=-1) for both in zip(*(_states(m, courses) for m in (draft, target)), strict=True)
    ]
    drafted, others = states
    found = [(number, each) for number, course in enumerate(courses) for each in course.mismatches]
    fields = ("position", "target_token", "draft_token", "important")
    columns = {name: np.array([getattr(each, name) for _, each in found], dtype=np.int32) for name in fields}
    columns |= {"question": np.array([number for number, _ in found], dtype=np.int32)}
    columns |= {"difference": drafted - others, "drafted": drafted}
    return MinedMismatches.create(
        path, columns, stamp=Stamp.now(seed=seed), target=names[0], draft=names[1], target_probe=probes[0],
        draft_probe=probes[1], answer=answer.pattern.pattern, new_tokens=new_tokens,
        questions=tuple(course.asked.id for course in courses), unanswered=len(asked) - len(courses),
    )  # fmt: skip


def _states(model: LanguageModel, courses: Sequence[Course]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(M, H) states at the draft's token and at the target's, of every mismatch of all courses in order."""
    pairs = [_states_along(model, course) for course in courses]
    drafted, others = (np.concatenate(each) for each in zip(*pairs, strict=True))
    return drafted, others


def _states_along(model: LanguageModel, course: Course) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """One forward over the final text, with the token that it has not beside each that it has.

    What lies before a mismatch never changes after it, so the final text holds every mismatch's own prefix.
    """
    size, found = len(course.output), course.mismatches
    cache = model.new_cache(1, len(course.asked.tokens) + size + len(found))
    prefill(model, cache, course.asked.tokens, 0)
    beside = [each.draft_token if each.important else each.target_token for each in found]
    places = np.array([each.position for each in found], dtype=np.int64)
    tokens = np.array([[*course.output, *beside]], dtype=np.int64)
    parents = np.concatenate((np.arange(size) - 1, places - 1))[None]
    states = final_states(model, cache, tokens, parents, np.array([tokens.shape[1]]))[0].numpy(force=True)
    important = np.array([[each.important] for each in found])
    here, there = states[places], states[size:]
    return np.where(important, there, here), np.where(important, here, there)
