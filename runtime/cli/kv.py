"""`reader kv`: caches of keys and values in few bits."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reader_theory.errors import require
from runtime.cli import _options as options
from runtime.cli._shared import guarded, output_path, progress_bars, show_rows

if TYPE_CHECKING:
    from reader_theory.documents.kv_caches import KVCaches

__all__ = ["app", "show_caches"]

app = typer.Typer(no_args_is_help=True, help="Caches that hold keys and values in few bits.")


@app.callback()
def _group() -> None:
    """Keep `fit` a command of its own name."""


@app.command("fit")
@guarded
def fit(
    target: Annotated[str, typer.Argument(help=f"Folder or hub name, or {options.HOUSE_TARGET}.")],
    data: Annotated[
        list[Path] | None,
        typer.Option(help="Text, files or folders of them; repeatable. The running Python's help when left out."),
    ] = None,
    bits: Annotated[
        list[int] | None, typer.Option(min=1, max=4, help="Bits a number, scales on top; repeatable. 2 and 3.")
    ] = None,
    tokens: Annotated[int, typer.Option(min=64, help="To fit predictors to.")] = 8192,
    judge_tokens: Annotated[int, typer.Option(min=8, help="Other ones, that perplexity is measured on.")] = 16384,
    context: Annotated[int, typer.Option(min=2, help="Tokens before each of those at least.")] = 1024,
    length: Annotated[int, typer.Option(min=16, help="Of a span of text.")] = 2048,
    first: Annotated[int, typer.Option(min=0, help="First tokens that are kept as they are.")] = 4,
    recent: Annotated[int, typer.Option(min=1, help="Latest tokens that are kept as they are, at least.")] = 64,
    chunk: Annotated[int, typer.Option(min=1, help="Tokens that are written at once.")] = 64,
    draft: options.Draft = None,
    dtype: options.Dtype = None,
    seed: options.Seed = 0,
    output: options.Output = Path("out/kv.json"),
    as_json: options.AsJson = False,
) -> None:
    """Fit what predicts each layer's keys and values from the layer before, and judge every cache by its perplexity.

    Then: reader run out/plan.json --kv aqua:2.15=out/kv.json

    Example: reader kv fit Qwen/Qwen3-0.6B --data texts/ --output out/kv.json
    """
    output_path(output, ".json")
    from reader_theory.memory import Window
    from runtime.cli._models import load_models
    from runtime.measure.kv import fit_caches, library_texts, read_texts, spans_of
    from runtime.measure.record import models_of

    require(
        context < length,
        "`--context` must be shorter than `--length`",
        got=f"{context}, {length}",
        fix="Score the second half of each span, for example.",
    )
    with progress_bars() as progress:
        models = load_models(target, draft, dtype or "float32", progress)
        require(
            length < models.target.max_positions,
            "`--length` must be within the target's positions",
            got=f"{length} of {models.target.max_positions}",
            fix="Pass shorter --length and --context.",
        )
        texts = read_texts(data, models.tokenizer) if data else library_texts(models.tokenizer)
        document = fit_caches(
            models.target, spans_of(texts, length, tokens, judge_tokens, context), output, target=models.names[0],
            dtype=dtype or "float32", context=context, bits=sorted(set(bits or (2, 3))),
            window=Window(first=first, recent=recent, chunk=chunk), drafts=models_of(models.drafts), seed=seed,
            progress=progress,
        )  # fmt: skip
    show_caches(document, output, as_json)


def show_caches(document: KVCaches, path: Path, as_json: bool) -> None:
    """Each cache's bits and price."""
    facts = {"kind": document.kind, "path": str(path), "fingerprint": document.fingerprint()}
    show_rows([_row(document, cache.name) for cache in document.caches], as_json=as_json, facts=facts)
    if not as_json:
        print(f"{document.kind} written to {path}")


def _row(document: KVCaches, name: str) -> dict[str, Any]:
    cache = document.cache(name)
    return {
        "cache": name,
        "bits": cache.format.bits,
        "bits_at_2048": cache.format.bits_at(2048),
        "perplexity": cache.perplexity.value,
        "over_plain": cache.perplexity_ratio.value,
        "at_least": cache.perplexity_ratio.low,
        "at_most": cache.perplexity_ratio.high,
        "read_us_per_token": cache.read_s * 1e6,
    }
