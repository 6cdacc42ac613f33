"""Each document as the rows of one table, for `--json` and for people."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from reader_theory.documents import Cost, CostTable, Document, Plan, RunRecord, Trace, Validation
    from reader_theory.documents.diffusion import DiffusionRun
    from reader_theory.documents.fit import AcceptanceFit
    from reader_theory.documents.head_inspection import HeadInspection
    from reader_theory.documents.imported import ImportedAcceptance
    from reader_theory.documents.judge import Judge, JudgeCurve, MinedMismatches
    from reader_theory.documents.self_draft import SelfDraft
    from reader_theory.documents.serving_schedule import ServingSchedule

__all__ = ["facts_of", "lossless_in_words", "rows_of"]

Rows = list[dict[str, Any]]
_LOSSLESS = {
    "greedy_identical": "identical",
    "greedy_near_tie": "identical but for ties",
    "greedy_different": "DIFFERENT",
    "sampled": "same law",
    "not_checked": "not checked",
}


def rows_of(document: Document) -> Rows:
    """Rows of the table that says most about `document`."""
    summarise: dict[str, Callable[[Any], Rows]] = {
        "trace": _trace,
        "acceptance_fit": _fit,
        "cost": _cost,
        "plan": _plan,
        "run_record": _run,
        "validation": _validation,
        "imported_acceptance": _imported,
        "serving_schedule": _schedule,
        "self_draft": _self_draft,
        "head_inspection": _inspection,
        "mined_mismatches": _mined,
        "judge": _judge,
        "judge_curve": _curve,
        "diffusion_run": _diffusion_run,
    }
    return summarise[document.kind](document)


def facts_of(document: Document) -> dict[str, Any]:
    """What a document says of itself as a whole."""
    names = (
        "kind",
        "target",
        "drafters",
        "draft",
        "device",
        "dtype",
        "temperature",
        "verification",
        "rule_parameters",
        "lossless",
        "engine",
        "notes",
    )
    return {name: getattr(document, name) for name in names if hasattr(document, name)}


def lossless_in_words(cell_check: str, lossless: bool) -> str:
    """How far a cell's output was seen to be the target's own."""
    return _LOSSLESS[cell_check] if lossless else "LOSSY"


def _trace(trace: Trace) -> Rows:
    rows: Rows = []
    for workload in trace.workloads:
        at = trace.rows(workload)
        rows.append(
            {
                "workload": workload,
                "prompts": sum(prompt.workload == workload for prompt in trace.prompts),
                "positions": len(at),
                **{name: share for drafter in trace.drafters for name, share in _offered(trace, drafter, at).items()},
                **_grown(trace, workload),
            }
        )
    return rows


def _offered(trace: Trace, drafter: str, at: Any) -> dict[str, float]:
    """How often a drafter was right, or had something to say, at these positions."""
    told = trace.drafters[drafter]
    if not told.is_ranked:
        offered, run = (trace.columns[f"{drafter}_{name}"][at] for name in ("offered", "run"))
        return {f"{drafter}_matched": float(np.mean(offered > 0)), f"{drafter}_run": float(np.mean(run))}
    rank = trace.columns[f"{drafter}_rank"][at]
    rank = rank if rank.ndim == 1 else rank[:, 0]
    top = {f"{drafter}_top_1": float(np.mean(rank == 0))}
    return top | {f"{drafter}_top_{told.candidates}": float(np.mean(rank >= 0))}


def _grown(trace: Trace, workload: str) -> dict[str, Any]:
    """The grown policies with the most tokens a step, of retrieval alone and with a draft; empty without a record."""
    from reader_theory.acceptance.recorded import recorded_grown

    best: dict[str, float] = {}
    for policy, result in recorded_grown(trace, workload):
        kind = "retrieved_tree" if policy.drafter is None else "grown_tree"
        best[kind] = max(best.get(kind, 0.0), result.tokens_per_step)
    return {f"{kind}_tokens_per_step": value for kind, value in best.items()}


def _inspection(found: HeadInspection) -> Rows:
    return [
        {
            "prompts": each.name,
            "tokens_per_step": each.tokens_per_step,
            **{f"accepted_{step}": share for step, share in enumerate(each.acceptance, start=1)},
            "rms_ratio": each.rms[-1] / each.rms[0],
            "sink_first": each.sink[0],
            "sink_last": each.sink[-1],
        }
        for each in found.variants
    ]


def _fit(fit: AcceptanceFit) -> Rows:
    return [
        {
            "workload": found.workload,
            "prompts": found.prompts,
            "positions": found.positions,
            **{f"{name}_rank_0_right": each.geometric for name, each in found.drafters.items() if each.geometric},
            **{
                f"{name}_chain_4_tokens_per_step": each.tokens_per_step["chain 4"]
                for name, each in found.drafters.items()
            },
            **{f"{name}_calibration_error": each.calibration.error for name, each in found.drafters.items()},
        }
        for found in fit.workloads
    ]


def _cost(cost: Cost) -> Rows:
    return [
        *_forwards("target", cost.target_forward),
        *(
            row
            for name, each in cost.drafters.items()
            for part, table in ((name, each.forward), (f"{name} head", each.head))
            if table is not None
            for row in _forwards(part, table, cost.target_forward)
        ),
    ]


def _forwards(model: str, table: CostTable, wider: CostTable | None = None) -> Rows:
    """One row a batch and context, milliseconds by query tokens; None where this table has no such column."""
    shown = (wider or table).tokens
    return [
        {
            "forward": model,
            "batch": batch,
            "context": context,
            **{
                f"ms_{tokens}_tokens": 1e3 * table.seconds[b][table.tokens.index(tokens)][c]
                if tokens in table.tokens
                else None
                for tokens in shown
            },
        }
        for b, batch in enumerate(table.batch)
        for c, context in enumerate(table.context)
    ]


def _plan(plan: Plan) -> Rows:
    return [
        {
            "workload": entry.workload,
            "batch": entry.batch,
            **({} if entry.context_tokens is None else {"context": entry.context_tokens}),
            "policy": entry.policy.name,
            "drafters": entry.policy.drafted_by,
            "speed_up": entry.prediction.speed_up,
            "tokens_per_step": entry.prediction.tokens_per_step,
            "tokens_per_s": entry.prediction.tokens_per_s,
            "gap": entry.gap,
            "certified": entry.certified,
            "loss_chance": entry.loss_chance,
            **({"stops_at": ", ".join(entry.binding)} if any(each.binding for each in plan.entries) else {}),
            **{f"times_measured_{axis}": factor for axis, factor in entry.extrapolated.items()},
            **{f"with_{name}_tokens_per_s": each.tokens_per_s for name, each in entry.alternatives.items()},
        }
        for entry in plan.entries
    ]


def _run(record: RunRecord) -> Rows:
    return [
        {
            "workload": cell.workload,
            "batch": cell.batch,
            "policy": cell.policy.name,
            "speed_up": cell.times_plain,
            "prompts": cell.prompts,
            "tokens_per_step": cell.tokens_per_step,
            **{f"from_{source}": count / max(cell.row_steps, 1) for source, count in sorted(cell.accepted.items())},
            "tokens_per_s": cell.tokens_per_s,
            "output": lossless_in_words(cell.lossless, record.lossless),
        }
        for cell in record.cells
    ]


def _validation(validation: Validation) -> Rows:
    return [
        {
            "workload": row.workload,
            "batch": row.batch,
            "policy": row.policy.name,
            "quantity": row.quantity,
            "predicted": row.predicted,
            "measured": row.measured,
            **({} if row.measured_low is None else {"measured_low": row.measured_low, "high": row.measured_high}),
            "pace": row.pace,
            "relative_error": row.relative_error,
            "inside": row.inside,
        }
        for row in validation.comparisons
    ]


def _imported(told: ImportedAcceptance) -> Rows:
    return [{"depth": each.depth, "reached": each.reached, "acceptance": each.conditional} for each in told.depths]


def _self_draft(told: SelfDraft) -> Rows:
    return [
        {
            "layers": choice.name,
            "kept": len(choice.kept),
            "drafts": choice.drafts,
            "tokens_per_step": choice.tokens_per_step,
            "speed_up": choice.speed_up,
        }
        for choice in told.choices
    ]


def _mined(told: MinedMismatches) -> Rows:
    columns = told.columns
    return [
        {
            "questions": len(told.questions),
            "unanswered": told.unanswered,
            "mismatches": len(columns["important"]),
            "important": float(columns["important"].mean()),
        }
    ]


def _judge(told: Judge) -> Rows:
    named = ("features", "mismatches", "important", "regularisation", "auc")
    sides = {"fitted_on": len(told.fitted_on), "held_out": len(told.held_out)}
    return [{**{name: getattr(told, name) for name in named}, **sides}]


def _curve(told: JudgeCurve) -> Rows:
    return [dict(point) for point in told.points]


def _schedule(told: ServingSchedule) -> Rows:
    return [
        {
            "workload": cell.workload,
            "context": cell.context,
            "batch": cell.batch,
            "policy": "nothing fits" if cell.policy is None else cell.policy.name,
            "tokens_per_step": cell.tokens_per_step,
            "step_s": cell.step_s,
            "tokens_per_s": cell.tokens_per_s,
            "speed_up": cell.speed_up,
            "gap": cell.gap,
            **{f"with_{name}_tokens_per_s": each.tokens_per_s for name, each in cell.alternatives.items()},
            **({"stops_at": ", ".join(cell.binding)} if any(each.binding for each in told.cells) else {}),
            **{f"times_measured_{axis}": factor for axis, factor in cell.extrapolated.items()},
        }
        for cell in told.cells
    ]


def _diffusion_run(run: DiffusionRun) -> Rows:
    """The run, predicted beside measured, then what other windows were predicted to take."""
    predicted = run.candidates[0] if run.candidates else None
    own = {
        "window": run.window,
        "steps": run.steps,
        "one_at_a_time": run.drawn,
        "rounds": run.rounds,
        "forwards": run.forwards,
        "predicted_rounds": predicted and predicted.rounds,
        "predicted_forwards": predicted and predicted.forwards,
        f"predicted_{run.cost_unit}_speed_up": predicted and predicted.speed_up,
    }
    others = [
        {
            "window": each.window,
            "predicted_rounds": each.rounds,
            "predicted_forwards": each.forwards,
            f"predicted_{run.cost_unit}_speed_up": each.speed_up,
        }
        for each in run.candidates[1:]
    ]
    return [own, *others]
