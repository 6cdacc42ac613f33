"""`reader advise`: metrics, a configuration and a card to what to paste, what it gains, and when it would not."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reader_theory.errors import require
from runtime.cli import _options as options
from runtime.cli._shared import ExitCode, show_rows
from runtime.cli.cost import measured_steps

if TYPE_CHECKING:
    from optimizer.export import Exported
    from optimizer.imported_plan import ImportedStudy
    from reader_theory.documents import Plan, PlanEntry
    from runtime.cli._predicted import Served

__all__ = ["advise"]

ENGINES = ("vllm", "sglang", "tensorrt-llm", "llama.cpp")
_METHODS = {"vllm": ("eagle3", "draft_model"), "sglang": ("EAGLE3", "STANDALONE"),
            "tensorrt-llm": ("Eagle3", "Draft_Target"), "llama.cpp": ("draft-eagle3", "draft-simple")}  # fmt: skip
"""How an engine runs an EAGLE-3 head, and any other model that drafts."""


def advise(
    engine: Annotated[str, typer.Option(help=f"What serves: {', '.join(ENGINES)}.")],
    model: options.Config,
    metrics: Annotated[list[Path], typer.Option(help="Metrics or logs with acceptance, in order of time; repeatable.")],
    device: options.DeviceName = "h100",
    draft: options.DraftConfig = "none",
    concurrency: Annotated[
        int | None, typer.Option(min=1, max=65536, help="Requests served at once; 1 when left out.")
    ] = None,
    rate: Annotated[float | None, typer.Option(help="Requests a second, instead of --concurrency.")] = None,
    context: Annotated[int, typer.Option(min=1, max=10**8, help="Mean cached tokens of a request.")] = 1024,
    new_tokens: Annotated[int, typer.Option(min=1, max=10**7, help="Output tokens of a request.")] = 256,
    num_steps: Annotated[
        int | None, typer.Option(min=1, max=1024, help="Tokens drafted a step, if files do not tell.")
    ] = None,
    only: Annotated[list[str] | None, typer.Option(help="LABEL=VALUE of the one server in the files.")] = None,
    method: Annotated[
        str | None, typer.Option(help="The engine's word for the draft; told by its name if not.")
    ] = None,
    max_batch: Annotated[int | None, typer.Option(min=1, max=10**6, help="The server's largest batch.")] = None,
    measured: options.MeasuredFile = None,
    bench: options.BenchFiles = None,
    dtype: options.ServedDtype = "bfloat16",
    quantization: options.Quantization = None,
    kv_dtype: options.KvDtype = "auto",
    tensor_parallel: options.TensorParallel = 1,
    device_file: options.DeviceFile = None,
    memory_share: options.MemoryShare = 0.9,
    kv_tokens: options.KvTokens = None,
    seed: options.Seed = 0,
    as_json: options.AsJson = False,
) -> None:
    """Say what to draft on a server that already counts acceptance: flags, gain, memory, and what would change it.

    Example: reader advise --engine vllm --model Qwen3-32B --draft Qwen3-32B-speculator.eagle3 --device h100
    --metrics metrics.txt --concurrency 16
    """
    _check(engine, draft, concurrency, rate)
    from optimizer.imported_plan import ImportedStudy, drafter_counted
    from runtime.cli._predicted import served_by
    from runtime.cli.import_ import labels_of
    from runtime.importers import read_acceptance

    counted = read_acceptance(metrics, only=labels_of(only), depth=num_steps)
    served = served_by(
        model, device, draft=draft, device_file=device_file, dtype=dtype, quantization=quantization,
        kv_dtype=kv_dtype, tensor_parallel=tensor_parallel, share=memory_share, kv_tokens=kv_tokens,
    )  # fmt: skip
    points = measured_steps(measured, bench, looks_up=served.looks_up is not None)
    cost = served.cost(points, batches=None, contexts=None, max_nodes=max(counted.depth, 8))
    study = ImportedStudy(counted, cost, drafter_counted(cost, None), counted.depth, seed=seed)
    batch = concurrency or 1
    if rate is not None:
        batch = _settled(study, rate, context, new_tokens)
    advice = _advised(study, served, engine, batch, context, new_tokens, method, max_batch)
    _show(advice, as_json)
    if advice.entry.policy.kind == "off":
        raise typer.Exit(ExitCode.NOT_MET)


def _check(engine: str, draft: str, concurrency: int | None, rate: float | None) -> None:
    require(
        engine in ENGINES,
        "`--engine` must be one that is advised on",
        got=repr(engine),
        fix=f"Choose one of {', '.join(ENGINES)}; `reader export` knows more.",
    )
    require(
        draft != "none",
        "`--draft` must say what drafts",
        got="none",
        fix='Pass the configuration or the known name of the head or draft, or "ngram" or "suffix".',
    )
    require(
        concurrency is None or rate is None,
        "`--concurrency` and `--rate` must not both be given",
        got=f"{concurrency} at once, and {rate} a second",
        fix="Pass the one that is known: each tells the other.",
    )


def _settled(study: ImportedStudy, rate: float, context: int, new_tokens: int) -> int:
    """Requests that run at once at a rate, under the choice at that very batch.

    Raises
    ------
    InvalidInputError
        If the rate is not positive, or more than is served.
    """
    from optimizer.imported_schedule import settled_batch

    settled = settled_batch(study, rate, context, new_tokens)
    return max(1, round(settled))


@dataclass(frozen=True)
class _Advice:
    """Everything that is told.

    Attributes
    ----------
    study, served, entry : what was planned, from what
    made : Exported
        What to paste.
    command_line : str
    notes : tuple of str
    """

    study: ImportedStudy
    served: Served
    entry: PlanEntry
    made: Exported
    command_line: str
    notes: tuple[str, ...]

    @property
    def why_off(self) -> str | None:
        """Why nothing is drafted; None where something is."""
        if self.entry.policy.kind != "off":
            return None
        from optimizer.imported_plan import WORTH
        from reader_theory.documents.plan import RISK

        batch, context = self.entry.batch, float(self.entry.context_tokens or 0)
        best = max(range(1, len(self.study.lengths)), key=lambda k: self.study.rate(k, batch, context))
        gain = self.study.entry(batch, self.entry.context_tokens, length=best).prediction.speed_up
        return (
            f"the best chain, {self.study.policy(best).name}, gains {gain}: drafting is advised from {WORTH} on, where "
            f"the chance to lose is at most {100 * RISK:.0f} %"
        )

    def rows(self) -> list[dict[str, Any]]:
        """Every length that was weighed, fastest first."""
        plain = self.study.rate(0, self.entry.batch, float(self.entry.context_tokens or 0))
        return [
            {"policy": each.policy.name, "tokens_per_step": each.tokens_per_step, "tokens_per_s": each.tokens_per_s,
             "speed_up": each.tokens_per_s / plain if plain > 0 else None}
            for each in self.entry.candidates
        ]  # fmt: skip

    def memory(self) -> dict[str, Any]:
        """Where a card's memory goes, and the requests that fit; empty where nobody knows it."""
        if self.served.step.device.memory_bytes.value <= 0:
            return {}
        with_draft, without = self.served.memory(), self.served.memory(drafting=False)
        held = self.study.cost.kv_tokens
        name, context = self.study.drafter, self.entry.context_tokens or 1
        return {
            "weights_gib": with_draft.weight_bytes / 2**30, "drafter_gib": with_draft.drafter_bytes / 2**30,
            "kv_bytes_per_token": with_draft.bytes_per_token, "kv_tokens": held[name], "kv_tokens_off": held["off"],
            "requests_that_fit": held[name] // context, "requests_that_fit_off": held["off"] // context,
            "usable_gib": without.usable_bytes / 2**30,
        }  # fmt: skip

    def sensitivity(self) -> list[dict[str, Any]]:
        """Acceptance 10 % lower and higher, then where the choice flips."""
        from optimizer.advice import acceptance_scaled, flips

        batch, context = self.entry.batch, self.entry.context_tokens or 1
        told = [
            {"what": f"acceptance {percent:+d} %", "policy": entry.policy.name, "speed_up": entry.prediction.speed_up}
            for percent in (-10, 10)
            for entry in [acceptance_scaled(self.study, 1 + percent / 100).entry(batch, context)]
        ]
        return [
            *told,
            *(
                {"what": _in_words(each.what, each.at), "policy": each.becomes, "speed_up": None}
                for each in flips(self.study, batch, float(context))
            ),
        ]


def _in_words(what: str, at: float) -> str:
    return f"acceptance {100 * (at - 1):+.0f} %" if what == "acceptance" else f"{what} {at:.0f}"


def _advised(
    study: ImportedStudy, served: Served, engine: str, batch: int, context: int, new_tokens: int, method: str | None,
    max_batch: int | None,
) -> _Advice:  # fmt: skip
    from optimizer.export import EXPORTERS, ExportOptions, export
    from optimizer.imported_plan import plan_of

    plan: Plan = plan_of(study, [(batch, context)], new_tokens=new_tokens)
    exporter = EXPORTERS[engine]()
    asked = ExportOptions(
        method=_method(engine, served.draft, method), nearest=True, batch=batch,
        max_batch=max_batch if "max_batch" in exporter.takes else None,
    )  # fmt: skip
    made = export(plan, engine, study.workload, asked)
    line = exporter.command_line(made.config, {suffix: f"{engine}{suffix}" for suffix in exporter.files(made.config)})
    return _Advice(study, served, plan.entries[0], made, line, (*made.notes, *plan.notes))


def _method(engine: str, draft: str | None, method: str | None) -> str | None:
    """The engine's word for the draft, where it takes one."""
    if method is not None or draft is None or engine not in _METHODS:
        return method
    head, model = _METHODS[engine]
    return head if "eagle" in draft.lower() else model


def _show(advice: _Advice, as_json: bool) -> None:
    entry, memory, sensitivity = advice.entry, advice.memory(), advice.sensitivity()
    told = entry.prediction
    if as_json:
        facts = {
            "kind": "advice", "paste": advice.command_line, "config": advice.made.config, "policy": entry.policy.name,
            "batch": entry.batch, "context": entry.context_tokens, "tokens_per_step": told.tokens_per_step,
            "tokens_per_s": told.tokens_per_s, "speed_up": told.speed_up, "why_off": advice.why_off,
            "binding": entry.binding, "extrapolated": entry.extrapolated, "memory": memory, "changes": sensitivity,
            "notes": advice.notes,
        }  # fmt: skip
        show_rows(advice.rows(), as_json=True, facts=facts)
        return
    print(f"paste: {advice.command_line}")
    if advice.made.config and advice.made.engine != "vllm":  # whose command line says it all
        print(json.dumps(advice.made.config))
    if advice.why_off is None:
        print(
            f"gain:  {told.speed_up} times plain decoding: {entry.policy.name}, {told.tokens_per_step} tokens a step, "
            f"{told.tokens_per_s} a second at batch {entry.batch}, context {entry.context_tokens}"
        )
    else:
        print(f"off:   {advice.why_off}")
    if memory:
        print(
            f"memory: {memory['usable_gib']:.1f} GiB usable a card, weights {memory['weights_gib']:.1f}, drafter "
            f"{memory['drafter_gib']:.2f}; the cache holds {memory['kv_tokens']:,} tokens "
            f"({memory['kv_tokens_off']:,} without it), {memory['requests_that_fit']} requests of this context"
        )
    show_rows(advice.rows(), as_json=False, title="what was weighed")
    show_rows(sensitivity, as_json=False, title="what would change the answer")
    if entry.binding:
        print(f"stops at: {', '.join(entry.binding)}")
    for note in advice.notes:
        print(f"note: {note}")
