"""`reader demo`: the whole loop on the house target and on its inflation, predicted beside measured."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Any

import typer

from runtime.cli import _options as options
from runtime.cli._models import Models, load_models, load_prompt_tokens, source_of
from runtime.cli._shared import Progress, progress_bars, show_rows

if TYPE_CHECKING:
    from reader_theory.documents import Trace
    from reader_theory.documents.fit import AcceptanceFit
    from runtime.measure.prompts import PromptTokens
    from runtime.report.html import Part

__all__ = ["FULL", "Effort", "demo"]


@dataclass(frozen=True)
class Effort:
    """How much the demo measures."""

    fit_prompts: int
    test_prompts: int
    inflated_prompts: int
    new_tokens: int
    calibration_s: tuple[float, float]
    tokens: tuple[int, ...]
    resamples: int
    repeats: int


FULL = Effort(
    fit_prompts=24, test_prompts=16, inflated_prompts=5, new_tokens=64, calibration_s=(6.0, 14.0),
    tokens=(1, 2, 3, 5, 9, 17, 33), resamples=500, repeats=2,
)  # fmt: skip
FAST = Effort(
    fit_prompts=3, test_prompts=2, inflated_prompts=1, new_tokens=12, calibration_s=(0.3, 0.5), tokens=(1, 5, 17),
    resamples=100, repeats=1,
)  # fmt: skip
BATCHES, CONTEXTS = (1, 4), (128, 384)


@dataclass(frozen=True)
class _Run:
    """What both halves of the demo share."""

    effort: Effort
    seed: int
    workloads: Sequence[str] | None
    fit_prompts: list[PromptTokens]
    test_prompts: list[PromptTokens]
    trace: Trace
    fit: AcceptanceFit
    progress: Progress


def demo(
    fast: Annotated[bool, typer.Option("--fast", help="Few prompts and tokens: to see that it runs.")] = False,
    workload: options.Workloads = None,
    seed: options.Seed = 0,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the documents and the report.")] = Path(
        "out/demo"
    ),
    as_json: options.AsJson = False,
) -> None:
    """Record, fit, calibrate, plan, run, validate and report, on the house target and on a larger copy of it.

    The copy has about 80 million parameters and the same function, so that the trace serves both and only the cost
    is measured anew. Under four minutes on two cores.

    Example: reader demo --workload copy
    """
    begun = perf_counter()
    effort = FAST if fast else FULL
    with progress_bars() as progress:
        parts = _both(effort, workload, seed, output, progress)
        from runtime.report.html import write_report

        report = write_report(output / "report.html", parts, title="reader demo: predicted against measured")
    rows = [row for part in parts for row in _rows(part)]
    facts = {"kind": "demo", "report": str(report), "seconds": perf_counter() - begun}
    show_rows(rows, as_json=as_json, title="predicted [95 % interval] against measured", facts=facts)
    if not as_json:
        print(f"{facts['seconds']:.0f} s. The report, with trees and figures: {report}")


def _both(effort: Effort, workloads: list[str] | None, seed: int, output: Path, progress: Progress) -> list[Part]:
    from reader_theory.acceptance.fit import fit_acceptance
    from runtime.measure.record import record_trace
    from runtime.measure.replay import grown_family
    from runtime.models.house.inflate import inflate

    house = load_models(None, None, "float32", progress)

    def prompts(split: str, limit: int) -> list[PromptTokens]:
        return load_prompt_tokens(None, house.tokenizer, workloads=workloads, split=split, limit=limit)

    chosen = prompts("fit", effort.fit_prompts)
    grown = [
        policy for policy in grown_family(drafted=True) if policy.drafter is None or policy.skip_draft_at is not None
    ]
    trace = record_trace(
        house.target, house.drafts, chosen, path=output / "trace.json", new_tokens=effort.new_tokens, seed=seed,
        names=house.names, grown=grown, progress=progress,
    )  # fmt: skip
    fit = fit_acceptance(trace, resamples=effort.resamples, seed=seed)
    fit.write(output / "fit.json")
    shared = _Run(effort, seed, workloads, chosen, prompts("test", effort.test_prompts), trace, fit, progress)
    first = _half(shared, house, "float32", effort.calibration_s[0], output / "house")
    with tempfile.TemporaryDirectory() as scratch:
        progress("inflate", 0, 1)
        folder = Path(scratch) / "house-inflated"
        inflate(source_of(house.names[0]), folder, seed=seed)
        progress("inflate", 1, 1)
        large = load_models(str(folder), list(house.names[1].values()), "bfloat16", progress)
    named = Models(large.target, large.drafts, large.tokenizer, ("house-inflated", house.names[1]))
    fewer = _limited(shared.test_prompts, effort.inflated_prompts)
    smaller = _Run(effort, seed, workloads, chosen, fewer, trace, fit, progress)
    return [first, _half(smaller, named, "bfloat16", effort.calibration_s[1], output / "inflated")]


def _half(run: _Run, models: Models, dtype: str, seconds: float, output: Path) -> Part:
    """Calibrate, plan, run and validate one target."""
    from optimizer.plan import make_plan
    from reader_theory.documents import Stamp
    from reader_theory.validate import validate
    from runtime.cli._report_advice import advice_of
    from runtime.measure.calibrate import calibrate_cost
    from runtime.measure.run import run_plan
    from runtime.report.html import Part

    name = models.names[0]

    def progress(label: str, done: int, total: int) -> None:
        run.progress(f"{name}: {label}", done, total)

    cost = calibrate_cost(
        models.target, models.drafts, run.fit_prompts, device_name=Stamp.now().machine, names=models.names, dtype=dtype,
        batches=BATCHES, tokens=run.effort.tokens, contexts=CONTEXTS, seconds=seconds, seed=run.seed,
        on_disturbance="note", progress=progress,
    )  # fmt: skip
    cost.write(output / "cost.json")
    per_workload = len(run.test_prompts) // len({prompt.workload for prompt in run.test_prompts})
    plan = make_plan(
        run.fit, cost, run.trace, batches=BATCHES, new_tokens=run.effort.new_tokens,
        prompts_per_workload=per_workload, resamples=run.effort.resamples, seed=run.seed, progress=progress,
    )  # fmt: skip
    plan.write(output / "plan.json")
    record = run_plan(
        models.target, models.drafts, plan, run.test_prompts, path=output / "run.json", batches=BATCHES,
        repeats=run.effort.repeats, seed=run.seed, progress=progress,
    )  # fmt: skip
    validation = validate(plan, record)
    validation.write(output / "validation.json")
    parameters = "" if name != "house-inflated" else ", the same function at about 80 million parameters"
    advice = advice_of(plan, run.fit, cost, run.trace)
    return Part(plan, record, validation, run.fit, cost, run.trace, f"{name}, {dtype}{parameters}", advice)


def _limited(prompts: list[PromptTokens], limit: int) -> list[PromptTokens]:
    taken: dict[str, int] = {}
    kept: list[PromptTokens] = []
    for prompt in prompts:
        taken[prompt.workload] = taken.get(prompt.workload, 0) + 1
        if taken[prompt.workload] <= limit:
            kept.append(prompt)
    return kept


def _rows(part: Part) -> list[dict[str, Any]]:
    from runtime.cli._summaries import lossless_in_words

    rows: list[dict[str, Any]] = []
    assert part.record is not None, "the demo runs its plans"
    for cell in part.record.cells:
        found = part.plan.entry(cell.workload, cell.batch, cell.context_tokens).prediction
        rows.append(
            {
                "target": part.record.target,
                "workload": cell.workload,
                "batch": cell.batch,
                "policy": cell.policy.name,
                "speed_up": found.speed_up,
                "measured_speed_up": cell.times_plain,
                "tokens_per_step": found.tokens_per_step,
                "measured": cell.tokens_per_step,
                "tokens_per_s": found.tokens_per_s,
                "measured_per_s": cell.tokens_per_s,
                "output": lossless_in_words(cell.lossless, part.record.lossless),
            }
        )
    return rows
