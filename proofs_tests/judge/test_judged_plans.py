"""A plan under a quality budget: what it may lose, what a step costs, that it says LOSSY, and who may not reach it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from optimizer.export import EXPORTERS, export
from optimizer.judged_plan import frontier_of, plan_judged
from proofs_tests.documents import documents_examples as examples
from proofs_tests.judge.toys import models, toy_judge
from proofs_tests.plans.plan_examples import cost
from proofs_tests.tiny import random_prompts
from reader_theory.cost.terms import StepConditions
from reader_theory.documents import Plan, Stamp, policy_of
from reader_theory.documents.judge import JudgeCurve, JudgePoint
from reader_theory.documents.plan import JUDGED
from reader_theory.errors import DocumentError, InvalidInputError, UnsupportedByEngineError
from reader_theory.estimate import Estimate
from reader_theory.trees import TokenTree
from runtime.engine.engine import Engine
from runtime.measure.run import Task, measure_cells, planned_rule
from runtime.report.html import is_lossy

COST = cost()


def near(value: float, wide: float) -> Estimate:
    return Estimate(value=value, low=value - wide, high=value + wide, origin="measured")


def point(judge: str, threshold: float, drafts: int, tokens: float, lost: float, wide: float = 0.5) -> JudgePoint:
    return JudgePoint(
        judge=judge, threshold=threshold, drafts=drafts, rounds=100, tokens_per_step=near(tokens, 0.1), alpha=0.5,
        score=near(0.99 - lost / 100, 0.005), points_lost=near(lost, wide), looks=1.5 if judge == "file" else 0.0,
    )  # fmt: skip


def curve(*points: JudgePoint, **changes: Any) -> JudgeCurve:
    """Lossless chains of 4 and 8, a judge that loses more the more it accepts, and a baseline that loses much."""
    told = points or (
        point("lossless", 0.0, 4, 2.5, 0.0), point("lossless", 0.0, 8, 2.6, 0.0),
        point("file", 0.1, 8, 5.6, 0.3), point("file", 0.3, 8, 6.5, 1.2), point("file", 0.6, 8, 7.5, 6.0),
        point("random", 0.5, 8, 7.0, 0.0),
    )  # fmt: skip
    fields: dict[str, Any] = {
        "stamp": Stamp.now(), "target": "a/target", "draft": "a/draft", "judge": "out/judge.json",
        "fingerprint_of_judge": "j" * 16, "reads_alternatives": True, "questions": 200, "new_tokens": 64,
        "context_tokens": 100.0, "points": told,
    }  # fmt: skip
    return JudgeCurve(**fields | changes)


@pytest.mark.parametrize(("budget", "threshold"), [(0.0, None), (0.7, None), (0.9, 0.1), (2.0, 0.3), (100.0, 0.6)])
def test_the_most_tokens_a_second_within_the_budget_are_chosen(budget: float, threshold: float | None) -> None:
    told = curve(*curve().points, point("file", 0.05, 8, 2.0, 0.0))  # a judge that is slower than lossless drafts
    plan = plan_judged(told, COST, budget, batches=(1, 4))
    assert plan.entries[0].batch == 1
    if threshold is None:
        assert plan.judged is None and plan.verification == "greedy" and not is_lossy(plan)
    else:
        assert plan.judged is not None and plan.judged.threshold == threshold and is_lossy(plan)
        assert plan.judged.points_lost.high <= budget and plan.judged.quality_budget == budget
        assert any("LOSSY" in note for note in plan.notes)


def test_a_baseline_is_on_the_frontier_and_never_chosen() -> None:
    told = curve(point("lossless", 0.0, 8, 2.6, 0.0), point("random", 0.5, 8, 7.0, 0.0))
    plan = plan_judged(told, COST, 100.0, batches=(1,))
    assert plan.judged is None
    frontier = frontier_of(told, COST, 100.0, batches=(1,))
    assert [each.judge for each in frontier] == ["random", "lossless", "off"]
    assert [each.within_budget for each in frontier] == [False, True, True]


@pytest.mark.parametrize("alternatives", [True, False])
def test_a_judged_step_costs_its_parts_and_what_the_judge_forwards(alternatives: bool) -> None:
    told = curve(reads_alternatives=alternatives)
    plan = plan_judged(told, COST, 2.0, batches=(4,))
    terms = plan.entries[0].prediction.terms_s
    draft = COST.drafters["draft"].forward
    assert draft is not None
    expected = float(draft.at(4, 8 + 1.5, 100.0))
    if alternatives:
        expected += float(COST.target_forward.at(4, 1.5, 100.0))
    assert terms["judge"] == pytest.approx(expected)
    plain = COST.model().parts(StepConditions(batch=4, context=100.0))
    found = plan.entries[0].prediction
    assert found.speed_up.value == pytest.approx(
        (6.5 / found.step_s.value) / (1.0 / sum(float(each) for each in plain.values()))
    )
    assert found.tokens_per_s.low < found.tokens_per_s.value == pytest.approx(4 * 6.5 / found.step_s.value)


def test_one_threshold_serves_all_batches_and_the_frontier_has_all_points() -> None:
    plan = plan_judged(curve(), COST, 2.0, batches=(1, 4, 16))
    assert plan.judged is not None and {entry.batch for entry in plan.entries} == {1, 4, 16}
    assert {entry.policy.name for entry in plan.entries} == {"chain 8"}
    points = plan.judged.frontier
    assert {each.batch for each in points} == {1, 4, 16}
    assert len(points) == 3 * (1 + 1 + 3 + 1), "off, lossless at its best chain, three thresholds, a baseline"
    for each in (4, 16):
        rates = [point.tokens_per_s.value for point in points if point.batch == each]
        assert rates == sorted(rates, reverse=True)


@pytest.mark.parametrize("budget", [-1.0, float("nan"), float("inf")])
def test_a_budget_that_is_none_is_refused(budget: float) -> None:
    with pytest.raises(InvalidInputError, match="`quality_budget`"):
        plan_judged(curve(), COST, budget)


def test_a_curve_without_the_lossless_rule_and_a_cost_without_a_draft_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="lossless rule beside"):
        plan_judged(curve(point("file", 0.1, 8, 4.0, 0.3)), COST, 2.0)
    for priced, drafter in ((cost().of(["retrieval"]), None), (cost(), "retrieval"), (cost(), "nobody")):
        with pytest.raises(InvalidInputError, match="one draft model's forwards"):
            plan_judged(curve(), priced, 2.0, drafter=drafter)
    assert plan_judged(curve(), cost(), 2.0).judged is not None, "look-ups beside the draft are no matter"


# ---- no way from a lossless plan to a judge


def test_a_judge_cannot_be_reached_from_a_lossless_plan(tmp_path: Path) -> None:
    judge, path = toy_judge(*models()), tmp_path / "judge.json"
    judge.write(path)
    told = curve(judge=str(path), fingerprint_of_judge=judge.fingerprint())
    lossless, judged = examples.plan(), plan_judged(told, COST, 2.0)
    with pytest.raises(InvalidInputError, match="must be run by a plan that was made for it"):
        planned_rule(lossless, JUDGED)
    assert planned_rule(lossless) == ("target_only", {})
    assert planned_rule(judged) == (JUDGED, {"threshold": 0.3, "judge": str(path)})
    assert planned_rule(judged, "target_only") == ("target_only", {})
    judge.model_copy(update={"intercept": 1.0}).write(path)
    with pytest.raises(InvalidInputError, match="with the judge that it was made with"):
        planned_rule(judged)
    path.unlink()
    with pytest.raises(InvalidInputError, match="must exist"):
        planned_rule(judged)


def test_a_plan_that_says_one_thing_and_has_another_is_refused(tmp_path: Path) -> None:
    judged = plan_judged(curve(), COST, 2.0)
    assert Plan.read(judged.write(tmp_path / "plan.json")) == judged
    for changes in ({"verification": "greedy"}, {"judged": None}):
        odd = judged.model_copy(update=changes)
        with pytest.raises(DocumentError, match="where it has a judge"):
            Plan.read(odd.write(tmp_path / "odd.json"))
    with pytest.raises(DocumentError, match="where it has a judge"):
        Plan.read(examples.plan().model_copy(update={"verification": JUDGED}).write(tmp_path / "odd.json"))
    assert "judged" not in examples.plan().model_dump(mode="json"), "a lossless plan is written as it always was"


@pytest.mark.parametrize("engine", EXPORTERS.names)
def test_no_engine_is_told_a_judged_plan(engine: str) -> None:
    with pytest.raises(UnsupportedByEngineError, match="a plan with a judge"):
        export(plan_judged(curve(), COST, 2.0), engine, "questions")


def test_plain_decoding_beside_a_judged_plan_follows_no_judge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A speed-up is over what a user has who drafts nothing, who pays for no judge."""
    pair, path, asked, told = models(), tmp_path / "judge.json", list[tuple[str, bool]](), list[str]()
    toy_judge(*pair).write(path)
    use, add = Engine.use, Engine.add
    monkeypatch.setattr(Engine, "use", lambda self, policy: (told.append(policy.shape), use(self, policy))[1])

    def seen(self: Engine, prompt: Any, params: Any, **more: Any) -> Any:
        asked.append((told[-1], params.lossless))
        return add(self, prompt, params, **more)

    monkeypatch.setattr(Engine, "add", seen)
    record = measure_cells(
        pair[0], {"draft": pair[1]}, [Task("random", 1, policy_of(TokenTree.chain(4)))], random_prompts(2),
        path=tmp_path / "run.json", new_tokens=6, temperature=0.0, dtype="float32",
        names=("target", {"draft": "draft"}), verification=JUDGED,
        rule_parameters={"threshold": 0.5, "judge": str(path)},
    )  # fmt: skip
    assert {shape == "off" for shape, _ in asked} == {True, False}
    assert all(lossless == (shape == "off") for shape, lossless in asked)
    assert record.cells[0].times_plain is not None and record.verification == JUDGED
