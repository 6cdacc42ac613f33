"""Record: the target's own output on prompts, and what each drafter would have offered at every position of it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from reader_theory.documents import Grown, Stamp, Trace, TraceDrafter, TracePrompt
from reader_theory.documents.policy import DATASTORE, DRAFT, RETRIEVAL
from reader_theory.documents.trace import DRAFTER_COLUMNS
from reader_theory.errors import require
from runtime.drafters.base import Drafter
from runtime.drafters.neural import NeuralDrafter
from runtime.drafters.offered import DEPTH, described, offered_ranks
from runtime.engine.engine import Engine
from runtime.engine.processors import Processor
from runtime.engine.sampling import SamplingParams
from runtime.measure.journal import Journal
from runtime.measure.prompts import Progress, PromptLike
from runtime.measure.replay import record_grown
from runtime.models.base import FeatureModel, LanguageModel
from runtime.models.inputs import features_for, teacher_forced
from runtime.retrieval.datastore import Datastore
from runtime.retrieval.index import record_beside, record_positions

__all__ = [
    "Draft",
    "Drafts",
    "Names",
    "drafter_of",
    "drafts_of",
    "models_of",
    "names_of",
    "record_trace",
    "task_of",
    "trace_of",
]

Draft = LanguageModel | Callable[[], Drafter]
"""A model that drafts as a `NeuralDrafter`, or what makes a drafter: each engine has one of its own."""
Drafts = Draft | Mapping[str, Draft] | None
"""Drafts by name; one alone is called "draft"."""
Names = tuple[str, str | Mapping[str, str] | None]
"""How documents call the target, and the drafts."""


def record_trace(
    target: LanguageModel,
    draft: Drafts,
    prompts: Sequence[PromptLike],
    *,
    path: str | Path,
    temperature: float = 0.0,
    new_tokens: int = 96,
    candidates: int = 8,
    retrieval_tokens: int = 24,
    seed: int = 0,
    max_batch: int = 8,
    names: Names | None = None,
    grown: Sequence[Grown] = (),
    datastore: Datastore | None = None,
    progress: Progress | None = None,
    stop: tuple[str, ...] = (),
    ignore_eos: bool = False,
    tokenizer: Any = None,
    processors: tuple[Processor, ...] = (),
) -> Trace:
    """Let the target answer `prompts` without drafts, score its output, and write the Trace to `path`.

    Answers are kept beside `path` as they come (``.partial.jsonl``), and taken from there by the next run of the same
    target, prompts and parameters, should this one be killed.

    Parameters
    ----------
    draft : LanguageModel, callable that makes a Drafter, or dict from name to these, optional
        One is called "draft". Look-ups are recorded in any case, under "retrieval".
    temperature : float
        0 records greedy output; otherwise the output is drawn from the target's law at this temperature.
    new_tokens : int
        Output tokens a prompt.
    candidates : int
        K: how many of the draft's most likely tokens are ranked.
    retrieval_tokens : int
        Longest retrieved chain that is offered.
    names : (str, str or dict from name to str, or None), optional
        How the documents call target and drafts; their folders' names when left out.
    grown : sequence of Grown
        Run on the outputs as well, so that a plan can weigh them; `grown_family` has some.
    datastore : Datastore, optional
        Look-ups in the text so far and in these past outputs are recorded too, under "datastore".
    stop, ignore_eos
        See `SamplingParams`; stop texts need the tokenizer.
    processors : tuple of Processor
        Of the law that the target decodes by; what drafters would have offered is theirs as it is.
    """
    require(
        len(prompts) > 0,
        "`prompts` must hold at least one prompt",
        got="none",
        fix="Pass a JSONL file of prompts, or leave the option out for the house prompts.",
    )
    params = SamplingParams(
        temperature=temperature,
        max_new_tokens=new_tokens,
        seed=seed,
        stop=stop,
        ignore_eos=ignore_eos,
        processors=processors,
    )
    called = target.name if names is None else names[0]
    with Journal(Path(path).with_suffix(".partial.jsonl"), task_of(called, target, prompts, params)) as journal:
        outputs = _outputs(target, prompts, params, max_batch, progress, tokenizer, journal)
        trace = trace_of(
            target,
            draft,
            prompts,
            outputs,
            path=path,
            temperature=temperature,
            candidates=candidates,
            retrieval_tokens=retrieval_tokens,
            seed=seed,
            names=names,
            grown=grown,
            datastore=datastore,
            progress=progress,
        )
        journal.end()
    return trace


def trace_of(
    target: LanguageModel,
    draft: Drafts,
    prompts: Sequence[PromptLike],
    outputs: Sequence[NDArray[np.int64]],
    *,
    path: str | Path | None = None,
    temperature: float = 0.0,
    candidates: int = 8,
    retrieval_tokens: int = 24,
    seed: int | None = None,
    names: Names | None = None,
    grown: Sequence[Grown] = (),
    datastore: Datastore | None = None,
    progress: Progress | None = None,
) -> Trace:
    """The Trace of prompts and outputs that are known; written to `path`, or kept in memory without one."""
    drafts = drafts_of(draft)
    parts: list[dict[str, NDArray[np.generic]]] = []
    for number, (prompt, output) in enumerate(zip(prompts, outputs, strict=True)):
        if progress:
            progress("score", number, len(prompts))
        scored = _score(number, prompt.tokens, output, target, drafts, temperature, candidates)
        parts.append(scored | _looked_up(prompt.tokens, output, retrieval_tokens, datastore))
    if progress:
        progress("score", len(prompts), len(prompts))
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    called = names_of(target, drafts, names)
    ranked = {name: _described(each, called[1][name], candidates) for name, each in drafts.items()}
    lookups = {RETRIEVAL: TraceDrafter(kind="lookups")}
    if datastore is not None:
        lookups[DATASTORE] = TraceDrafter(kind="lookups", model=datastore.name or None)
    fields: dict[str, Any] = dict(
        stamp=Stamp.now(seed=seed),
        target=called[0],
        kv=target.kv,
        temperature=temperature,
        drafters=ranked | lookups,
        prompts=tuple(
            TracePrompt(
                id=p.id,
                workload=p.workload,
                prompt_tokens=len(p.tokens),
                output_tokens=len(output),
                source=getattr(p, "source", ""),
            )
            for p, output in zip(prompts, outputs, strict=True)
        ),
    )
    if grown:
        fields["grown"] = {}
        models = models_of(drafts)
        for (name, store), policies in _by_drafter(grown, models).items():
            key = f"{name}+{DATASTORE}" if store else name
            fields["grown"][key] = record_grown(
                models.get(name), prompts, outputs, policies, seed=seed or 0, datastore=datastore, progress=progress,
                target=target, path=None if path is None else Path(path).with_suffix(f".{key}.parquet"),
            )  # fmt: skip
    return Trace.in_memory(columns, **fields) if path is None else Trace.create(path, columns, **fields)


def drafts_of(draft: Drafts) -> dict[str, Draft]:
    """Drafts by name; one without a name is called "draft"."""
    if draft is None:
        return {}
    return dict(draft) if isinstance(draft, Mapping) else {DRAFT: draft}


def models_of(draft: Drafts) -> dict[str, LanguageModel]:
    """Those drafts that are models."""
    return {name: each for name, each in drafts_of(draft).items() if isinstance(each, LanguageModel)}


def drafter_of(draft: Draft) -> Drafter:
    """A new drafter, for one engine."""
    return NeuralDrafter(draft) if isinstance(draft, LanguageModel) else draft()


def names_of(target: LanguageModel, drafts: Mapping[str, Draft], names: Names | None) -> tuple[str, dict[str, str]]:
    """How documents call the target, and each draft by its drafter's name."""
    told: Any = None if names is None else names[1]
    given = told if isinstance(told, Mapping) else {} if told is None else {DRAFT: told}
    called = {name: str(given.get(name, getattr(each, "name", name))) for name, each in drafts.items()}
    return target.name if names is None else names[0], called


def _described(draft: Draft, model: str, candidates: int) -> TraceDrafter:
    if isinstance(draft, FeatureModel):
        ranked = min(candidates, draft.output.outputs)
        return TraceDrafter(kind="block", model=model, candidates=ranked, forwards=drafter_of(draft).takes)
    if isinstance(draft, LanguageModel):
        return TraceDrafter(
            kind="model", model=model, candidates=min(candidates, draft.vocabulary), forwards=NeuralDrafter.takes
        )
    return described(draft(), model, candidates)


def _by_drafter(grown: Sequence[Grown], drafts: Mapping[str, LanguageModel]) -> dict[tuple[str, bool], list[Grown]]:
    """Policies of each draft, with the datastore or without; those of look-ups alone among the first's."""
    first = next(iter(drafts), RETRIEVAL)
    found: dict[tuple[str, bool], list[Grown]] = {}
    for policy in grown:
        for name in (drafts or (first,)) if policy.drafter is not None else (first,):
            found.setdefault((name, policy.retrieval == DATASTORE), []).append(policy.asking(name))
    return found


def task_of(
    called: str, target: LanguageModel, prompts: Sequence[PromptLike], params: SamplingParams
) -> dict[str, Any]:
    """What the answers depend on."""
    digest = hashlib.sha256()
    for prompt in prompts:
        digest.update(np.asarray(prompt.tokens, dtype=np.int64).tobytes() + b"|")
    return {
        "target": called,
        "kv": target.kv,
        "dtype": str(target.dtype),
        "prompts": digest.hexdigest(),
        "params": repr(params),
    }


def _outputs(
    target: LanguageModel,
    prompts: Sequence[PromptLike],
    params: SamplingParams,
    max_batch: int,
    progress: Progress | None,
    tokenizer: Any,
    journal: Journal,
) -> list[NDArray[np.int64]]:
    """The target's answers: those that the journal has, and the others, which it is given as they end."""
    longest = max(len(prompt.tokens) for prompt in prompts)
    engine = Engine(target, max_batch=max_batch, max_context=longest + params.max_new_tokens + 2, tokenizer=tokenizer)
    requests = {
        number: engine.add(prompt.tokens, params, id=prompt.id, number=number)
        for number, prompt in enumerate(prompts)
        if str(number) not in journal.kept
    }
    live, kept = dict(requests), len(prompts) - len(requests)
    while live:
        engine.step()
        for number in [number for number, request in live.items() if request.done]:
            request = live.pop(number)
            if not (request.finish or "").startswith("error"):
                journal.add(str(number), request.output)
        if progress:
            made = sum(params.max_new_tokens if each.done else len(each.output) for each in requests.values())
            progress("generate", kept * params.max_new_tokens + made, len(prompts) * params.max_new_tokens)
    failed = [request for request in requests.values() if (request.finish or "").startswith("error")]
    require(
        not failed,
        "every prompt must be one that the target can serve",
        got=f"{len(failed)} that it cannot; {failed[0].id if failed else ''}: {failed[0].finish if failed else ''}",
        fix="Shorten or mend these prompts, or leave them out.",
    )
    return [np.array(journal.kept[str(number)], dtype=np.int64) for number in range(len(prompts))]


def _score(
    number: int,
    prompt: NDArray[np.int64],
    output: NDArray[np.int64],
    target: LanguageModel,
    drafts: Mapping[str, Draft],
    temperature: float,
    candidates: int,
) -> dict[str, NDArray[np.generic]]:
    """One prompt's rows of the columns of a trace, but for those of look-ups."""
    count = len(output)
    own = _laws(teacher_forced(target, prompt, output), temperature)
    rows = torch.arange(count)
    emitted = torch.from_numpy(output)
    columns: dict[str, NDArray[np.generic]] = {
        "prompt": np.full(count, number, dtype=np.int32),
        "position": np.arange(count, dtype=np.int32),
        "token": output.astype(np.int32),
        "context_tokens": (len(prompt) + np.arange(count)).astype(np.int32),
        "target_probability": own[rows, emitted].numpy().astype(np.float32),
    }
    for name, draft in drafts.items():
        if not isinstance(draft, LanguageModel):
            offered = offered_ranks(draft, name, prompt, output, candidates)
            columns |= {f"{name}_{column}": each for column, each in offered.items()}
            continue
        if isinstance(draft, FeatureModel):
            ahead = _ranks_ahead(draft, target, prompt, output, min(candidates, draft.output.outputs), temperature)
            columns |= {f"{name}_{column}": each for column, each in ahead.items()}
            continue
        law = _laws(teacher_forced(draft, prompt, output, target), temperature)
        top = law.topk(min(candidates, law.shape[-1]), dim=-1)
        hit = top.indices == emitted[:, None]
        columns |= {
            f"{name}_rank": torch.where(hit.any(-1), hit.int().argmax(-1), -1).numpy().astype(np.int32),
            f"{name}_probability": top.values.numpy().astype(np.float32),
            f"{name}_overlap": torch.minimum(own, law).sum(-1).numpy().astype(np.float32),
        }
    return columns


def _ranks_ahead(
    draft: FeatureModel,
    target: LanguageModel,
    prompt: NDArray[np.int64],
    output: NDArray[np.int64],
    candidates: int,
    temperature: float,
) -> dict[str, NDArray[np.generic]]:
    """Columns of a model that drafts from its own states: in a step that starts here, the rank at every depth.

    Before the second token of a text it has nothing to draft from.
    """
    text, count = np.concatenate([prompt, output]), len(output)
    depths = draft.block or DEPTH
    rank = np.full((count, depths), -1, dtype=np.int32)
    share = np.zeros((count, candidates), dtype=np.float32)
    early = 1 if len(prompt) == 1 else 0
    if len(text) > 2:
        hidden, true = features_for(draft, target, text[:-1]), torch.from_numpy(text)
        steps = draft.ahead(true, hidden, depths, max(len(prompt) - 2, 0))
        for depth, logits in enumerate(steps):
            held = count - early - depth
            if held <= 0:
                break
            law = _laws(logits[:held], temperature)
            top = law.topk(candidates, dim=-1)
            if depth == 0:
                share[early:] = top.values.numpy(force=True)
            hit = top.indices.cpu() == true[len(text) - held :, None]
            rank[early : early + held, depth] = torch.where(hit.any(-1), hit.int().argmax(-1), -1).numpy()
    return {"rank": rank, "probability": share}


def _looked_up(
    prompt: NDArray[np.int64], output: NDArray[np.int64], most: int, datastore: Datastore | None
) -> dict[str, NDArray[np.generic]]:
    """The columns of look-ups, without a datastore and beside it."""
    pair = prompt.astype(np.int32), output.astype(np.int32)
    found = {RETRIEVAL: record_positions(*pair, most)}
    if datastore is not None:
        found[DATASTORE] = record_beside(datastore, *pair, most)
    names = DRAFTER_COLUMNS["lookups"]
    return {f"{who}_{name}": each for who, some in found.items() for name, each in zip(names, some, strict=True)}


def _laws(logits: torch.Tensor, temperature: float) -> torch.Tensor:
    """(T, V) float32 laws; at temperature 0 those of temperature 1, whose order decides."""
    return torch.softmax(logits.float() / (temperature or 1.0), dim=-1)
