"""What quantised caches cost in perplexity and save in bits, on a real model; goes on where it was stopped.

``python -m proofs_tests.benchmarks.kv_cache`` writes results/kv_cache.json, `tables` writes docs/compression.md;
``--reads`` times one-token steps at long contexts instead (kv_reads.json), on a machine that does nothing else.
Text is that of the Python that runs: the topics of its help, and modules of its library.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

from proofs_tests.benchmarks._report import write_report
from reader_theory.memory import Window
from runtime.cache.quantised.files import write_predictors
from runtime.cache.quantised.fit import fit_aqua, named_bits, read_back
from runtime.cache.quantised.scheme import Aqua, Integers, Predictor, Scheme
from runtime.measure.kv import Spans, format_of, keys_and_values, library_texts, losses, named, spans_of, step_seconds
from runtime.models.lean import LeanModel
from runtime.models.load import load_model, load_tokenizer
from runtime.models.quantised import quantised

Numbers = NDArray[np.float32]

ASIDE = ("direct:3", "clean", "shuffled")
"""Caches that are held against those of the table."""


def schemes(model: LeanModel, keys: Sequence[Numbers], values: Sequence[Numbers], window: Window) -> dict[str, Scheme]:
    """The table's rows, and two controls: predictors fitted to clean inputs, and predictors of other layers."""
    heads, layers = (model.kv_heads, model.head_dim), len(model.layers)
    found: dict[str, Scheme] = {each.name: each for each in (Integers(8, window), Integers(4, window))}
    for bits in (2, 3):
        direct = named(model, Aqua("direct", named_bits(bits, layers), (), window))
        ours = named(model, fit_aqua("aqua", named_bits(bits, layers), keys, values, heads, window))
        found |= {direct.name: direct, ours.name: ours}
    clean = fit_aqua("clean inputs", named_bits(2, layers), keys, values, heads, window, clean=True)
    ours = next(each for name, each in found.items() if name.startswith("aqua") and isinstance(each, Aqua))
    order = np.random.default_rng(0).permutation(layers - 1)
    shuffled = replace(ours, name="shuffled layers", predictors=tuple(ours.predictors[i] for i in order))
    return found | {clean.name: clean, shuffled.name: shuffled}


def relative_errors(
    model: LeanModel, scheme: Aqua, keys: Sequence[Numbers], values: Sequence[Numbers]
) -> NDArray[np.float64]:
    """(L, 2) squared error of keys and of values over their own square, each layer from what those before give."""
    heads, before = (model.kv_heads, model.head_dim), None
    errors = []
    for layer, (key, value) in enumerate(zip(keys, values, strict=True)):
        before = read_back(scheme.codecs(layer, heads, heads), key, value, before)
        pairs = zip(before, (key, value), strict=True)
        errors.append([float(np.square(read - true).sum() / np.square(true).sum()) for read, true in pairs])
    return np.array(errors)


def _all_judged(
    model: LeanModel, chosen: Mapping[str, Scheme | None], spans: NDArray[np.int64], context: int, kept: Path
) -> dict[str, NDArray[np.float64]]:
    """(n, T - context) losses of each cache, span by span; those that the table does without on a quarter of the spans.

    Each is kept in a file of its own, and taken from there by the next run.
    """

    def judged(name: str, row: int) -> NDArray[np.float64]:
        scheme, file = chosen[name], kept / f"{name.replace(':', '_').replace(' ', '_')}.{row}.npy"
        target = model if scheme is None else quantised(model, scheme)
        return _kept(file, lambda: losses(target, spans[row : row + 1], context))

    table = [name for name in chosen if not name.startswith(ASIDE)]
    found = {name: list[NDArray[np.float64]]() for name in chosen}
    for row in range(len(spans)):
        for name in table:
            found[name].append(judged(name, row))
    for row in range(max(len(spans) // 4, 1)):
        for name in chosen:
            if name not in table:
                found[name].append(judged(name, row))
    return {name: np.concatenate(each) for name, each in found.items()}


def _kept(file: Path, make: Callable[[], NDArray[Any]]) -> NDArray[Any]:
    """What a file holds, made and written first where there is none."""
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        scratch = file.with_suffix(".tmp.npy")
        np.save(scratch, made := make())
        scratch.rename(file)
        print(file.stem, float(np.mean(made)), flush=True)
    return np.load(file)


def _kept_schemes(model: LeanModel, spans: NDArray[np.int64], window: Window, kept: Path) -> dict[str, Scheme]:
    """The schemes, with the predictors of a run before where there are some."""
    file, layers = kept / "predictors.safetensors", len(model.layers)
    if not file.exists():
        made = schemes(model, *keys_and_values(model, spans), window)
        kept.mkdir(parents=True, exist_ok=True)
        write_predictors(file, {name: each for name, each in made.items() if isinstance(each, Aqua)})
        return made
    held = load_file(file)

    def with_predictors(name: str, scheme: Aqua) -> Aqua:
        parts = (
            Predictor(held[f"{name}.{layer}.key"], held[f"{name}.{layer}.value"])
            for layer in range(1, layers)
            if f"{name}.1.key" in held
        )
        return replace(scheme, name=name, predictors=tuple(parts))

    found: dict[str, Scheme] = {each.name: each for each in (Integers(8, window), Integers(4, window))}
    for bits, kinds in ((2, ("direct", "aqua")), (3, ("direct", "aqua")), (2, ("clean inputs", "shuffled layers"))):
        plain = Aqua("", named_bits(bits, layers), (), window)
        told = format_of(quantised(model, plain)).bits
        for kind in kinds:
            name = kind if " " in kind else f"{kind}:{told:.2f}"
            found[name] = with_predictors(name, plain)
    return found


def measure(
    folder: str, dtype: str, fit_tokens: int, judge_tokens: int, context: int, length: int, most: int | None, kept: Path
) -> dict[str, Any]:
    """All rows, controls and layers."""
    model, window = load_model(folder, dtype), Window()
    assert isinstance(model, LeanModel)
    spans: Spans = spans_of(library_texts(load_tokenizer(folder)), length, fit_tokens, judge_tokens, context)
    chosen = _kept_schemes(model, spans.fit, window, kept)
    clean = lru_cache(lambda: keys_and_values(model, spans.judge[: max(1, 8192 // length)]))
    layers: dict[str, Any] = {}
    for name, scheme in chosen.items():
        if isinstance(scheme, Aqua):
            file = kept / f"errors.{name.replace(':', '_').replace(' ', '_')}.npy"
            layers[name] = _kept(file, lambda scheme=scheme: relative_errors(model, scheme, *clean())).tolist()
    found = _all_judged(model, {"plain": None, **chosen}, spans.judge[:most], context, kept)
    plain, rows = found["plain"], []
    for name, nats in found.items():
        scheme = chosen.get(name)
        told, against = format_of(model if scheme is None else quantised(model, scheme)), plain[: len(nats)]
        change = (nats - against).mean(axis=1)
        rows.append({
            "cache": told.name, "bits": told.bits, "bits_at_2048": told.bits_at(2048), "scored_tokens": int(nats.size),
            "perplexity": float(np.exp(nats.mean())), "ratio": float(np.exp(change.mean())),
            "nats_more": float(change.mean()),
            "standard_error": float(change.std(ddof=1) / len(change) ** 0.5) if len(change) > 1 else 0.0,
            "row_bytes_2048": told.row_bytes(2048), "shared_bytes": told.shared_bytes,
        })  # fmt: skip
    return {
        "model": model.name, "dtype": dtype, "window": window.model_dump(), "fit_tokens": int(spans.fit.size),
        "scored_tokens": int(plain.size), "context_at_least": context, "rows": rows, "relative_errors": layers,
        **findings(rows, layers),
    }  # fmt: skip


def findings(rows: Sequence[dict[str, Any]], layers: dict[str, Any]) -> dict[str, Any]:
    """Share of the gap that prediction closes at each width, and layers in which it is nearer than the direct form."""
    more = {row["cache"]: row["nats_more"] for row in rows}
    scored = {row["cache"]: row["scored_tokens"] for row in rows}
    pairs = [(d, a) for d in more if d.startswith("direct:") for a in more if a == f"aqua:{d.partition(':')[2]}"]
    nearer = {a: (np.array(layers[a])[1:] < np.array(layers[d])[1:]).sum(axis=0).tolist() for d, a in pairs}
    return {
        "gap_closed": {a: 1 - more[a] / more[d] for d, a in pairs if scored[a] == scored[d]},
        "layers_nearer_than_direct": nearer,
        "layers_predicted": len(next(iter(layers.values()))) - 1,
    }


def reads(folder: str, contexts: Sequence[int], dtype: str) -> list[dict[str, Any]]:
    """Seconds of a one-token step through each cache over that through the plain one, by context."""
    model = load_model(folder, dtype)
    assert isinstance(model, LeanModel)
    rng, found, layers = np.random.default_rng(0), [], len(model.layers)
    text = rng.integers(0, model.vocabulary, 1024)[None]
    keys, values = keys_and_values(model, text)
    ours = fit_aqua("aqua", named_bits(2, layers), keys, values, (model.kv_heads, model.head_dim), Window())
    for context in contexts:
        tokens = rng.integers(0, model.vocabulary, context)
        for scheme in (Integers(8), Integers(4), ours):
            step_s, plain_s = step_seconds(quantised(model, scheme), model, tokens)
            told = {"cache": scheme.name, "context": context, "dtype": dtype}
            found.append({**told, "step_s": step_s, "plain_s": plain_s, "ratio": step_s / plain_s})
            print(found[-1], flush=True)
    return found


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--target", default="out/models/smollm2")
    options.add_argument("--dtype", default="bfloat16", help="of the weights, and of the plain cache")
    options.add_argument("--fit-tokens", type=int, default=8192)
    options.add_argument("--judge-tokens", type=int, default=16384)
    options.add_argument("--context", type=int, default=1024)
    options.add_argument("--length", type=int, default=2048)
    options.add_argument("--spans", type=int, help="only so many of the spans to judge by")
    options.add_argument("--kept", type=Path, default=Path("out/kv_cache"))
    options.add_argument("--reads", type=int, nargs="*", default=[], help="time reads at these contexts instead")
    options.add_argument("--name", default="kv_cache", help="of the result")
    asked = options.parse_args()
    if asked.reads:
        rows = reads(asked.target, asked.reads, asked.dtype)
        name, told = Path(asked.target).name, {"dtype": asked.dtype, "rows": rows}
        print(write_report("kv_reads", {"model": name, **told}))
        return
    sizes = asked.fit_tokens, asked.judge_tokens, asked.context, asked.length, asked.spans
    print(write_report(asked.name, measure(asked.target, asked.dtype, *sizes, asked.kept)))


if __name__ == "__main__":
    main()
