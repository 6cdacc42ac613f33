"""The semi-greedy miner on laws that are known, and the fit: no question on both sides, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler

from proofs_tests.judge.toys import models, tiny_draft
from proofs_tests.tiny import generated, random_prompts, tiny_model
from reader_theory.documents import Stamp
from reader_theory.documents.judge import Judge, MinedMismatches, ModelProbe
from reader_theory.errors import DocumentError, InvalidInputError
from runtime.judge.fit import QUANTILES, STRENGTHS, fit_judge
from runtime.judge.mine import mine, mine_courses
from runtime.judge.questions import Asked, FinalAnswer, read_questions
from runtime.models.table import TableModel

END = 7


def table(rules: dict[tuple[int, int], int]) -> TableModel:
    """A model of order 2 that always says what `rules` say after two tokens, and ends elsewhere."""
    laws = np.zeros((8, 8, 8))
    laws[..., END] = 1
    for context, token in rules.items():
        laws[context] = np.eye(8)[token]
    made = TableModel(laws)
    made.end_tokens = (END,)
    return made


ANSWERS = {(0, 2): 4, (1, 2): 4, (0, 3): 4, (1, 3): 5}
TARGET = {(6, 6): 0, (6, 0): 2, (6, 1): 2} | ANSWERS
DRAFT = {(6, 6): 1, (6, 0): 3, (6, 1): 3} | ANSWERS


def courses(target: TableModel, draft: TableModel) -> Any:
    asked = [Asked("one", np.array([6, 6]))]
    return mine_courses(target, draft, asked, lambda out: str(out[-2]) if out[-1] == END else None, new_tokens=8)


def test_of_two_swaps_harmful_only_together_the_second_is_important() -> None:
    [course] = courses(table(TARGET), table(DRAFT))
    assert [each.important for each in course.mismatches] == [False, True]
    assert [(each.position, each.target_token, each.draft_token) for each in course.mismatches] == [
        (0, 0, 1),
        (1, 2, 3),
    ]
    assert course.output == [1, 2, 4, END], "the first swap stays, the second is not made"


def test_a_swap_is_harmful_when_the_answer_is_not_the_targets_own_though_it_be_right() -> None:
    wrong = TARGET | {(0, 2): 3}  # the target's own answer is 3; after the swap it says 4
    [course] = courses(table(wrong), table(DRAFT))
    assert course.answer == "3" and course.mismatches[0].important


def test_a_question_without_a_final_answer_is_left_out() -> None:
    silent = table(TARGET | {(2, 4): 2, (4, 2): 4})  # goes on and on
    assert courses(silent, table(DRAFT)) == []


def test_the_text_after_a_splice_is_the_targets_own_and_states_are_those_of_its_prefix(tmp_path: Path) -> None:
    target, draft = models()
    asked = [Asked(each.id, each.tokens) for each in random_prompts(3)]
    found = mine_courses(target, draft, asked, lambda out: str(out[-1] % 2), new_tokens=12)
    spliced = 0
    for course in found:
        for each in course.mismatches:
            if not each.important:
                spliced += 1
                prefix = np.concatenate((course.asked.tokens, course.output[: each.position + 1]))
                assert course.output[each.position] == each.draft_token
                last = each is course.mismatches[-1]
                rest = course.output[each.position + 1 :] if last else []
                assert not rest or rest == generated(tiny_model("llama"), prefix, len(rest))
            else:
                assert course.output[each.position] == each.target_token
    assert spliced > 3
    _check_states(tmp_path, found)


def _check_states(folder: Path, found: Any) -> None:
    """What is written is what whole forwards of each mismatch's own prefix give, the draft model first."""
    from proofs_tests.judge.toys import _state

    class Parity(FinalAnswer):
        def of(self, tokens: Any, tokenizer: Any) -> str | None:
            return str(tokens[-1] % 2)

    target, draft = models()
    asked = [course.asked for course in found]
    mined = mine(target, draft, asked, Parity("x"), None, path=folder / "mined.json", new_tokens=12)
    columns, place = MinedMismatches.read(folder / "mined.json").columns, 0
    for course in found:
        for each in course.mismatches:
            before = [*course.asked.tokens.tolist(), *course.output[: each.position]]
            at = [
                np.concatenate([_state(model, [*before, token]) for model in (tiny_draft(), tiny_model("llama"))])
                for token in (each.draft_token, each.target_token)
            ]
            np.testing.assert_allclose(columns["drafted"][place], at[0], atol=1e-4)
            np.testing.assert_allclose(columns["difference"][place], at[0] - at[1], atol=1e-4)
            assert columns["important"][place] == each.important
            place += 1
    assert place == len(columns["important"]) and mined.questions == tuple(each.id for each in asked)


# ---- the fit


def mined(folder: Path, seed: int = 0, questions: int = 30, each: int = 12) -> MinedMismatches:
    """Mismatches of which the third state tells, with noise, whether they matter."""
    rng = np.random.default_rng(seed)
    count = questions * each
    important = rng.random(count) < 0.4
    states = rng.normal(size=(count, 5)).astype(np.float32)
    states[:, 2] += 2.0 * important
    probes = ModelProbe(vocabulary=8, state=(0.1, 0.2, 0.3)), ModelProbe(vocabulary=8, state=(0.4, 0.5))
    columns = {
        "question": np.repeat(np.arange(questions), each).astype(np.int32),
        **{name: np.zeros(count, dtype=np.int32) for name in ("position", "target_token", "draft_token")},
        "important": important.astype(np.int32), "difference": states, "drafted": states[::-1].copy(),
    }  # fmt: skip
    return MinedMismatches.create(
        folder / f"mined-{seed}.json", columns, stamp=Stamp.now(), target="t", draft="d", target_probe=probes[0],
        draft_probe=probes[1], answer="x", new_tokens=8, questions=tuple(f"q{i}" for i in range(questions)),
        unanswered=0,
    )  # fmt: skip


def test_the_judge_is_scikit_learns_and_no_question_is_on_both_sides(tmp_path: Path) -> None:
    told = mined(tmp_path)
    judge = fit_judge(told, features="difference")
    assert not set(judge.held_out) & set(judge.fitted_on)
    assert set(judge.held_out) | set(judge.fitted_on) == set(told.questions)
    columns, labels = told.columns, told.columns["important"]
    names = np.array(told.questions)[columns["question"]]
    fitted, held = np.isin(names, judge.fitted_on), np.isin(names, judge.held_out)
    scaler = StandardScaler().fit(columns["difference"][fitted])
    areas = []
    for strength in STRENGTHS:
        model = LogisticRegression(C=strength, max_iter=2000)
        model.fit(scaler.transform(columns["difference"][fitted]), labels[fitted])
        chance = model.predict_proba(scaler.transform(columns["difference"][held]))[:, 1]
        areas.append(roc_auc_score(labels[held], chance))
        if strength == judge.regularisation:
            np.testing.assert_allclose(judge.importance(columns["difference"][held]), chance, atol=1e-6)
            np.testing.assert_allclose(judge.thresholds, np.quantile(chance, np.linspace(0, 1, 26)), atol=1e-6)
    assert judge.auc.value == pytest.approx(max(areas), abs=1e-6)
    assert judge.auc.low <= judge.auc.value <= judge.auc.high and judge.auc.value > 0.8
    assert len(judge.thresholds) == QUANTILES and list(judge.thresholds) == sorted(judge.thresholds)


def test_labels_that_states_do_not_tell_are_not_told(tmp_path: Path) -> None:
    blind = fit_judge(mined(tmp_path))
    assert blind.features == "drafted" and blind.auc.low < 0.6


def test_too_little_to_fit_is_refused(tmp_path: Path) -> None:
    told = mined(tmp_path, questions=3, each=1)
    with pytest.raises(InvalidInputError, match="both sides of the split"):
        fit_judge(told)


def test_a_judge_is_written_and_read_whole(tmp_path: Path) -> None:
    judge = fit_judge(mined(tmp_path))
    assert Judge.read(judge.write(tmp_path / "judge.json")) == judge
    for broken in ({"scale": (0.0,) * 5}, {"mean": (0.0,) * 4}, {"intercept": float("nan")}):
        judge.model_copy(update=broken).write(tmp_path / "judge.json")
        with pytest.raises(DocumentError, match=r"judge\.json"):
            Judge.read(tmp_path / "judge.json")


def test_mined_columns_of_other_models_are_refused(tmp_path: Path) -> None:
    told = mined(tmp_path)
    other = told.model_copy(update={"draft_probe": ModelProbe(vocabulary=8, state=(0.0,))})
    other.write(tmp_path / "other.json")
    with pytest.raises(DocumentError, match="as wide as the models'"):
        MinedMismatches.read(tmp_path / "other.json")


@pytest.mark.parametrize("pattern", ["(", "(a)(b)"])
def test_an_answer_that_is_no_pattern_is_refused(pattern: str) -> None:
    with pytest.raises(InvalidInputError, match="`answer` must be a regular expression"):
        FinalAnswer(pattern)


class Letters:
    """A tokenizer of letters, which like others takes no half of a character."""

    bos_token = None

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        return {"input_ids": list(text.encode())}


NO_QUESTIONS = (
    "{", "[]", "[" * 100_000, '{"text": ""}', '{"prompt": "x"}', '{"id": "a", "text": "again"}',
    '{"text": "x", "answer": [4]}', '{"text": "x", "id": {"a": 1}}',
)  # fmt: skip


@pytest.mark.parametrize("line", NO_QUESTIONS, ids=lambda line: line[:30])
def test_a_line_that_is_no_question_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "questions.jsonl"
    path.write_text('{"id": "a", "text": "one"}\n' + line + "\n")
    with pytest.raises(InvalidInputError, match="line 2"):
        read_questions(path, Letters())


def test_questions_are_read_as_prompts_are(tmp_path: Path) -> None:
    """A byte order mark is no text, half of a character is mended, what is not UTF-8 is refused with its byte."""
    path, lines = tmp_path / "questions.jsonl", '{"text": "one"}\n\n{"text": "\\ud800", "answer": 4}\n'
    path.write_text(lines, encoding="utf-16")
    assert [each.answer for each in read_questions(path, Letters())] == [None, "4"]
    path.write_bytes('{"text": "\u00e9"}\n'.encode("latin-1") * 2)
    with pytest.raises(InvalidInputError, match="must be UTF-8 text"):
        read_questions(path, Letters())
    with pytest.raises(InvalidInputError, match="must exist"):
        read_questions(tmp_path / "nowhere.jsonl", Letters())
