"""`reader evolve`: searches by evolution."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from reader_theory.errors import require
from runtime.cli import _options as options
from runtime.cli._shared import Progress, guarded, output_path, progress_bars, show_document

if TYPE_CHECKING:
    from optimizer.solvers.evolve import Evolution
    from reader_theory.documents.self_draft import LayerChoice
    from runtime.measure.prompts import PromptTokens
    from runtime.measure.self_draft import Answer, SelfDrafting
    from runtime.models.base import LanguageModel

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Search by evolution: which of a target's own layers draft best for it.")


@app.command("self-draft")
@guarded
def self_draft(
    target: options.Target = None,
    prompts: options.Prompts = None,
    workload: options.Workloads = None,
    limit: options.Limit = None,
    left_out: Annotated[
        list[int] | None, typer.Option("--left-out", min=1, help="Layers left out; repeatable. A third, half, two.")
    ] = None,
    generations: Annotated[int, typer.Option(min=1, help="Of each search.")] = 60,
    offspring: Annotated[int, typer.Option(min=2, help="Children a generation.")] = 16,
    drafts: Annotated[int, typer.Option(min=1, help="Longest chain.")] = 8,
    new_tokens: Annotated[int, typer.Option(min=8, help="Output tokens a prompt.")] = 96,
    dtype: options.Dtype = None,
    seed: options.Seed = 0,
    output: options.Output = Path("out/self-draft.json"),
    as_json: options.AsJson = False,
) -> None:
    """Search for the layers of the target that draft for it at most tokens a second; half the prompts only judge.

    Goes on where it was interrupted. The document is a draft: `reader record --draft self=out/self-draft.json`.

    Example: reader evolve self-draft --target Qwen/Qwen3-0.6B --prompts chats.jsonl --left-out 12
    """
    output_path(output, ".json")
    from reader_theory.documents.base import Stamp
    from reader_theory.documents.self_draft import SelfDraft
    from runtime.cli._models import load_models, load_prompt_tokens
    from runtime.measure.self_draft import SelfDrafting, measure_steps
    from runtime.models.part import layer_count

    with progress_bars() as progress:
        models = load_models(target, [options.NO_DRAFT], dtype or "float32", progress)
        budgets = _budgets(left_out, layer_count(models.target))
        asked = load_prompt_tokens(prompts, models.tokenizer, workloads=workload, split="all", limit=limit)
        answers = _answers(models.target, asked, new_tokens, progress)
        seconds = measure_steps(models.target, drafts)
        fitness, judge = (SelfDrafting(models.target, half, seconds) for half in answers)
        searches = {
            budget: _searched(fitness, budget, generations, offspring, seed, _begun(output, budget), progress)
            for budget in budgets
        }
        choices = _judged(judge, {budget: fitness.kept(found.parent) for budget, found in searches.items()}, fitness)
    document = SelfDraft(
        stamp=Stamp.now(seed=seed), target=models.names[0], layers=fitness.layers,
        vocabulary=models.target.vocabulary, kept=choices[0].kept,
        tokens_scored=sum(found.tokens for found in searches.values()), choices=choices,
    )  # fmt: skip
    document.write(output)
    for budget in budgets:
        _begun(output, budget).unlink(missing_ok=True)
    show_document(document, output, as_json=as_json)


def _budgets(left_out: Sequence[int] | None, layers: int) -> list[int]:
    budgets = sorted(set(left_out or (layers // 3, layers // 2, 2 * layers // 3)) - {0})
    require(
        bool(budgets) and budgets[-1] < layers,
        "`--left-out` must leave at least one layer",
        got=f"{budgets} of {layers}",
        fix=f"Pass numbers from 1 to {layers - 1}.",
    )
    return budgets


def _begun(output: Path, budget: int) -> Path:
    """Where an unfinished search is kept."""
    return output.with_suffix(f".{budget}-left-out.json")


def _answers(
    target: LanguageModel, asked: Sequence[PromptTokens], new_tokens: int, progress: Progress
) -> tuple[list[Answer], list[Answer]]:
    """The target's greedy answers in two halves, divided by the documents that prompts come from."""
    import numpy as np

    from runtime.engine.engine import Engine
    from runtime.engine.sampling import SamplingParams
    from runtime.measure.self_draft import Answer

    longest = max(len(prompt.tokens) for prompt in asked)
    engine = Engine(target, max_batch=8, max_context=longest + new_tokens + 2)
    requests = [engine.add(prompt.tokens, SamplingParams(max_new_tokens=new_tokens), id=prompt.id) for prompt in asked]
    while engine.step():
        progress("answers", sum(request.finish is not None for request in requests), len(requests))
    halves: tuple[list[Answer], list[Answer]] = [], []
    sources = sorted({prompt.source or prompt.id for prompt in asked})
    for prompt, request in zip(asked, requests, strict=True):
        half = halves[sources.index(prompt.source or prompt.id) % 2]
        half.append(Answer(prompt.tokens, np.array(request.output, dtype=np.int64)))
    return halves


def _searched(
    fitness: SelfDrafting, budget: int, generations: int, offspring: int, seed: int, file: Path, progress: Progress
) -> Evolution:
    """A search for the layers to leave out, from where it was interrupted."""
    from optimizer.solvers.evolve import Evolution, LevelSpace, evolve

    def after(state: Evolution) -> bool:
        state.save(file)
        progress(f"search, {budget} layers left out", state.generation, generations)
        return False

    begun = Evolution.load(file) if file.exists() else None
    space = LevelSpace(fitness.layers, 2, budget)
    return evolve(space, fitness, generations=generations, offspring=offspring, seed=seed, begun=begun, after=after)


def _judged(
    judge: SelfDrafting, found: Mapping[int, tuple[int, ...]], fitness: SelfDrafting
) -> tuple[LayerChoice, ...]:
    """What was found and its rivals on prompts that no search has seen; the best that was found first."""
    from runtime.measure.self_draft import uniform_stride

    ours, rivals = [], []
    for budget, kept in found.items():
        ours.append(judge.choice(f"found, {budget} left out", kept))
        rivals.append(judge.choice(f"uniform stride, {budget} left out", uniform_stride(fitness.layers, len(kept))))
        rivals.append(judge.choice(f"one-shot, {budget} left out", fitness.one_shot(len(kept))))
    ours.sort(key=lambda choice: -choice.speed_up.value)
    return (*ours, *rivals)
