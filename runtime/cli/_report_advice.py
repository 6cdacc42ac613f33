"""What `reader report` and `reader demo` add to the documents: exports, memory and sensitivity of a plan."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from reader_theory.errors import InvalidInputError

if TYPE_CHECKING:
    from optimizer.export import Exported
    from optimizer.sensitivity import Sensitivity
    from reader_theory.cost.model import ModelShape
    from reader_theory.documents import Cost, Plan, Trace
    from reader_theory.documents.fit import AcceptanceFit
    from reader_theory.documents.imported import ImportedAcceptance
    from runtime.report.advice import Advice, Memory, Paste

__all__ = ["PASTED", "advice_of"]

PASTED = ("vllm", "sglang", "llama.cpp")
"""Engines whose flags a report shows when nobody says which."""


def advice_of(
    plan: Plan, fit: AcceptanceFit | ImportedAcceptance | None, cost: Cost | None, trace: Trace | None,
    engines: Sequence[str] = PASTED,
) -> Advice:  # fmt: skip
    """Everything that is told of a plan with the documents that it was made from, as far as there are any.

    Raises
    ------
    InvalidInputError
        If an engine is not known, or a document is not one that the plan was made from.
    """
    from optimizer.export import EXPORTERS
    from runtime.report.advice import Advice, Changed

    known = [EXPORTERS[engine]().name for engine in engines]
    paste = [each for workload in plan.workloads for engine in known for each in _paste(plan, engine, workload)]
    changed = [
        Changed(each.workload, each.condition, each.policy.name, each.speed_up, each.same)
        for each in _sensitivity(plan, fit, cost, trace)
    ]
    return Advice(tuple(paste), tuple(_memory(plan, cost)), tuple(changed))


def _paste(plan: Plan, engine: str, workload: str) -> Iterator[Paste]:
    """What the engine takes, or why it takes nothing of the plan."""
    from optimizer.export import EXPORTERS, ExportOptions, export
    from runtime.report.advice import Paste

    exporter = EXPORTERS[engine]()
    batch = min(entry.batch for entry in plan.entries if entry.workload == workload)
    try:
        made = export(plan, engine, workload, ExportOptions(nearest=True, batch=batch))
    except InvalidInputError as error:
        yield Paste(exporter.format.title, workload, "", f"not this plan: {error.rule}; {error.fix}")
        return
    written = exporter.files(made.config)
    line = exporter.command_line(made.config, {suffix: f"{engine}{suffix}" for suffix in written})
    beside = [
        f"{engine}{suffix}: {json.dumps(part)}" for suffix, part in written.items() if f"{engine}{suffix}" in line
    ]
    yield Paste(exporter.format.title, workload, "\n".join([line, *beside]), _loses(made), made.notes)


def _loses(made: Exported) -> str:
    lost = [choice for choice in made.choices if not choice.exact]
    return "; ".join(str(choice) for choice in lost)


def _sensitivity(
    plan: Plan, fit: AcceptanceFit | ImportedAcceptance | None, cost: Cost | None, trace: Trace | None
) -> list[Sensitivity]:
    from optimizer.export import weigher
    from optimizer.imported_plan import ImportedStudy, drafter_counted
    from optimizer.sensitivity import sensitivity, sensitivity_imported
    from reader_theory.documents.imported import ImportedAcceptance

    if isinstance(fit, ImportedAcceptance):
        if cost is None:
            return sensitivity(plan)
        asked = {name for entry in plan.entries for name in entry.policy.drafters}
        study = ImportedStudy(fit, cost, drafter_counted(cost, min(asked, default=None)), fit.depth)
        return sensitivity_imported(study, plan)
    if fit is None or cost is None or trace is None:
        return sensitivity(plan)
    return sensitivity(plan, weigher(plan, fit, cost, trace), cost)


def _memory(plan: Plan, cost: Cost | None) -> Iterator[Memory]:
    """Weights and keys and values of the models whose configurations are at hand; the cache as the cost tells it."""
    from reader_theory.memory.kv import kv_bytes_per_token
    from reader_theory.memory.scratch import logit_bytes
    from runtime.report.advice import Memory

    target = _shape(plan.target)
    drafters = {name: _shape(model) for name, model in plan.drafters.items() if model is not None}
    shapes = [shape for shape in drafters.values() if shape is not None]
    if target is not None:
        yield Memory(f"weights of {plan.target}", _size(target.weight_bytes()))
    for name, shape in drafters.items():
        if shape is not None:
            yield Memory(f"weights of the drafter {name} ({plan.drafters[name]})", _size(shape.weight_bytes()))
    if target is not None:
        with_drafters, alone = kv_bytes_per_token(target, shapes), kv_bytes_per_token(target)
        yield Memory("keys and values of a token, at 16 bits", f"{_size(alone)}; with drafters {_size(with_drafters)}")
        most = max(entry.batch * (1 + entry.policy.most_nodes) for entry in plan.entries)
        size = _size(logit_bytes(most, 1, target.vocabulary))
        yield Memory(f"logits of the widest step, {most} tokens", size)
    for name, tokens in ({} if cost is None else cost.kv_tokens).items():
        yield Memory(
            "the cache holds, " + ("without a drafter" if name == "off" else f"with {name}"), f"{tokens:,} tokens"
        )


def _shape(name: str) -> ModelShape | None:
    """A model's shape, where its configuration is at hand."""
    from runtime.cli._models import source_of
    from runtime.cli._predicted import model_shape

    try:
        return model_shape(str(source_of(name)))
    except (InvalidInputError, OSError):
        return None


def _size(number: float) -> str:
    """Bytes as people read them."""
    for unit, scale in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if number >= scale:
            return f"{number / scale:.3g} {unit}"
    return f"{number:.0f} bytes"
