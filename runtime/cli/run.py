"""`reader run`: a Plan on the real model to a RunRecord."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from runtime.cli import _options as options
from runtime.cli._shared import output_path, progress_bars, show_document

__all__ = ["run"]


def run(
    plan: options.PlanFile = Path("out/plan.json"),
    target: options.Target = None,
    draft: options.Draft = None,
    kv: options.Kv = None,
    datastore: options.DatastoreFile = None,
    prompts: options.Prompts = None,
    workload: options.Workloads = None,
    split: options.Split = "test",
    limit: options.Limit = None,
    batch: options.Batches = None,
    repeats: Annotated[int, typer.Option(min=1, help="Runs of each cell, there and back beside plain decoding.")] = 2,
    temperature: Annotated[float | None, typer.Option(min=0.0, help="The plan's when left out.")] = None,
    verification: options.Verification = None,
    compare_plain: Annotated[bool, typer.Option(help="Decode the same requests without drafts as well.")] = True,
    stop: Annotated[list[str] | None, typer.Option(help="Text that ends an output; repeatable.")] = None,
    ignore_eos: Annotated[bool, typer.Option("--ignore-eos", help="Go on past the model's end tokens.")] = False,
    processor: options.Processors = None,
    language: options.LanguageFile = None,
    validity: options.Validities = "exact",
    repetition_penalty: Annotated[float, typer.Option(help="Of each request; 1 is none.")] = 1.0,
    presence_penalty: Annotated[float, typer.Option(help="Of each request, -2 to 2; 0 is none.")] = 0.0,
    frequency_penalty: Annotated[float, typer.Option(help="Of each request, -2 to 2; 0 is none.")] = 0.0,
    dtype: options.Dtype = None,
    seed: options.Seed = 0,
    output: options.Output = Path("out/run.json"),
    as_json: options.AsJson = False,
) -> None:
    """Run a plan on prompts that the fit has not seen; models, type and temperature are the plan's unless given.

    Example: reader run out/plan.json --split test --batch 1 --repeats 3
    """
    output_path(output, ".json")
    from reader_theory.documents import Plan
    from runtime.cli._models import (
        drafts_planned,
        load_models,
        load_prompt_tokens,
        opened_for,
        processors_of,
        read_for,
    )
    from runtime.measure.run import measure_cells, planned_rule, planned_tasks

    planned = Plan.read(plan)
    rule, parameters = planned_rule(planned, verification)
    with progress_bars() as progress:
        names = target or planned.target, draft or drafts_planned(planned)
        models = load_models(*names, dtype or planned.dtype, progress, kv or planned.kv)
        wanted = sorted({planned.entry(name, 1).workload for name in workload or planned.workloads})
        chosen = load_prompt_tokens(prompts, models.tokenizer, workloads=wanted, split=split, limit=limit)
        tasks = planned_tasks(planned, chosen, workloads=workload, batches=batch)
        record = measure_cells(
            models.target, models.drafts, tasks, chosen, path=output, new_tokens=planned.new_tokens, repeats=repeats,
            temperature=planned.temperature if temperature is None else temperature, seed=seed,
            verification=rule, rule_parameters=parameters, compare_plain=compare_plain,
            plan=planned.fingerprint(), names=models.names,
            dtype=dtype or planned.dtype, datastore=opened_for(models, datastore), progress=progress,
            stop=tuple(stop or ()), ignore_eos=ignore_eos, tokenizer=models.tokenizer,
            processors=processors_of(processor),
            language=read_for(language, models.tokenizer), validity=validity,
            penalties={"repetition_penalty": repetition_penalty, "presence_penalty": presence_penalty,
                       "frequency_penalty": frequency_penalty},
        )  # fmt: skip
    show_document(record, output, as_json=as_json)
