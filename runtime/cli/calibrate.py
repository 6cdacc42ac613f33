"""`reader calibrate`: models and this device to a Cost."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from runtime.cli import _options as options
from runtime.cli._shared import output_path, progress_bars, show_document

__all__ = ["calibrate"]

CONTEXTS, TOKENS, BATCHES = (128, 512), (1, 2, 3, 5, 9, 17, 33), (1, 2, 4, 8)


def calibrate(
    target: options.Target = None,
    draft: options.Draft = None,
    kv: options.Kv = None,
    datastore: options.DatastoreFile = None,
    prompts: options.Prompts = None,
    workload: options.Workloads = None,
    split: options.Split = "fit",
    limit: options.Limit = 4,
    batch: options.Batches = None,
    tokens: Annotated[list[int] | None, typer.Option(min=1, help="Query tokens a row; repeatable.")] = None,
    context: Annotated[list[int] | None, typer.Option(min=1, help="Context tokens a row; repeatable.")] = None,
    seconds: Annotated[float, typer.Option(min=0.01, help="Time to spend on the target's forwards.")] = 20.0,
    temperature: options.Temperature = 0.0,
    dtype: options.Dtype = None,
    accept_disturbed: Annotated[
        bool, typer.Option("--accept-disturbed", help="Take what does not repeat, with its wide intervals.")
    ] = False,
    device_name: Annotated[str | None, typer.Option(help="Of the device; the system's own when left out.")] = None,
    seed: options.Seed = 0,
    output: options.Output = Path("out/cost.json"),
    as_json: options.AsJson = False,
) -> None:
    """Measure the seconds of every term of a step on this device, against batch, tokens and context.

    Example: reader calibrate --target out/inflated --draft house-draft --dtype bfloat16 --batch 1 --batch 4
    """
    output_path(output, ".json")
    from reader_theory.documents import Stamp
    from runtime.cli._models import load_models, load_prompt_tokens, opened_for
    from runtime.measure.calibrate import calibrate_cost
    from runtime.measure.priced import price_drafter
    from runtime.measure.record import models_of
    from runtime.models.base import LanguageModel

    with progress_bars() as progress:
        models = load_models(target, draft, dtype or "float32", progress, kv)
        chosen = load_prompt_tokens(prompts, models.tokenizer, workloads=workload, split=split, limit=limit)
        sizes = tokens or TOKENS
        cost = calibrate_cost(
            models.target, models_of(models.drafts), chosen, device_name=device_name or Stamp.now().machine,
            names=models.names, dtype=dtype or "float32", batches=batch or BATCHES, tokens=sizes,
            contexts=context or contexts_within(models.target.max_positions, max(sizes)), seconds=seconds, seed=seed,
            temperature=temperature, datastore=opened_for(models, datastore), progress=progress,
            on_disturbance="note" if accept_disturbed else "refuse",
        )  # fmt: skip
        priced = {
            name: price_drafter(draft, name, chosen, model=models.names[1][name], batches=batch or BATCHES)
            for name, draft in models.drafts.items()
            if not isinstance(draft, LanguageModel)
        }
        cost = cost.model_copy(update={"drafters": cost.drafters | priced})
    cost.write(output)
    show_document(cost, output, as_json=as_json)


def contexts_within(max_positions: int, tokens: int) -> tuple[int, ...]:
    """The usual contexts, or as long a one as the model's positions leave room for."""
    room = max_positions - tokens - 1
    return tuple(length for length in CONTEXTS if length <= room) or (max(room, 1),)
