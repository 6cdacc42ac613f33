"""`reader diffuse`: texts of a masked-diffusion model, exact by the chain rule, by a window that is planned."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from reader_theory.errors import require
from runtime.cli import _options as options
from runtime.cli._shared import output_path, progress_bars, show_document

if TYPE_CHECKING:
    from reader_theory.acceptance.windows import RoundCost, WindowAcceptance
    from reader_theory.documents.diffusion import WindowCandidate
    from runtime.diffusion.params import DiffusionParams

__all__ = ["diffuse"]

UNPLANNED = 8
"""Window where neither it nor an acceptance is given."""


def diffuse(
    target: Annotated[
        str | None,
        typer.Option(help=f"Folder or hub name of a masked model; {options.HOUSE_DIFFUSION} when left out."),
    ] = None,
    prompts: options.Prompts = None,
    workload: options.Workloads = None,
    split: options.Split = "test",
    limit: options.Limit = None,
    window: Annotated[
        int | None,
        typer.Option(help=f"Places verified in a round; planned from --acceptance when left out, else {UNPLANNED}."),
    ] = None,
    acceptance: Annotated[
        str | None,
        typer.Option(help="A run of `reader diffuse` on other prompts, or a number with its interval, 0.6:0.55:0.65."),
    ] = None,
    cost: Annotated[
        str,
        typer.Option(
            help="Of a round, to plan by: rounds (a batch is free), measured (on this machine), or seconds FIXED:EACH."
        ),
    ] = "rounds",
    steps: Annotated[int, typer.Option(help="Denoising steps, at most one a new token.")] = 4,
    new_tokens: Annotated[int, typer.Option(help="Masked tokens behind each prompt.")] = 32,
    drafts: Annotated[
        str | None,
        typer.Option(
            help="From a forward of each round, of each denoising step, or by the model's draft head, which is the "
            "default where it has one; else round."
        ),
    ] = None,
    sampling: Annotated[
        str, typer.Option(help="chain: the law of each step; parallel_lossy: places drawn independently, another law.")
    ] = "chain",
    temperature: options.Temperature = 1.0,
    top_k: Annotated[int, typer.Option(help="0 keeps all tokens.")] = 0,
    top_p: Annotated[float, typer.Option(help="1 keeps all tokens.")] = 1.0,
    mask_token: Annotated[
        int | None, typer.Option(help="Id of the mask, where neither configuration nor tokenizer names it.")
    ] = None,
    dtype: options.Dtype = None,
    seed: options.Seed = 0,
    output: options.Output = Path("out/diffusion.json"),
    as_json: options.AsJson = False,
) -> None:
    """Fill in texts by denoising steps; rounds and forwards are counted apart, predicted beside measured.

    Example: reader diffuse --split fit --output out/counted.json, then reader diffuse --acceptance out/counted.json
    """
    output_path(output, ".json")
    from optimizer.window import LONGEST_WINDOW
    from runtime.cli._models import load_prompt_tokens, quiet, source_of, tokenizer_of
    from runtime.diffusion import Denoiser, DiffusionParams, load_masked
    from runtime.diffusion.head import HEAD_FILE
    from runtime.diffusion.run import measured_cost, run_diffusion

    name, kind = target or options.HOUSE_DIFFUSION, dtype or "float32"
    by_head = (Path(source_of(name)) / HEAD_FILE).is_file()
    params = DiffusionParams(
        new_tokens=new_tokens, steps=steps, window=UNPLANNED if window is None else window,
        drafts=drafts or ("head" if by_head else "round"),
        sampling=sampling, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed,
    )  # fmt: skip
    known = _acceptance(acceptance, params, name, kind)
    seconds = _seconds(cost)
    quiet()
    with progress_bars() as progress:
        model = load_masked(source_of(name), kind, mask_token=mask_token)
        tokenizer = tokenizer_of(name)
        chosen = load_prompt_tokens(prompts, tokenizer, workloads=workload, split=split, limit=limit)
        candidates: tuple[WindowCandidate, ...] = ()
        if known is not None:
            longest = max(len(prompt.tokens) for prompt in chosen) + new_tokens
            candidates = _planned(known, new_tokens, window, seconds or measured_cost(model, longest, LONGEST_WINDOW))
            params = replace(params, window=candidates[0].window)
        run = run_diffusion(
            Denoiser(model), chosen, params, target=name, dtype=kind, candidates=candidates, progress=progress,
            cost_unit="rounds" if cost == "rounds" else "seconds", tokenizer=tokenizer,
        )  # fmt: skip
    run.write(output)
    show_document(run, output, as_json=as_json)


def _acceptance(told: str | None, params: DiffusionParams, target: str, dtype: str) -> WindowAcceptance | None:
    """What is known of drafts being kept: counted by an earlier run that asked the same, or assumed."""
    if told is None:
        return None
    from reader_theory.acceptance.windows import AssumedWindows, CountedWindows
    from reader_theory.documents.diffusion import DiffusionRun
    from reader_theory.estimate import Estimate

    require(
        params.lossless,
        "`--acceptance` must be left out where nothing is verified",
        got=f"`--sampling {params.sampling}`",
        fix="Leave it out, or take `--sampling chain`.",
    )
    if not _is_numbers(told):
        run = DiffusionRun.read(told)
        now = {"target": target, "dtype": dtype} | {
            key: getattr(params, key) for key in run.asked() if hasattr(params, key)
        }
        other = {key: (before, now[key]) for key, before in run.asked().items() if before != now[key]}
        require(
            run.lossless and not other,
            "`--acceptance` must be counted by a run of the chain that asked for the same",
            got=", ".join(f"{key} {before} there, {here} here" for key, (before, here) in other.items())
            or run.sampling,
            fix="Count it again: `reader diffuse --split fit` with the same options.",
        )
        return CountedWindows.of_run(run)
    numbers = _numbers(told, "--acceptance", (1, 3), "0.6 or 0.6:0.55:0.65, or the file of a run", 1.0)
    value, low, high = numbers if len(numbers) == 3 else numbers * 3
    require(
        low <= value <= high,
        "`--acceptance` must be VALUE:LOW:HIGH with the value inside",
        got=told,
        fix="Pass, for example, 0.6:0.55:0.65.",
    )
    return AssumedWindows(Estimate(value=value, low=low, high=high, origin="assumed"), params.steps)


def _planned(
    known: WindowAcceptance, new_tokens: int, window: int | None, cost: RoundCost
) -> tuple[WindowCandidate, ...]:
    """The window that is to run first: the one asked for, or else the best, and what others would take."""
    from optimizer.window import plan_windows, weighed

    planned = plan_windows(known, new_tokens, cost)
    if window is None:
        return planned
    return (weighed(known, new_tokens, window, cost), *(each for each in planned if each.window != window))


def _seconds(cost: str) -> RoundCost | None:
    """Cost of a round by its forwards; None where it is to be measured."""
    if cost == "measured":
        return None
    if cost == "rounds":
        return lambda forwards: 1.0
    fixed, each = _numbers(cost, "--cost", (2,), "rounds, measured, or seconds such as 0.01:0.0005", 1e6)
    require(fixed + each > 0, "`--cost` must be above 0", got=cost, fix="Pass, for example, 0.01:0.0005.")
    return lambda forwards: fixed + each * forwards


def _numbers(told: str, name: str, counts: tuple[int, ...], form: str, most: float) -> list[float]:
    numbers = [float(part) for part in told.split(":")] if _is_numbers(told) else []
    fits = len(numbers) in counts and all(0 <= number <= most for number in numbers)
    require(fits, f"`{name}` must be {form}", got=repr(told), fix=f"Numbers lie between 0 and {most:g}.")
    return numbers


def _is_numbers(told: str) -> bool:
    try:
        return all(float(part) == float(part) for part in told.split(":"))
    except ValueError:
        return False
