"""`reader inspect-head`: how a head behaves as it feeds on its own states."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from reader_theory.errors import require
from runtime.cli import _options as options
from runtime.cli._shared import output_path, progress_bars, show_document

__all__ = ["inspect_head"]


def inspect_head(
    head: Annotated[str, typer.Argument(help="Folder of the head, or smollm2-head.")],
    target: Annotated[str, typer.Option(help="Folder or hub name of the model that it drafts for.")],
    prompts: options.Prompts = None,
    workload: options.Workloads = None,
    split: options.Split = "test",
    limit: options.Limit = 8,
    steps: Annotated[int, typer.Option(min=4, max=64, help="Draft steps.")] = 8,
    new_tokens: Annotated[int, typer.Option(min=8, help="Output tokens a prompt.")] = 96,
    seed: Annotated[int, typer.Option(hidden=True, help="Taken for uniformity; nothing here is random.")] = 0,
    output: options.Output = Path("out/head_inspection.json"),
    as_json: options.AsJson = False,
) -> None:
    """Measure a head's states, attention and acceptance by draft step, on prompts as they are and disturbed.

    Example: reader inspect-head smollm2-head --target out/models/smollm2 --prompts chats.jsonl
    """
    output_path(output, ".json")
    import torch

    from runtime.cli._models import load_prompt_tokens, quiet, source_of, tokenizer_of
    from runtime.drafters.head.checkpoint import is_head
    from runtime.drafters.head.model import load_head
    from runtime.measure.inspect_head import inspect_head as inspected
    from runtime.models.load import wrap
    from runtime.models.transformers import load_transformers

    folder = source_of(head)
    require(
        is_head(folder),
        "`head` must be a draft head's folder",
        got=f"{head!r}, whose config.json tells of none",
        fix="Train one with `reader train-head`, or take smollm2-head.",
    )
    quiet()
    with progress_bars() as progress:
        whole, tokenizer = load_transformers(source_of(target), torch.float32), tokenizer_of(target)
        network = load_head(folder, wrap(whole, check=False)).network
        chosen = load_prompt_tokens(prompts, tokenizer, workloads=workload, split=split, limit=limit)
        found = inspected(
            whole, network, chosen, tokenizer, names=(target, head), steps=steps, new_tokens=new_tokens,
            progress=progress,
        )  # fmt: skip
    found.write(output)
    show_document(found, output, as_json=as_json)
