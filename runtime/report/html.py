"""The report: one self-contained HTML file from a Plan, its RunRecord, its Validation, and what they were made from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from reader_theory.documents import Comparison, Cost, Plan, PlanEntry, RunRecord, Trace, Validation
from reader_theory.documents.base import Document, write_atomically
from reader_theory.documents.fit import AcceptanceFit, WorkloadFit
from reader_theory.documents.head_inspection import HeadInspection
from reader_theory.errors import require
from reader_theory.rules import RULES
from runtime.report import figures
from runtime.report.advice import Advice
from runtime.report.numbers import interval, number

__all__ = ["Part", "write_report"]

_SCALES = {"step_s": ("milliseconds a step", 1e3), "tokens_per_s": ("tokens a second", 1.0)}
_CHECKS = {
    "greedy_identical": "identical to plain decoding, token for token",
    "greedy_near_tie": "identical, but for swaps of near-tied logits",
    "greedy_different": "changed by drafting: not lossless",
    "sampled": "sampled from the same law",
    "not_checked": "not checked",
}


@dataclass(frozen=True)
class Part:
    """One plan with its run: a section of the report.

    Parameters
    ----------
    record : RunRecord, optional
        None where a benchmark of another engine was validated.
    fit, cost, trace, head : documents, optional
        Each adds its figures.
    advice : Advice
        What to paste, what it costs in memory, what would change the answer.
    title : str
        Heading of the section; target and type when left out.
    """

    plan: Plan
    record: RunRecord | None
    validation: Validation
    fit: AcceptanceFit | None = None
    cost: Cost | None = None
    trace: Trace | None = None
    title: str = ""
    advice: Advice = field(default_factory=Advice)
    head: HeadInspection | None = None

    def __post_init__(self) -> None:
        found = (self.validation.plan, self.validation.record)
        needed = (self.plan.fingerprint(), found[1] if self.record is None else self.record.fingerprint())
        require(
            found == needed,
            "`validation` must be of this plan and this record",
            got=f"a validation of plan {found[0]} and record {found[1]}, and plan {needed[0]} and record {needed[1]}",
            fix="Run `reader validate` on these two again.",
        )


def write_report(path: str | Path, parts: Sequence[Part], *, title: str = "Predicted against measured") -> Path:
    """Render `parts` and write the file, whole or not at all."""
    return write_atomically(Path(path), render_report(parts, title=title).encode())


def render_report(parts: Sequence[Part], *, title: str = "Predicted against measured") -> str:
    """The report as HTML that loads nothing from anywhere.

    Raises
    ------
    InvalidInputError
        If there is no part.
    """
    from jinja2 import Environment, StrictUndefined

    require(len(parts) > 0, "`parts` must hold at least one run", got="none", fix="Pass a plan with its run.")
    source = files("runtime.report").joinpath("template.html").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(source).render(title=title, sections=[_section(part) for part in parts])


def is_lossy(document: Plan | RunRecord) -> bool:
    """Whether the output's law is not the target's: typical acceptance and its like."""
    if isinstance(document, RunRecord):
        return not document.lossless
    return document.verification not in RULES or not RULES[document.verification].lossless


def _section(part: Part) -> dict[str, Any]:
    plan, record = part.plan, part.record
    return {
        "title": part.title or f"{plan.target}, {plan.dtype}",
        "facts": _facts(part),
        "lossy": is_lossy(plan) or (record is not None and is_lossy(record)),
        "verification": (record or plan).verification,
        "headlines": list(_headlines(part)),
        "summary": list(_summary(part) if record is not None else _served(part)),
        "advice": part.advice,
        "notes": part.validation.notes,
        "comparison": _safe(figures.comparison_figure(part.validation)),
        "comparisons": list(_comparisons(part.validation)),
        "coverage": _coverage(part.validation),
        "terms": "" if record is None else _safe(figures.terms_figure(plan, record)),
        "trees": list(_trees(part)),
        "acceptance": _safe(figures.acceptance_figure(part.fit)) if part.fit else "",
        "reliability": _safe(figures.reliability_figure(part.fit)) if part.fit else "",
        "fitted": list(_fitted(part.fit)) if part.fit else [],
        "head": _safe(figures.head_figure(part.head)) if part.head else "",
        "cost": _safe(figures.cost_figure(part.cost)) if part.cost else "",
        "contexts": part.cost.target_forward.context if part.cost else (),
        "trace": _trace(part.trace) if part.trace else "",
        "documents": list(_stamps(part)),
    }


def _safe(svg: str) -> Any:
    """Markup that the template must not escape: drawn here, from numbers and escaped names."""
    from markupsafe import Markup

    return Markup(svg)


def _facts(part: Part) -> dict[str, str]:
    told = part.record or part.plan
    return {
        "Target": told.target,
        "Drafters": ", ".join(f"{name} ({model})" if model else name for name, model in told.drafters.items()),
        "Device": told.device,
        "Weights": told.dtype,
        "Decoding": "greedy" if told.temperature == 0 else f"sampled at temperature {told.temperature:g}",
        "Verification": f"{told.verification} ({'LOSSY' if is_lossy(told) else 'lossless'})",
        "Output tokens": f"at most {told.new_tokens} a request",
    }


def _headlines(part: Part) -> Iterator[dict[str, str]]:
    """The speed-up of each workload at its smallest batch: measured, where it was, and predicted."""
    for workload in part.plan.workloads:
        entry = min((e for e in part.plan.entries if e.workload == workload), key=lambda e: e.batch)
        if entry.policy.kind == "off":
            told = {"policy": "nothing is worth drafting", "measured": "", "predicted": ""}
            yield {"workload": workload, "batch": str(entry.batch), **told}
            continue
        rows = [row for row in part.validation.of("speed_up") if (row.workload, row.batch) == (workload, entry.batch)]
        yield {
            "workload": workload, "batch": str(entry.batch), "policy": entry.policy.name,
            "measured": number(rows[0].measured) if rows else "",
            "predicted": interval(entry.prediction.speed_up),
        }  # fmt: skip


def _served(part: Part) -> Iterator[dict[str, str]]:
    """One row an entry that a benchmark measured."""
    cells: dict[tuple[str, int, str], dict[str, Comparison]] = {}
    for row in part.validation.comparisons:
        cells.setdefault((row.workload, row.batch, row.policy.name), {})[row.quantity] = row
    for (workload, batch, policy), rows in cells.items():
        told = {
            name: ("-", "not measured") if name not in rows else (
                interval(rows[name].predicted), number(rows[name].measured)
            )
            for name in ("speed_up", "tokens_per_step", "tokens_per_s")
        }  # fmt: skip
        yield {
            "workload": workload, "batch": str(batch), "policy": policy,
            "predicted_speed_up": told["speed_up"][0], "speed_up": told["speed_up"][1],
            "predicted_step": told["tokens_per_step"][0], "measured_step": told["tokens_per_step"][1],
            "predicted_rate": told["tokens_per_s"][0], "measured_rate": told["tokens_per_s"][1],
            "check": _CHECKS["not_checked"],
        }  # fmt: skip


def _summary(part: Part) -> Iterator[dict[str, str]]:
    """One row a cell: what was chosen, predicted and measured."""
    assert part.record is not None, "a run has cells"
    for cell in part.record.cells:
        found = part.plan.entry(cell.workload, cell.batch, cell.context_tokens).prediction
        gain = cell.times_plain
        yield {
            "workload": cell.workload,
            "batch": str(cell.batch),
            "policy": cell.policy.name,
            "predicted_speed_up": interval(found.speed_up),
            "speed_up": "not measured" if gain is None else interval(gain),
            "predicted_step": interval(found.tokens_per_step),
            "measured_step": number(cell.tokens_per_step),
            "predicted_rate": interval(found.tokens_per_s),
            "measured_rate": number(cell.tokens_per_s),
            "check": "LOSSY" if is_lossy(part.record) else _CHECKS[cell.lossless],
        }


def _comparisons(validation: Validation) -> Iterator[dict[str, Any]]:
    for row in validation.comparisons:
        label, factor = _SCALES.get(row.quantity, (row.quantity.replace("_", " ").replace("per", "a"), 1.0))
        yield {
            "workload": row.workload,
            "batch": row.batch,
            "policy": row.policy.name,
            "quantity": label,
            "predicted": interval(row.predicted.scaled(factor)),
            "measured": number(row.measured * factor),
            "pace": f"{row.pace:.3f}",
            "error": f"{100 * row.relative_error:+.1f} %",
            "inside": row.inside,
        }


def _coverage(validation: Validation) -> list[tuple[str, int, int]]:
    """(quantity, cells inside, cells) of every quantity."""
    names = dict.fromkeys(row.quantity for row in validation.comparisons)
    rows = {name: validation.of(name) for name in names}
    return [(name.replace("_", " "), sum(row.inside for row in found), len(found)) for name, found in rows.items()]


def _trees(part: Part) -> Iterator[dict[str, Any]]:
    """Each workload's policies, those of several batches once."""
    for workload in part.plan.workloads:
        batches: dict[Any, list[int]] = {}
        others: dict[Any, str] = {}
        for entry in part.plan.entries:
            if entry.workload == workload:
                batches.setdefault(entry.policy, []).append(entry.batch)
                others.setdefault(entry.policy, _others(entry))
        for policy, at in batches.items():
            fixed = policy.fixed is not None or policy.retrieved is not None
            fitted = _fit_of(part.fit, workload)
            line = figures.chain_line(policy, fitted) if fixed else None
            drawn = _safe(figures.tree_figure(policy, fitted)) if fixed and line is None else ""
            heads = ", ".join(map(str, sorted(at)))
            yield {
                "workload": workload,
                "batches": heads,
                "policy": policy.name,
                "svg": drawn,
                "chain": [{"word": word, "chance": chance} for word, chance in line or ()],
                "rule": f"{policy.in_words} {others[policy]}".strip(),
            }


def _others(entry: PlanEntry) -> str:
    """What other drafters would have given, by the plan."""
    told = [
        f"{name} {each.tokens_per_s:.4g} ({each.policy.name})"
        for name, each in entry.alternatives.items()
        if name != "off" and name not in entry.policy.drafters
    ]
    return f"Tokens a second with other drafters at batch {entry.batch}: {'; '.join(told)}." if told else ""


def _fit_of(fit: AcceptanceFit | None, workload: str) -> WorkloadFit | None:
    return next((found for found in fit.workloads if found.workload == workload), None) if fit else None


def _fitted(fit: AcceptanceFit) -> Iterator[dict[str, str]]:
    """One row a workload and drafter."""
    for found in fit.workloads:
        for name, each in found.drafters.items():
            yield {
                "workload": found.workload,
                "prompts": str(found.prompts),
                "positions": str(found.positions),
                "drafter": name,
                "first": interval(each.geometric) if each.geometric else "-",
                "chain": interval(each.tokens_per_step["chain 4"]),
                "longer": interval(each.tokens_per_step["chain 8"]),
            }


def _trace(trace: Trace) -> str:
    counts = ", ".join(f"{sum(p.workload == name for p in trace.prompts)} {name}" for name in trace.workloads)
    positions = len(trace.columns["prompt"])
    return f"The trace holds {len(trace.prompts)} prompts ({counts}) and {positions} positions."


def _stamps(part: Part) -> Iterator[dict[str, str]]:
    kept: tuple[Document | None, ...] = (
        part.trace, part.fit, part.cost, part.plan, part.record, part.validation,
    )  # fmt: skip
    for document in kept:
        if document is not None:
            stamp = document.stamp
            versions = ", ".join(f"{name} {version}" for name, version in stamp.versions.items())
            yield {
                "kind": document.kind.replace("_", " "),
                "fingerprint": document.fingerprint(),
                "made_at": stamp.made_at,
                "machine": f"{stamp.machine}, {stamp.cores} cores",
                "versions": f"Python {stamp.python}, {versions}".rstrip(", "),
                "seed": "-" if stamp.seed is None else str(stamp.seed),
            }
