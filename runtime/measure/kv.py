"""What a quantised cache of a target costs: predictors fitted to a text, perplexity on another, seconds of a read."""

from __future__ import annotations

import sysconfig
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from reader_theory.acceptance.intervals import bootstrap_prompts
from reader_theory.documents.base import Stamp
from reader_theory.documents.kv_caches import KVCaches, MeasuredCache
from reader_theory.errors import InvalidInputError, require
from reader_theory.estimate import Estimate
from reader_theory.memory import KVFormat, Window
from runtime.cache.quantised.files import write_predictors
from runtime.cache.quantised.fit import fit_aqua, named_bits
from runtime.cache.quantised.scheme import Aqua, Integers, Scheme
from runtime.measure.prompts import Progress
from runtime.models.base import LanguageModel
from runtime.models.inputs import forward_trees, prefill, run_prompt
from runtime.models.lean import LeanModel
from runtime.models.quantised import quantised
from runtime.models.text import encode_text

__all__ = [
    "fit_caches",
    "judge_caches",
    "keys_and_values",
    "library_texts",
    "losses",
    "named",
    "read_texts",
    "spans_of",
]

Ints = NDArray[np.int64]
Numbers = NDArray[np.float32]

READS = 5
"""Steps that are timed with each cache, in turn; their median counts."""
MODULES = ("argparse", "typing", "inspect", "tarfile", "subprocess", "zipfile", "doctest", "pdb", "enum", "statistics")


@dataclass(frozen=True)
class Spans:
    """Text to fit to and text to judge by, as (n, T) tokens each; no span of one is in the other."""

    fit: Ints
    judge: Ints


def library_texts(tokenizer: Any) -> list[Ints]:
    """Text that every Python has: its help topics, joined in their order, and modules of its library."""
    from pydoc_data.topics import topics

    folder = Path(sysconfig.get_paths()["stdlib"])
    texts = ["\n".join(topics[name] for name in sorted(topics))]
    texts += [(folder / f"{name}.py").read_text(encoding="utf-8") for name in MODULES]
    return [encode_text(tokenizer, text) for text in texts]


def read_texts(paths: Sequence[Path], tokenizer: Any) -> list[Ints]:
    """The texts of files, and of all files in folders, each a document.

    Raises
    ------
    InvalidInputError
        If there is none, or one is not UTF-8.
    """
    files = [file for path in paths for file in (sorted(path.rglob("*")) if path.is_dir() else [path])]
    texts: list[Ints] = []
    for file in files:
        if file.is_dir():
            continue
        try:
            texts.append(encode_text(tokenizer, file.read_text(encoding="utf-8")))
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidInputError(
                "`--data` must be files of text, or folders of them",
                got=f"`{file}`: {error}",
                fix="Pass UTF-8 text, or leave --data out for the help of the running Python.",
            ) from error
    return texts


def spans_of(texts: Sequence[Ints], length: int, fit_tokens: int, judge_tokens: int, context: int) -> Spans:
    """Spans of `length` tokens from texts, by turns to fit and to judge, until there are enough of both.

    Parameters
    ----------
    texts : sequence of (n,) int64
        Documents; a span never joins two.
    fit_tokens, judge_tokens : int
        Tokens to fit to, and tokens to score: those of a span after the first `context`.
    """
    cut = [text[i : i + length] for text in texts for i in range(0, len(text) - length + 1, length)]
    fits, judged = -(-fit_tokens // length), -(-judge_tokens // (length - context))
    require(
        len(cut) >= fits + judged and judged >= 2,
        "`--data` must have enough text to fit to and to judge by",
        got=f"{len(cut)} spans of {length} tokens; {fits} to fit to and {judged} to judge by are asked for",
        fix="Pass more text, or ask for fewer tokens or a shorter context.",
    )
    order = [i * len(cut) // (fits + judged) for i in range(fits + judged)]
    every = max((fits + judged) // judged, 1)
    places = [i for i in range(fits + judged) if i % every == every - 1][:judged]
    places += [i for i in range(fits + judged) if i not in places][: judged - len(places)]
    chosen = {order[i] for i in places}
    return Spans(np.stack([cut[i] for i in order if i not in chosen]), np.stack([cut[i] for i in sorted(chosen)]))


def keys_and_values(model: LeanModel, spans: Ints) -> tuple[list[Numbers], list[Numbers]]:
    """(N, kv) keys before their rotary positions, and values, of each layer, all spans one behind the other."""
    keys: list[list[Numbers]] = [[] for _ in model.layers]
    values: list[list[Numbers]] = [[] for _ in model.layers]
    turns = model.rotations[: spans.shape[1]].numpy(force=True).astype(np.complex64)
    for span in spans:
        cache = model.new_cache(1, len(span) + 1)
        run_prompt(model, cache, span, 0)
        for layer, (of_keys, of_values) in enumerate(zip(keys, values, strict=True)):
            store = cache.stores[layer]
            assert store.keys is not None and store.values is not None
            turned, held = (
                x[0, :, : len(span)].transpose(0, 1).float().contiguous().numpy(force=True)
                for x in (store.keys, store.values)
            )
            of_keys.append((turned.view(np.complex64) / turns).view(np.float32).reshape(len(span), -1))
            of_values.append(held.reshape(len(span), -1))
    return [np.concatenate(each) for each in keys], [np.concatenate(each) for each in values]


@torch.inference_mode()
def losses(model: LanguageModel, spans: Ints, context: int) -> NDArray[np.float64]:
    """(n, T - context) nats of each token given those before it, as decoding one by one would see them.

    Every query sees through the cache what a decoding step at its position sees, also where several go together.
    """
    found = np.empty((len(spans), spans.shape[1] - context))
    for row, span in enumerate(spans):
        cache = model.new_cache(1, len(span) + 1)
        prefill(model, cache, span[: context - 1], 0)
        piece = min(cache.reach, 64)
        for first in range(context - 1, len(span) - 1, piece):
            tokens = span[first : min(first + piece, len(span) - 1)]
            parents = np.arange(len(tokens), dtype=np.int64)[None] - 1
            logits = forward_trees(model, cache, tokens[None], parents, np.array([len(tokens)]))[0].float()
            cache.lengths[0] += len(tokens)
            true = torch.from_numpy(span[first + 1 : first + 1 + len(tokens)]).to(logits.device)
            nats = torch.nn.functional.cross_entropy(logits, true, reduction="none")
            found[row, first + 1 - context : first + 1 - context + len(tokens)] = nats.numpy(force=True)
    return found


def format_of(model: LanguageModel) -> KVFormat:
    """The bytes that the model's caches take."""
    cache = model.new_cache(1, 2)
    prefill(model, cache, np.zeros(1, dtype=np.int64), 0)
    return cache.format


def step_seconds(model: LanguageModel, plain: LanguageModel, tokens: Ints) -> tuple[float, float]:
    """Seconds of a step of one token behind these tokens, of two caches of a model, timed in turn."""
    spent: list[list[float]] = [[], []]
    caches = []
    for each in (model, plain):
        cache = each.new_cache(1, len(tokens) + 2)
        prefill(each, cache, tokens, 0)
        caches.append(cache)
    for _ in range(READS + 1):
        for place, each in enumerate((model, plain)):
            begun = perf_counter()
            forward_trees(each, caches[place], tokens[None, -1:], np.full((1, 1), -1), np.ones(1, dtype=np.int64))
            spent[place].append(perf_counter() - begun)
    return float(np.median(spent[0][1:])), float(np.median(spent[1][1:]))


def schemes_of(
    model: LeanModel, keys: Sequence[Numbers], values: Sequence[Numbers], bits: Sequence[int], window: Window
) -> dict[str, Scheme]:
    """Integers of 8 and 4 bits, grids of 2 bits without predictors, and with them at each of `bits`, by name."""
    heads, layers = (model.kv_heads, model.head_dim), len(model.layers)
    usable = len(keys[0]) // window.chunk * window.chunk
    keys, values = [each[:usable] for each in keys], [each[:usable] for each in values]
    found: dict[str, Scheme] = {each.name: each for each in (Integers(8, window), Integers(4, window))}
    least = min(bits)
    direct = Aqua("direct", named_bits(least, layers), (), window)
    fitted = [fit_aqua("aqua", named_bits(each, layers), keys, values, heads, window) for each in bits]
    return found | {each.name: each for each in (named(model, scheme) for scheme in (direct, *fitted))}


def named(model: LeanModel, scheme: Aqua) -> Aqua:
    """The scheme with the bits a value that it takes in its name, such as aqua:2.15."""
    made = format_of(quantised(model, scheme))
    return replace(scheme, name=f"{scheme.name}:{made.bits:.2f}")


def measured(
    model: LanguageModel, scheme: Scheme | None, spans: Ints, context: int, plain: NDArray[np.float64] | None, seed: int
) -> tuple[MeasuredCache, NDArray[np.float64]]:
    """One cache's bytes, perplexity and reads, and its losses; `plain` are the losses of the plain cache."""
    target = model if scheme is None else quantised(model, scheme)
    nats = losses(target, spans, context)
    against = nats if plain is None else plain
    sums = np.column_stack((nats.sum(axis=1), (nats - against).sum(axis=1), np.full(len(nats), nats.shape[1])))

    def statistic(pooled: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.exp(pooled[..., :2] / pooled[..., 2:])

    found = bootstrap_prompts(sums, statistic, seed=seed)
    ratio = Estimate.exact(1.0, "measured") if plain is None else found.estimate(1, origin="measured")
    fitted = scheme if isinstance(scheme, Aqua) else None
    cached = spans[0][: max(context, 2)]
    slow, fast = (0.0, 0.0) if scheme is None else step_seconds(target, model, cached)
    cache = MeasuredCache(
        format=format_of(target),
        layers=() if fitted is None else fitted.bits,
        predicted=fitted is not None and bool(fitted.predictors),
        perplexity=found.estimate(0, origin="measured"),
        perplexity_ratio=ratio,
        read_s=max(slow - fast, 0.0) / len(cached),
    )
    return cache, nats


def fit_caches(
    model: LanguageModel,
    spans: Spans,
    path: Path,
    *,
    target: str,
    dtype: str,
    context: int,
    bits: Sequence[int] = (2, 3),
    window: Window | None = None,
    drafts: Mapping[str, LanguageModel] | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> KVCaches:
    """Fit and judge every cache of a target, and write the document and its tensors.

    Raises
    ------
    InvalidInputError
        Where the target's keys are not known before their rotary positions, or its heads cannot be grouped.
    """
    if not isinstance(model, LeanModel):
        raise InvalidInputError(
            "`reader kv fit` must be given a target of the Llama family, whose keys are known before they are turned",
            got=f"{model.name}, which runs through transformers' own forward",
            fix="Use --kv int8 or --kv int4, which need no fit.",
        )
    window = window or Window()
    require(
        int(window.chunks(context)) > 0,
        "`context` must reach beyond the buffer, or what is scored would see nothing in few bits",
        got=f"{context} tokens; the first {window.first} and the latest {window.recent} to "
        f"{window.recent + window.chunk - 1} stay as they are",
        fix=f"Pass --context {window.first + window.recent + window.chunk} or more, or fewer --recent and --chunk.",
    )
    Aqua("aqua", named_bits(min(bits), len(model.layers)), (), window).check(
        len(model.layers), model.kv_heads, model.head_dim
    )
    schemes = schemes_of(model, *keys_and_values(model, spans.fit), bits, window)
    return judge_caches(
        model, schemes, spans, path, target=target, dtype=dtype, context=context, drafts=drafts, seed=seed,
        progress=progress,
    )  # fmt: skip


def judge_caches(
    model: LeanModel,
    schemes: Mapping[str, Scheme],
    spans: Spans,
    path: Path,
    *,
    target: str,
    dtype: str,
    context: int,
    drafts: Mapping[str, LanguageModel] | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> KVCaches:
    """Judge the plain cache and these, and write the document behind its tensors."""
    caches: list[MeasuredCache] = []
    plain: NDArray[np.float64] | None = None
    for place, scheme in enumerate((None, *schemes.values())):
        if progress:
            progress("caches", place, 1 + len(schemes))
        cache, nats = measured(model, scheme, spans.judge, context, plain, seed)
        plain = nats if plain is None else plain
        caches.append(cache)
    fitted = {name: each for name, each in schemes.items() if isinstance(each, Aqua) and each.predictors}
    document = KVCaches(
        stamp=Stamp.now(seed=seed),
        target=target,
        dtype=dtype,
        layers=len(model.layers),
        kv_heads=model.kv_heads,
        head_dim=model.head_dim,
        tensors_sha256=write_predictors(path, fitted),
        fitted_tokens=spans.fit.size,
        scored_tokens=len(spans.judge) * (spans.judge.shape[1] - context),
        context_tokens=context,
        caches=tuple(caches),
        drafts={name: format_of(draft) for name, draft in (drafts or {}).items() if not draft.features},
    )
    document.write(path)
    return document
