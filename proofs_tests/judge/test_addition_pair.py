"""The pair that ships for column addition, its task, and what a judge gives on it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from proofs_tests.benchmarks._report import RESULTS
from runtime.judge.curve import Trial
from runtime.judge.questions import FinalAnswer, house_part, house_questions
from runtime.models.house import house_folder
from runtime.models.load import load_model, load_tokenizer
from runtime.training.addition.train import build_tokenizer, train_pair_member
from runtime.training.addition.wording import ANSWER, COLUMNS, draw_questions, vocabulary_of_the_task, worked_answer

TARGET, DRAFT = house_folder("addition/target"), house_folder("addition/draft")


@pytest.fixture(scope="module")
def trial() -> Trial:
    tokenizer = load_tokenizer(TARGET)
    asked = house_questions("test", tokenizer, 150)
    return Trial(
        load_model(TARGET), load_model(DRAFT), asked, FinalAnswer(ANSWER), tokenizer, new_tokens=128, batch=32
    )  # fmt: skip


def test_an_answer_is_worked_out_column_by_column_and_ends_in_the_sum() -> None:
    rng, tokenizer = np.random.default_rng(0), load_tokenizer(TARGET)
    texts = set()
    for question in draw_questions(rng, 50):
        text = worked_answer(question, rng)
        assert FinalAnswer(ANSWER).read(text) == str(question.answer)
        lines = text.split("\n")
        carry = 0
        for line, column, place in zip(lines, COLUMNS, range(3), strict=False):
            digits = [number // 10**place % 10 for number in (question.first, question.second)]
            assert column in line and re.findall(r"\d+", line)[:2] == [str(each) for each in digits]
            carry, digit = divmod(sum(digits) + carry, 10)
            assert re.findall(r"\d+", line)[2:] == [str(10 * carry + digit), str(digit)]
            assert line.endswith("one." if carry else "nothing.")
        ids = tokenizer(question.prompt + text)["input_ids"]
        assert tokenizer.decode(ids) == question.prompt + text and tokenizer.unk_token_id not in ids
        texts.add(re.sub(r"\d+", "0", text))
    assert len(texts) == 50, "no two are worded alike"
    assert len(vocabulary_of_the_task()) == len(set(vocabulary_of_the_task()))


def test_questions_that_are_asked_were_never_trained_on_and_stand_in_one_part() -> None:
    parts = [{(q.first, q.second) for q in house_part(part)} for part in ("mine", "curve", "test")]
    assert [len(part) for part in parts] == [200, 200, 400]
    assert len(set.union(*parts)) == sum(map(len, parts))
    trained = {(q.first, q.second) for q in draw_questions(np.random.default_rng(5), 4000)}
    assert not trained & set.union(*parts)


def test_the_pair_is_small_and_in_half_precision() -> None:
    from safetensors.numpy import load_file

    files = [path for folder in (TARGET, DRAFT) for path in folder.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 6_000_000
    weights = [load_file(folder / "model.safetensors") for folder in (TARGET, DRAFT)]
    assert {each.dtype for model in weights for each in model.values()} == {np.dtype(np.float16)}
    assert sum(each.size for each in weights[1].values()) < sum(each.size for each in weights[0].values()) / 5


def test_the_target_is_right_and_the_draft_is_weaker(trial: Trial) -> None:
    own, drafted = trial.own, trial.run(8, "random", 1.01)  # above 1 the draft writes all but the first token
    assert own.right.mean() >= 0.98
    assert drafted.right.mean() < own.right.mean() - 0.1
    assert drafted.alpha > 0.95, "but for the steps in which an output ends"


def test_a_training_run_goes_on_where_it_was_stopped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from runtime.training.addition import train

    build_tokenizer(tmp_path / "tokenizer")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "CHECKPOINT_S", 0.0)
        for _ in range(2):
            train_pair_member("draft", tmp_path, tmp_path / "model", minutes=5.0, seed=0, steps=2)
    assert "goes on after step 2" in capsys.readouterr().out
    assert (tmp_path / "model" / "model.safetensors").is_file()
    assert not list(tmp_path.glob("*.part"))


def test_the_kept_figures_meet_what_was_asked_of_the_judge() -> None:
    kept = json.loads((RESULTS / "judge.json").read_text())
    assert kept["target_right"] >= 0.98 and kept["questions"]["test"] >= 400
    [row] = [row for row in kept["rows"] if (row["drafts"], row["features"]) == (8, "drafted")]
    assert row["auc"]["low"] >= 0.80
    assert row["file"]["times_lossless"][1] >= 1.5 and row["file"]["points_lost"][2] <= 2.0, "to their intervals' ends"
    assert row["random"]["points_below_judge"][1] >= 5.0
    assert abs(row["random"]["alpha"] - row["file"]["alpha"]) < 0.03


@pytest.mark.slow
def test_a_judge_fitted_now_gives_what_was_asked(tmp_path: Path) -> None:
    from proofs_tests.benchmarks.judge import main

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["judge", "--features", "drafted", "--limit", "150", "--output", str(tmp_path)])
        main()
    for row in json.loads((tmp_path / "judge.json").read_text())["rows"]:
        assert row["auc"]["value"] >= 0.80
        assert row["file"]["times_lossless"][0] >= 1.5 and row["file"]["points_lost"][0] <= 2.0
        assert row["random"]["points_below_judge"][0] >= 5.0
