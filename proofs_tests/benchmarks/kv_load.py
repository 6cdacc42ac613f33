"""Which cache wins at which load, predicted beside measured, within one budget of bytes.

    python -m proofs_tests.benchmarks.kv_load [--target FOLDER] [--mib 48] [--loads 2 12] [--scratch DIR]

Prompts are passages of one length, so that rows and bytes are known. Documents in the scratch folder are used again.
Measures seconds: on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from time import perf_counter
from typing import Any

from optimizer.kv_plan import plan_caches
from proofs_tests.benchmarks._report import write_report
from reader_theory.acceptance.fit import fit_acceptance
from reader_theory.documents import Cost, Trace
from reader_theory.documents.kv_caches import KVCaches
from reader_theory.documents.kv_plan import KVPlan, KVPoint
from reader_theory.memory import Window
from runtime.cache.quantised.files import scheme_of
from runtime.engine.engine import Engine
from runtime.engine.sampling import SamplingParams
from runtime.measure.calibrate import calibrate_cost
from runtime.measure.kv import fit_caches, library_texts, spans_of
from runtime.measure.prompts import PromptTokens
from runtime.measure.record import record_trace
from runtime.models.base import LanguageModel
from runtime.models.lean import LeanModel
from runtime.models.load import load_model, load_tokenizer
from runtime.models.quantised import quantised


def passages(tokenizer: Any, context: int, count: int) -> tuple[list[PromptTokens], list[PromptTokens]]:
    """Passages of `context` tokens to record on, and others to measure with."""
    held = spans_of(library_texts(tokenizer), context + 1, count * (context + 1), count, context)
    return tuple(  # pyright: ignore[reportReturnType]
        [PromptTokens(f"{name} {i}", "library", span[:context]) for i, span in enumerate(spans)]
        for name, spans in (("fit", held.fit), ("test", held.judge))
    )


def planned(
    target: LanguageModel, name: str, tokenizer: Any, prompts: list[PromptTokens], options: argparse.Namespace
) -> KVPlan:
    """The plan of every cache and load, from documents in the scratch folder."""
    scratch: Path = options.scratch
    if not (scratch / "cost.json").exists():
        names = (name, {})
        record_trace(target, None, prompts, path=scratch / "trace.json", new_tokens=options.new_tokens, names=names)
        calibrate_cost(
            target, None, prompts, device_name="this machine", dtype=options.dtype, names=names, on_disturbance="note",
            batches=(1, 4, max(options.loads)), contexts=(options.context // 2, options.context),
            seconds=options.seconds,
        ).write(scratch / "cost.json")  # fmt: skip
    if not (scratch / "kv.json").exists():
        length, window = 2 * options.context, Window(recent=options.chunk, chunk=options.chunk)
        spans = spans_of(library_texts(tokenizer), length, 4 * length, 2 * options.context, options.context)
        assert isinstance(target, LeanModel)
        fit_caches(
            target, spans, scratch / "kv.json", target=name, dtype=options.dtype, context=options.context,
            window=window, bits=(2,),
        )  # fmt: skip
    trace, cost = Trace.read(scratch / "trace.json"), Cost.read(scratch / "cost.json")
    return plan_caches(
        fit_acceptance(trace, resamples=100), cost, trace, KVCaches.read(scratch / "kv.json"),
        kv_bytes=options.mib << 20, loads=options.loads, new_tokens=options.new_tokens,
    )  # fmt: skip


def measured(target: LanguageModel, point: KVPoint, prompts: list[PromptTokens], options: argparse.Namespace) -> float:
    """Tokens a second of steps in which all the rows that were predicted run, and no prompt is taken in."""
    scheme = scheme_of("plain" if point.cache == "plain" else f"{point.cache}={options.scratch / 'kv.json'}")
    served = target if scheme is None else quantised(target, scheme)
    assert point.policy is not None, "something fits"
    engine = Engine(
        served, policy=point.policy, max_batch=point.load, kv_bytes=options.mib << 20,
        max_context=options.context + options.new_tokens + 1 + point.policy.most_nodes,
    )  # fmt: skip
    params = SamplingParams(max_new_tokens=options.new_tokens, ignore_eos=True)
    count = max(2 * point.load, len(prompts))
    requests = [engine.add(prompts[i % len(prompts)].tokens, params) for i in range(count)]
    most, tokens, spent, alive = 0, 0, 0.0, True
    while alive:
        before, prefilled, full = sum(len(each.output) for each in requests), engine.prefill_s, len(engine.rows)
        begun = perf_counter()
        alive = engine.step()
        took, most = perf_counter() - begun, max(most, len(engine.rows))
        if engine.prefill_s == prefilled and full == point.rows:
            tokens, spent = tokens + sum(len(each.output) for each in requests) - before, spent + took
    assert most == point.rows, f"the engine admits what was predicted: {most}, {point.rows}"
    return tokens / spent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", default="out/models/smollm2")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--mib", type=int, default=48, help="for keys and values")
    parser.add_argument("--loads", type=int, nargs="+", default=[2, 12])
    parser.add_argument("--context", type=int, default=512, help="tokens of a prompt")
    parser.add_argument("--chunk", type=int, default=32, help="tokens that are written at once, and latest ones kept")
    parser.add_argument("--new-tokens", type=int, default=32)
    parser.add_argument("--prompts", type=int, default=16, help="to record on, and as many to measure with")
    parser.add_argument("--seconds", type=float, default=20.0, help="of calibration")
    parser.add_argument("--scratch", type=Path, default=Path("out/kv_load"))
    parser.add_argument("--name", default="kv_load", help="of the result")
    options = parser.parse_args()
    options.scratch.mkdir(parents=True, exist_ok=True)
    target, tokenizer = load_model(options.target, options.dtype), load_tokenizer(options.target)
    recorded, served = passages(tokenizer, options.context, options.prompts)
    plan = planned(target, options.target, tokenizer, recorded, options)
    rows = []
    for point in plan.points:
        told = point.tokens_per_s
        rows.append({
            "load": point.load, "cache": point.cache, "bits": point.bits, "rows": point.rows,
            "policy": None if point.policy is None else point.policy.name, "best": point.best,
            "predicted": [0.0] * 3 if told is None else [told.value, told.low, told.high],
            "measured": measured(target, point, served, options) if point.rows else 0.0,
            "perplexity_ratio": point.perplexity_ratio.value,
        })  # fmt: skip
        print(rows[-1], flush=True)
    facts = {"dtype": options.dtype, "context": options.context, "mib": options.mib, "chunk": options.chunk}
    print(write_report(options.name, {"target": target.name, **facts, "rows": rows}))


if __name__ == "__main__":
    main()
