"""`reader record`: models and prompts to a Trace."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from runtime.cli import _options as options
from runtime.cli._shared import output_path, progress_bars, show_document

__all__ = ["record"]


def record(
    target: options.Target = None,
    draft: options.Draft = None,
    kv: options.Kv = None,
    datastore: options.DatastoreFile = None,
    prompts: options.Prompts = None,
    workload: options.Workloads = None,
    split: options.Split = "fit",
    limit: options.Limit = None,
    temperature: options.Temperature = 0.0,
    new_tokens: Annotated[int, typer.Option(min=1, help="Output tokens a prompt.")] = 96,
    candidates: Annotated[int, typer.Option(min=1, help="Tokens of the draft that are ranked.")] = 8,
    retrieval_tokens: Annotated[int, typer.Option(min=1, help="Longest retrieved chain.")] = 24,
    grown: Annotated[
        bool, typer.Option("--grown", help="Run trees grown from both sources as well, for the plan to weigh.")
    ] = False,
    batch: Annotated[int, typer.Option(min=1, help="Prompts at once.")] = 8,
    stop: Annotated[list[str] | None, typer.Option(help="Text that ends an output; repeatable.")] = None,
    ignore_eos: Annotated[bool, typer.Option("--ignore-eos", help="Go on past the model's end tokens.")] = False,
    processor: options.Processors = None,
    dtype: options.Dtype = None,
    seed: options.Seed = 0,
    output: options.Output = Path("out/trace.json"),
    as_json: options.AsJson = False,
) -> None:
    """Let the target answer prompts, and record what each drafter would have offered at every position.

    Example: reader record --target Qwen/Qwen3-0.6B --prompts chats.jsonl --new-tokens 128
    """
    output_path(output, ".json")
    from runtime.cli._models import load_models, load_prompt_tokens, opened_for, processors_of
    from runtime.measure.record import models_of, record_trace
    from runtime.measure.replay import grown_family

    with progress_bars() as progress:
        models = load_models(target, draft, dtype or "float32", progress, kv)
        chosen = load_prompt_tokens(prompts, models.tokenizer, workloads=workload, split=split, limit=limit)
        store = opened_for(models, datastore)
        trace = record_trace(
            models.target, models.drafts, chosen, path=output, temperature=temperature, new_tokens=new_tokens,
            candidates=candidates, retrieval_tokens=retrieval_tokens, seed=seed, max_batch=batch, names=models.names,
            grown=grown_family(drafted=bool(models_of(models.drafts)), datastore=store is not None) if grown else (),
            datastore=store, progress=progress,
            stop=tuple(stop or ()), ignore_eos=ignore_eos, tokenizer=models.tokenizer,
            processors=processors_of(processor),
        )  # fmt: skip
    show_document(trace, output, as_json=as_json)
