"""`reader grammar-gap`: how far masking is from a model's own law given a language."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from runtime.cli import _options as options
from runtime.cli._shared import progress_bars, show_rows

__all__ = ["grammar_gap"]


def grammar_gap(
    language: Annotated[Path, typer.Argument(help="What an output may be, as `reader run --language` takes it.")],
    target: options.Target = None,
    prompts: options.Prompts = None,
    workload: options.Workloads = None,
    split: options.Split = "test",
    limit: options.Limit = None,
    temperature: Annotated[float, typer.Option(min=1e-6, help="Part of the law, as are the filters.")] = 1.0,
    top_k: Annotated[int, typer.Option(min=0)] = 0,
    top_p: Annotated[float, typer.Option(min=1e-9, max=1.0)] = 1.0,
    new_tokens: Annotated[int, typer.Option(min=1, help="Most tokens of an output, its end token among them.")] = 64,
    worst: Annotated[int, typer.Option(min=0, help="Strings a prompt that are listed: those that suffer most.")] = 3,
    dtype: options.Dtype = None,
    as_json: options.AsJson = False,
) -> None:
    """Total variation between masking and the model's law given the language, and the strings that suffer most.

    Example: reader grammar-gap choices.txt --target path/to/target --prompts prompts.jsonl
    """
    from runtime.cli._models import load_models, load_prompt_tokens, read_for
    from runtime.engine.sampling import SamplingParams
    from runtime.grammar.gap import grammar_gap as measured

    rows: list[dict[str, Any]] = []
    with progress_bars() as progress:
        models = load_models(target, ["none"], dtype or "float32", progress)
        params = SamplingParams(
            temperature=temperature, top_k=top_k, top_p=top_p, max_new_tokens=new_tokens,
            language=read_for(language, models.tokenizer),
        )  # fmt: skip
        chosen = load_prompt_tokens(prompts, models.tokenizer, workloads=workload, split=split, limit=limit)
        for number, prompt in enumerate(chosen):
            progress("prompts", number, len(chosen))
            gap = measured(models.target, prompt.tokens, params, tokenizer=models.tokenizer)
            told = {"strings": len(gap.faithful), "prefixes": gap.prefixes, "forwards": gap.forwards}
            rows.append({"prompt": prompt.id, "total_variation": gap.total_variation, "mass": gap.mass, **told})
            rows += [
                {
                    "prompt": prompt.id,
                    "string": models.tokenizer.decode(list(each)),
                    "exact": gap.faithful[each],
                    "mask": gap.projected[each],
                }
                for each in gap.worst(worst)
            ]
        progress("prompts", len(chosen), len(chosen))
    summary = [row for row in rows if "string" not in row]
    if as_json:
        mean = sum(row["total_variation"] for row in summary) / len(summary)
        show_rows(rows, as_json=True, facts={"kind": "grammar_gap", "mean_total_variation": mean})
        return
    show_rows(summary, as_json=False, title="masking beside the law given the language")
    if worst:
        show_rows([row for row in rows if "string" in row], as_json=False, title="strings that suffer most")
