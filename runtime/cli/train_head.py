"""`reader train-head`: a draft head for a target, on text that the target writes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from reader_theory.errors import require
from runtime.cli import _options as options
from runtime.cli._shared import progress_bars, show_rows

__all__ = ["train_head"]


def train_head(
    target: Annotated[str, typer.Argument(help="Folder or hub name of the model that the head is to draft for.")],
    data: Annotated[
        list[Path] | None,
        typer.Option(help="Prompts for the target to answer (JSON lines), or text; repeatable. Ours when left out."),
    ] = None,
    kind: Annotated[
        str, typer.Option(help="head: drafts from its own states, a forward a level; block: all levels in one forward.")
    ] = "head",
    block: Annotated[int, typer.Option(min=2, max=64, help="Levels of a block.")] = 8,
    rank: Annotated[int | None, typer.Option(min=1, help="Of the output head; a full one when left out.")] = None,
    trimmed: Annotated[int | None, typer.Option(min=1, help="Only so many of the commonest tokens.")] = None,
    norms: Annotated[
        str, typer.Option(help="post: fc_norm and norm_output; pre: neither; llama: norm_before_fc.")
    ] = "post",
    layers: Annotated[str | None, typer.Option(help="Of the target, such as 2,15,27.")] = None,
    objective: Annotated[str, typer.Option(help="kl, tv, hybrid, nla, or ppow: the reward of rollouts.")] = "kl",
    windows: Annotated[str, typer.Option(help="Of ppow: uniform or adaptive.")] = "adaptive",
    reward: Annotated[
        str, typer.Option(help="Of ppow: accepted, k / (0.12 k + 1); or speed_up, (k + 1) / (0.12 K + 1).")
    ] = "accepted",
    start: Annotated[
        Path | None,
        typer.Option(
            help="Head's folder to begin with (--kind block makes a block of it); ppow has no first stage then."
        ),
    ] = None,
    rate: Annotated[
        float,
        typer.Option(help="Scale of the learning rates: 1 for a head that begins, .1 to go on from a trained one."),
    ] = 1.0,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Draft steps that it is unrolled over; 3, a block's levels when left out.")
    ] = None,
    initial: Annotated[str, typer.Option(help="Of a low-rank output head: svd or weighted_svd.")] = "weighted_svd",
    minutes: Annotated[float, typer.Option(min=0.01, help="Of training, after the text is written.")] = 50.0,
    updates: Annotated[
        int | None,
        typer.Option(
            min=1, help="End after so many updates, if the minutes are not over: alike everywhere in float32."
        ),
    ] = None,
    tokens: Annotated[int, typer.Option(min=1, help="That the target is to write.")] = 100_000,
    length: Annotated[int, typer.Option(min=32, help="Of a row of text.")] = 512,
    batch_tokens: Annotated[int, typer.Option(min=16, help="Of an update.")] = 2048,
    device: Annotated[str, typer.Option(help="cpu, or cuda.")] = "cpu",
    dtype: Annotated[
        str, typer.Option(help="float32; bfloat16; auto: the latter on a card, and on processors with units for it.")
    ] = "auto",
    seed: options.Seed = 0,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write, or to go on from.")] = Path(
        "out/head"
    ),
    as_json: options.AsJson = False,
) -> None:
    """Train a head that drafts from the target's hidden states. A run that was cut off goes on where it was.

    Example: reader train-head out/models/smollm2 --rank 72 --minutes 50 -o out/heads/mine
    """
    from runtime.cli._models import quiet, source_of, tokenizer_of
    from runtime.training.heads.making import Wanted, make_head

    require(
        norms in ("post", "pre", "llama") and initial in ("svd", "weighted_svd"),
        "`--norms` must be post, pre or llama, and `--initial` svd or weighted_svd",
        got=f"{norms!r}, {initial!r}",
        fix="Leave them out for post-norm and the weighted start.",
    )
    require(
        kind in ("head", "block") and (kind == "head" or steps is None),
        "`--kind` must be head or block, and `--steps` be left out for a block",
        got=f"{kind!r}, {steps} steps",
        fix="A block is trained on all its levels, --block of them.",
    )
    require(
        start is None or (rank is None and trimmed is None and layers is None),
        "`--start` must not be given beside what makes another shape",
        got="--rank, --trimmed or --layers",
        fix="The head that it names has these already; --kind block makes a block of it.",
    )
    quiet()
    wanted = Wanted(
        rank=rank, trimmed=trimmed, norms=norms, initial=initial, objective=objective, minutes=minutes,
        updates=updates, windows=windows, reward=reward, start=start, rate=rate,
        block=block if kind == "block" else 0, steps=block if kind == "block" else steps or 3,
        tokens=tokens, length=length, batch_tokens=batch_tokens, device=device, dtype=dtype, seed=seed,
        layers=None if layers is None else tuple(int(layer) for layer in layers.split(",")),
    )  # fmt: skip
    with progress_bars() as progress:
        watched = make_head(source_of(target), target, tokenizer_of(target), data or [], wanted, output, progress)
    facts = {"kind": "head", "path": str(output), **watched.told()}
    if as_json:
        show_rows([], as_json=True, facts=facts)
    else:
        print(f"{output}: held out, {watched}")
