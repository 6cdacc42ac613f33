"""Tokens a second of a judged plan on column addition, predicted beside measured, with a lossless plan beside it.

``python -m proofs_tests.benchmarks.judge_speed JUDGE CURVE``, with the files of `reader judge fit` and `reader judge
curve` on the house pair, calibrates, plans under a budget of two points and under none, and runs both plans on
questions that no fit, threshold or plan has seen, each beside plain decoding: ``results/judge_speed.json`` has the
frontier and the runs. Its result is a time: nothing else should run beside it.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from optimizer.judged_plan import frontier_of, plan_judged
from proofs_tests.benchmarks._report import RESULTS, write_report
from proofs_tests.benchmarks.judge import BUDGET
from reader_theory.documents import Cost, Plan, RunRecord
from reader_theory.documents.judge import QUESTIONS, JudgeCurve
from runtime.judge.questions import house_questions
from runtime.measure.calibrate import calibrate_cost
from runtime.measure.prompts import PromptTokens
from runtime.measure.run import run_plan
from runtime.models.base import LanguageModel
from runtime.models.house import house_folder
from runtime.models.load import load_model, load_tokenizer

CONTEXTS = (64, 128)


def prompts_of(part: str, tokenizer: Any, count: int) -> list[PromptTokens]:
    """Questions of a part as prompts to run."""
    return [
        PromptTokens(id=each.id, workload=QUESTIONS, tokens=each.tokens, source=each.id)
        for each in house_questions(part, tokenizer, count)
    ]


def rows_of(plan: Plan, record: RunRecord) -> list[dict[str, Any]]:
    """What each batch was predicted to give, and gave."""
    rows: list[dict[str, Any]] = []
    for cell in record.cells:
        entry = plan.entry(QUESTIONS, cell.batch)
        tokens, gain = cell.output_tokens - cell.prompts, cell.times_plain
        rows.append({
            "batch": cell.batch, "verification": plan.verification, "policy": entry.policy.name,
            "threshold": None if plan.judged is None else plan.judged.threshold,
            "tokens_per_step": cell.tokens_per_step,
            "predicted_tokens_per_step": entry.prediction.tokens_per_step.model_dump(),
            "tokens_per_s": cell.tokens_per_s, "tokens_per_s_spread": [tokens / s for s in cell.decode_s_spread[::-1]],
            "predicted_tokens_per_s": entry.prediction.tokens_per_s.model_dump(),
            "times_plain": None if gain is None else gain.model_dump(),
            "predicted_times_plain": entry.prediction.speed_up.model_dump(),
        })  # fmt: skip
    return rows


def measure(
    pair: tuple[LanguageModel, LanguageModel], tokenizer: Any, cost: Cost, curve: JudgeCurve, a: argparse.Namespace
) -> list[dict[str, Any]]:
    """Both plans run on the test questions."""
    rows, prompts = list[dict[str, Any]](), prompts_of("test", tokenizer, a.prompts)
    for budget in (BUDGET, 0.0):
        plan = plan_judged(curve, cost, budget, batches=a.batches)
        with tempfile.TemporaryDirectory() as folder:
            record = run_plan(
                pair[0], {"draft": pair[1]}, plan, prompts, path=Path(folder) / "run.json", repeats=a.repeats
            )
        rows += [{"budget": budget, **row} for row in rows_of(plan, record)]
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("judge", type=Path)
    parser.add_argument("curve", type=Path)
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--output", type=Path, default=RESULTS)
    a = parser.parse_args()
    tokenizer = load_tokenizer(house_folder("addition/target"))
    pair = load_model(house_folder("addition/target")), load_model(house_folder("addition/draft"))
    told = JudgeCurve.read(a.curve)
    curve = told.model_copy(update={"judge": str(a.judge)})
    cost = calibrate_cost(
        pair[0], {"draft": pair[1]}, prompts_of("curve", tokenizer, 16), device_name="cpu", dtype="float32",
        names=(curve.target, {"draft": curve.draft}), batches=a.batches, contexts=CONTEXTS, seconds=a.seconds,
        on_disturbance="note",
    )  # fmt: skip
    frontier = frontier_of(curve, cost, BUDGET, batches=a.batches)
    rows = measure(pair, tokenizer, cost, curve, a)
    for row in rows:
        print(row, flush=True)
    payload = {
        "prompts": a.prompts, "questions_of_curve": curve.questions, "rows": rows,
        "frontier": [each.model_dump() for each in frontier],
    }  # fmt: skip
    print(write_report("judge_speed", payload, a.output))


if __name__ == "__main__":
    main()
