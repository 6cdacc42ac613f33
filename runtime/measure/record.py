"""Record: the target's own output on prompts, and what each drafter would have offered at every position of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from reader_theory.documents import Grown, Stamp, Trace, TracePrompt
from reader_theory.errors import require
from runtime.engine.engine import Engine
from runtime.engine.sampling import SamplingParams
from runtime.models.base import LanguageModel
from runtime.models.inputs import forward_trees, prefill
from runtime.retrieval.suffix_index import record_positions

__all__ = ["Progress", "PromptLike", "record_trace", "teacher_forced", "trace_of"]

Progress = Callable[[str, int, int], None]
"""(what is being done, how much of it is done, how much there is)."""


class PromptLike(Protocol):
    """A prompt as token ids."""

    @property
    def id(self) -> str: ...
    @property
    def workload(self) -> str: ...
    @property
    def tokens(self) -> NDArray[np.int64]: ...


def record_trace(
    target: LanguageModel,
    draft: LanguageModel | None,
    prompts: Sequence[PromptLike],
    *,
    path: str | Path,
    temperature: float = 0.0,
    new_tokens: int = 96,
    candidates: int = 8,
    retrieval_tokens: int = 24,
    seed: int = 0,
    max_batch: int = 8,
    names: tuple[str, str | None] | None = None,
    grown: Sequence[Grown] = (),
    progress: Progress | None = None,
) -> Trace:
    """Let the target answer `prompts` without drafts, score its output, and write the Trace to `path`.

    Parameters
    ----------
    temperature : float
        0 records greedy output; otherwise the output is drawn from the target's law at this temperature.
    new_tokens : int
        Output tokens a prompt.
    candidates : int
        K: how many of the draft's most likely tokens are ranked.
    retrieval_tokens : int
        Longest retrieved chain that is offered.
    names : (str, str or None), optional
        How the documents call target and draft; their folders' names when left out.
    grown : sequence of Grown
        Run on the outputs as well, so that a plan can weigh them; `grown_family` has some.
    """
    require(
        len(prompts) > 0,
        "`prompts` must hold at least one prompt",
        got="none",
        fix="Pass a JSONL file of prompts, or leave the option out for the house prompts.",
    )
    outputs = _outputs(target, prompts, temperature, new_tokens, seed, max_batch, progress)
    return trace_of(
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
        progress=progress,
    )


def trace_of(
    target: LanguageModel,
    draft: LanguageModel | None,
    prompts: Sequence[PromptLike],
    outputs: Sequence[NDArray[np.int64]],
    *,
    path: str | Path | None = None,
    temperature: float = 0.0,
    candidates: int = 8,
    retrieval_tokens: int = 24,
    seed: int | None = None,
    names: tuple[str, str | None] | None = None,
    grown: Sequence[Grown] = (),
    progress: Progress | None = None,
) -> Trace:
    """The Trace of prompts and outputs that are known; written to `path`, or kept in memory without one."""
    parts: list[dict[str, NDArray[np.generic]]] = []
    for number, (prompt, output) in enumerate(zip(prompts, outputs, strict=True)):
        if progress:
            progress("score", number, len(prompts))
        parts.append(_score(number, prompt.tokens, output, target, draft, temperature, candidates, retrieval_tokens))
    if progress:
        progress("score", len(prompts), len(prompts))
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    called = names or (target.name, draft.name if draft else None)
    fields: dict[str, Any] = dict(
        stamp=Stamp.now(seed=seed),
        target=called[0],
        draft=called[1] if draft else None,
        temperature=temperature,
        candidates=candidates,
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
        from runtime.measure.replay import record_grown

        beside = None if path is None else Path(path).with_suffix(".grown.parquet")
        fields["grown"] = record_grown(draft, prompts, outputs, grown, path=beside, seed=seed or 0, progress=progress)
    return Trace.in_memory(columns, **fields) if path is None else Trace.create(path, columns, **fields)


def teacher_forced(model: LanguageModel, prompt: NDArray[np.int64], output: NDArray[np.int64]) -> torch.Tensor:
    """(T, V) logits before each of the T output tokens, given the true prefix."""
    tokens = np.concatenate([prompt, output[:-1]])
    cache = model.new_cache(1, len(tokens) + 1)
    start = len(prompt) - 1
    if start:
        prefill(model, cache, tokens[:start], 0)
    chain = tokens[start:]
    parents = np.arange(len(chain), dtype=np.int64)[None] - 1
    return forward_trees(model, cache, chain[None], parents, np.array([len(chain)]))[0]


def _outputs(
    target: LanguageModel,
    prompts: Sequence[PromptLike],
    temperature: float,
    new_tokens: int,
    seed: int,
    max_batch: int,
    progress: Progress | None,
) -> list[NDArray[np.int64]]:
    longest = max(len(prompt.tokens) for prompt in prompts)
    engine = Engine(target, max_batch=max_batch, max_context=longest + new_tokens + 2)
    params = SamplingParams(temperature=temperature, max_new_tokens=new_tokens, seed=seed)
    requests = [engine.add(prompt.tokens, params, id=prompt.id) for prompt in prompts]
    while engine.step():
        if progress:
            progress("generate", sum(len(request.output) for request in requests), len(prompts) * new_tokens)
    failed = [request for request in requests if (request.finish or "").startswith("error")]
    require(
        not failed,
        "every prompt must be one that the target can serve",
        got=f"{len(failed)} that it cannot; {failed[0].id if failed else ''}: {failed[0].finish if failed else ''}",
        fix="Shorten or mend these prompts, or leave them out.",
    )
    return [np.array(request.output, dtype=np.int64) for request in requests]


def _score(
    number: int,
    prompt: NDArray[np.int64],
    output: NDArray[np.int64],
    target: LanguageModel,
    draft: LanguageModel | None,
    temperature: float,
    candidates: int,
    retrieval_tokens: int,
) -> dict[str, NDArray[np.generic]]:
    """One prompt's rows of every column of a trace."""
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
        "draft_rank": np.full(count, -1, dtype=np.int32),
        "draft_probability": np.zeros((count, candidates), dtype=np.float32),
        "overlap": np.full(count, np.nan, dtype=np.float32),
    }
    if draft is not None:
        law = _laws(teacher_forced(draft, prompt, output), temperature)
        top = law.topk(candidates, dim=-1)
        hit = top.indices == emitted[:, None]
        columns["draft_rank"] = torch.where(hit.any(-1), hit.int().argmax(-1), -1).numpy().astype(np.int32)
        columns["draft_probability"] = top.values.numpy().astype(np.float32)
        columns["overlap"] = torch.minimum(own, law).sum(-1).numpy().astype(np.float32)
    matches = record_positions(prompt.astype(np.int32), output.astype(np.int32), retrieval_tokens)
    names = ("match_length", "match_count", "retrieval_offered", "retrieval_run")
    return columns | {name: np.asarray(values, dtype=np.int32) for name, values in zip(names, matches, strict=True)}


def _laws(logits: torch.Tensor, temperature: float) -> torch.Tensor:
    """(T, V) float32 laws; at temperature 0 those of temperature 1, whose order decides."""
    return torch.softmax(logits.float() / (temperature or 1.0), dim=-1)
