"""`reader evolve`: searches by evolution."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reader_theory.errors import require
from runtime.cli import _options as options
from runtime.cli._shared import Progress, guarded, output_path, progress_bars, show_document

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from optimizer.solvers.evolve import Evolution, Fitness, Space
    from reader_theory.documents.kv_caches import KVCaches
    from reader_theory.documents.self_draft import LayerChoice
    from runtime.measure.prompts import PromptTokens
    from runtime.measure.self_draft import Answer, SelfDrafting
    from runtime.models.base import LanguageModel

__all__ = ["app"]

app = typer.Typer(
    no_args_is_help=True, help="Search by evolution: layers that draft for their own target, bits of its cache."
)


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
    from runtime.measure.self_draft import SelfDrafting, StepSeconds, measure_steps
    from runtime.models.part import layer_count

    with progress_bars() as progress:
        models = load_models(target, [options.NO_DRAFT], dtype or "float32", progress)
        budgets = _budgets(left_out, layer_count(models.target))
        asked = load_prompt_tokens(prompts, models.tokenizer, workloads=workload, split="all", limit=limit)
        told = {"target": models.names[0], "dtype": dtype, "prompts": _digest([each.tokens for each in asked]),
                "new_tokens": new_tokens, "drafts": drafts, "offspring": offspring, "seed": seed}  # fmt: skip
        seconds = StepSeconds.of(_begin(output, told, lambda: measure_steps(models.target, drafts).numbers()))
        answers = _answers(models.target, asked, new_tokens, progress)
        fitness, judge = (SelfDrafting(models.target, half, seconds) for half in answers)
        searches = {
            budget: _searched(fitness, budget, generations, offspring, seed, _search_file(output, budget), progress)
            for budget in budgets
        }
        choices = _judged(judge, {budget: fitness.kept(found.parent) for budget, found in searches.items()}, fitness)
    document = SelfDraft(
        stamp=Stamp.now(seed=seed), target=models.names[0], layers=fitness.layers,
        vocabulary=models.target.vocabulary, kept=choices[0].kept,
        tokens_scored=sum(found.tokens for found in searches.values()), choices=choices,
    )  # fmt: skip
    document.write(output)
    for file in (*(_search_file(output, budget) for budget in budgets), _asked_file(output)):
        file.unlink(missing_ok=True)
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


def _search_file(output: Path, budget: int) -> Path:
    """Where an unfinished search is kept."""
    return output.with_suffix(f".{budget}-left-out.json")


def _asked_file(output: Path) -> Path:
    """Where it is kept what unfinished searches were asked."""
    return output.with_suffix(".begun.json")


def _begin(output: Path, asked: dict[str, Any], make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What was made when the searches of `output` began, with which they go on; they must be asked the same again."""
    from reader_theory.documents.base import write_atomically
    from reader_theory.json_files import load_object

    file = _asked_file(output)
    if not file.exists():
        write_atomically(file, json.dumps({"asked": asked, "made": make()}).encode())
    held = load_object(file, "what an unfinished search was asked")
    require(
        held.get("asked") == asked and isinstance(held.get("made"), dict),
        "an unfinished search must go on as it was begun",
        got=f"`{file}`, with {_differing(held.get('asked'), asked)}",
        fix="Pass what was passed then, delete the file to begin anew, or name another --output.",
    )
    return held["made"]


def _differing(held: object, asked: dict[str, Any]) -> str:
    before: dict[str, Any] = held if isinstance(held, dict) else {}  # pyright: ignore[reportUnknownVariableType]
    return ", ".join(f"another {name}" for name, value in asked.items() if before.get(name) != value) or "no seconds"


def _digest(arrays: Sequence[NDArray[np.int64]]) -> str:
    """Of these tokens in this order."""
    found = hashlib.sha256()
    for each in arrays:
        found.update(len(each).to_bytes(8, "little") + each.tobytes())
    return found.hexdigest()[:16]


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
    from optimizer.solvers.evolve import LevelSpace

    space, told = LevelSpace(fitness.layers, 2, budget), f"search, {budget} layers left out"
    return _resumed(space, fitness, generations, offspring, seed, file, told, progress)


def _resumed(
    space: Space, fitness: Fitness, generations: int, offspring: int, seed: int, file: Path, told: str,
    progress: Progress,
) -> Evolution:  # fmt: skip
    """A search that is kept in a file after each generation, from where it was interrupted."""
    from optimizer.solvers.evolve import Evolution, evolve

    def after(state: Evolution) -> bool:
        state.save(file)
        progress(told, state.generation, generations)
        return False

    begun = Evolution.load(file) if file.exists() else None
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


@app.command("kv")
@guarded
def kv(
    target: Annotated[str, typer.Argument(help="The target whose caches were fitted.")],
    caches: Annotated[Path, typer.Option(help="KVCaches, from `reader kv fit`.")] = Path("out/kv.json"),
    bits: Annotated[float, typer.Option(help="A number in the mean, scales on top: the budget of bytes.")] = 2.5,
    data: Annotated[
        list[Path] | None, typer.Option(help="Text to search on; repeatable. The running Python's help when left out.")
    ] = None,
    context: Annotated[int, typer.Option(min=2, help="First tokens of a span, which are not scored.")] = 384,
    length: Annotated[int, typer.Option(min=16, help="Of a span of text.")] = 640,
    tokens: Annotated[int, typer.Option(min=64, help="Of text to search on.")] = 16384,
    judge_tokens: Annotated[int, typer.Option(min=8, help="Other ones, that only judge.")] = 4096,
    generations: Annotated[int, typer.Option(min=1, help="Of the search.")] = 40,
    offspring: Annotated[int, typer.Option(min=2, help="Children a generation.")] = 16,
    seed: options.Seed = 0,
    output: options.Output = Path("out/kv-evolved.json"),
    as_json: options.AsJson = False,
) -> None:
    """Search for the bits of each layer's keys and values within a budget; held-out text judges it and even bits.

    Goes on where it was interrupted. Then: reader run out/plan.json --kv evolved:2.58=out/kv-evolved.json

    Example: reader evolve kv out/models/smollm2 --caches out/kv.json --bits 2.5
    """
    output_path(output, ".json")
    from optimizer.solvers.evolve import LevelSpace
    from reader_theory.documents.kv_caches import KVCaches
    from runtime.cache.quantised.files import scheme_of
    from runtime.cache.quantised.scheme import Aqua
    from runtime.cli._models import load_models
    from runtime.cli.kv import show_caches
    from runtime.measure.kv import judge_caches, library_texts, read_texts, spans_of
    from runtime.measure.kv_bits import LEVELS, KVBits, steps_within
    from runtime.models.lean import LeanModel
    from runtime.models.quantised import quantised

    known = KVCaches.read(caches)
    budget, fitted = steps_within(known.layers, bits), scheme_of(f"{_predicted(known)}={caches}")
    assert isinstance(fitted, Aqua)
    with progress_bars() as progress:
        models = load_models(target, [options.NO_DRAFT], known.dtype, progress)
        quantised(models.target, fitted)  # refuses what the caches were not fitted to
        assert isinstance(models.target, LeanModel)
        texts = read_texts(data, models.tokenizer) if data else library_texts(models.tokenizer)
        spans = spans_of(texts, length, tokens, judge_tokens, context)
        fitness = KVBits(models.target, fitted, spans.fit, context)
        told = {"target": models.names[0], "caches": known.fingerprint(), "bits": bits, "context": context,
                "spans": _digest([*spans.fit, *spans.judge]), "offspring": offspring, "seed": seed}  # fmt: skip
        _begin(output, told, dict)
        file = output.with_suffix(".search.json")
        space = LevelSpace(2 * known.layers, LEVELS, budget)
        found = _resumed(space, fitness, generations, offspring, seed, file, "search, bits a layer", progress)
        document = judge_caches(
            models.target, fitness.rivals(found.parent, spans.fit), spans, output, target=models.names[0],
            dtype=known.dtype, context=context, seed=seed, progress=progress,
        )  # fmt: skip
    for each in (file, _asked_file(output)):
        each.unlink(missing_ok=True)
    show_caches(document, output, as_json)


def _predicted(known: KVCaches) -> str:
    """The cache of fewest bits whose layers are predicted."""
    names = {cache.format.bits: cache.name for cache in known.caches if cache.predicted}
    require(
        bool(names),
        "`--caches` must have one with predictors",
        got=", ".join(cache.name for cache in known.caches),
        fix="Fit them with `reader kv fit`.",
    )
    return names[min(names)]
