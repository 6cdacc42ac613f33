"""`reader judge` and what follows, from a command line: mine, fit, curve, plan, run, report, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from proofs_tests.plans.plan_examples import cost
from reader_theory.documents import Plan, RunRecord
from reader_theory.documents.judge import Judge, JudgeCurve, MinedMismatches
from runtime.cli.main import app

PAIR = ("--target", "addition-target", "--draft", "addition-draft")


def ran(*words: object, code: int = 0) -> str:
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == code, done.output + str(done.exception)
    return done.stdout


def made(*words: object) -> dict[str, Any]:
    return json.loads(ran(*words, "--json"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Mined, fitted, measured and planned on few questions of the pair that ships."""
    house = tmp_path_factory.mktemp("judge")
    ran("judge", "mine", "--limit", 16, "--output", house / "mined.json")
    ran("judge", "fit", house / "mined.json", "--features", "drafted", "--output", house / "judge.json")
    # few questions make wide intervals: a generous budget is what this loop is about, not the judge's quality
    ran(
        "judge", "curve", house / "judge.json", "--limit", 12, "--threshold", 0.2, "--threshold", 1.1, "--drafts", 6,
        "--no-baselines", "--output", house / "curve.json",
    )  # fmt: skip
    cost().of(["draft"]).write(house / "cost.json")
    ran(
        "plan",
        house / "curve.json",
        house / "cost.json",
        "--quality-budget",
        100,
        "--batch",
        2,
        "-o",
        house / "plan.json",
    )
    ran("judge", "questions", "test", "--limit", 4, "--output", house / "questions.jsonl")
    return house


def test_each_stage_writes_its_document(folder: Path) -> None:
    mined, judge = MinedMismatches.read(folder / "mined.json"), Judge.read(folder / "judge.json")
    assert mined.target == "addition-target" and len(mined.questions) <= 16
    assert judge.features == "drafted" and judge.mined == mined.fingerprint()
    curve = JudgeCurve.read(folder / "curve.json")
    assert [(each.judge, each.threshold) for each in curve.points] == [("lossless", 0.0), ("file", 0.2), ("file", 1.1)]
    assert curve.points[-1].alpha > 0.95 > curve.points[0].alpha
    plan = Plan.read(folder / "plan.json")
    assert plan.verification == "judge_lossy" and plan.judged is not None and plan.judged.quality_budget == 100


def test_a_judged_plan_runs_and_is_called_lossy_all_the_way(folder: Path) -> None:
    run = ("run", folder / "plan.json", *PAIR, "--prompts", folder / "questions.jsonl", "--repeats", 1)
    told = made(*run, "--output", folder / "run.json")
    assert told["lossless"] is False and told["verification"] == "judge_lossy"
    record, plan = RunRecord.read(folder / "run.json"), Plan.read(folder / "plan.json")
    assert plan.judged is not None
    assert record.rule_parameters == {"threshold": plan.judged.threshold, "judge": str(folder / "judge.json")}
    assert {cell.lossless for cell in record.cells} == {"not_checked"}
    ran("validate", folder / "plan.json", folder / "run.json", "--output", folder / "validation.json")
    parts = [folder / f"{name}.json" for name in ("plan", "run", "validation")]
    ran("report", *parts, "--output", folder / "report.html")
    assert "LOSSY:" in (folder / "report.html").read_text()
    assert "LOSSY" in ran(*run, "--output", folder / "again.json")


def test_the_frontier_is_printed(folder: Path) -> None:
    out = ran("plan", folder / "curve.json", folder / "cost.json", "--quality-budget", 0, "-o", folder / "strict.json")
    assert "frontier" in out and all(word in out for word in ("threshold", "tokens per s", "points lost", "score"))
    assert Plan.read(folder / "strict.json").judged is None
    assert "the plan is lossless" in out


def test_what_is_refused_names_its_way_out(folder: Path, tmp_path: Path) -> None:
    ends = {
        "must be planned with a `--quality-budget`": ("plan", folder / "curve.json", folder / "cost.json"),
        "must be run by a plan that was made for it": (
            "run", _lossless(folder), *PAIR, "--verification", "judge_lossy", "--prompts", folder / "questions.jsonl",
        ),
        "was not made with": (
            "judge", "curve", folder / "judge.json", "--questions", _seen(folder, tmp_path), "--drafts", 4,
        ),
        "`--questions` must be given": ("judge", "mine", "--target", "house-target", "--draft", "house-draft"),
        "must be given one draft": ("judge", "mine", "--target", "addition-target"),
        "`part` must be one of": ("judge", "questions", "all"),
        "must be a document of kind 'judge'": ("judge", "curve", folder / "plan.json"),
        "must be a document of kind 'mined_mismatches'": ("judge", "fit", folder / "judge.json"),
    }  # fmt: skip
    for message, words in ends.items():
        out = tmp_path / "never.json"
        suffix = ".jsonl" if "questions" in words[:2] else ".json"
        told = made_wrong(*words, "--output", out.with_suffix(suffix))
        assert message in told["rule"] or message in str(told), told
        assert told["fix"] and not out.exists()


def test_a_judge_of_another_pair_is_refused_before_anything_runs(folder: Path, tmp_path: Path) -> None:
    plan = Plan.read(folder / "plan.json")
    plan.model_copy(update={"target": "addition-target"}).write(tmp_path / "plan.json")
    words = ("run", tmp_path / "plan.json", "--target", "addition-target", "--draft", "addition-target")
    told = made_wrong(*words, "--prompts", folder / "questions.jsonl", "--output", tmp_path / "run.json")
    assert told["rule"] == "a judge must be used with the draft that it was fitted for"
    assert not (tmp_path / "run.json").exists()
    curve = ("judge", "curve", folder / "judge.json", "--draft", "addition-target", "--limit", 3, "--drafts", 2)
    assert "draft" in made_wrong(*curve, "--output", tmp_path / "curve.json")["rule"]
    assert not list(tmp_path.glob("curve*"))


def test_rules_are_completed_for_the_shell_and_lossy_ones_say_so() -> None:
    from runtime.cli._options import complete_rule

    assert dict(complete_rule("judge")) == {"judge_lossy": "LOSSY: changes the text"}
    told = dict(complete_rule(""))
    assert {name for name, help in told.items() if help.startswith("LOSSY")} == {
        name for name in told if name.endswith("_lossy")
    }


def made_wrong(*words: object) -> dict[str, Any]:
    return json.loads(ran(*words, "--json", code=2))["error"]


def _lossless(folder: Path) -> Path:
    path = folder / "lossless.json"
    ran("plan", folder / "curve.json", folder / "cost.json", "--quality-budget", 0, "--batch", 2, "-o", path)
    return path


def _seen(folder: Path, tmp_path: Path) -> Path:
    ran("judge", "questions", "mine", "--limit", 8, "--output", tmp_path / "seen.jsonl")
    return tmp_path / "seen.jsonl"
