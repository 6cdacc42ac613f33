"""Which cache wins at which load, predicted beside measured, within one budget of bytes.

    python -m proofs_tests.benchmarks.kv_load [--target FOLDER] [--mib 64] [--loads 2 32] [--scratch DIR]

Documents in the scratch folder are used again. Measures seconds: on a machine that does nothing else.
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
from runtime.cache.quantised.files import scheme_of
from runtime.engine.engine import Engine
from runtime.engine.sampling import SamplingParams
from runtime.measure.calibrate import calibrate_cost
from runtime.measure.kv import fit_caches, library_texts, spans_of
from runtime.measure.prompts import PromptTokens, house_prompts
from runtime.measure.record import record_trace
from runtime.models.base import LanguageModel
from runtime.models.lean import LeanModel
from runtime.models.load import load_model, load_tokenizer
from runtime.models.quantised import quantised


def planned(
    target: LanguageModel, name: str, tokenizer: Any, prompts: list[PromptTokens], options: argparse.Namespace
) -> KVPlan:
    """The plan of every cache and load, from documents in the scratch folder."""
    scratch: Path = options.scratch
    if not (scratch / "cost.json").exists():
        names = (name, {})
        record_trace(target, None, prompts, path=scratch / "trace.json", new_tokens=options.new_tokens, names=names)
        calibrate_cost(
            target, None, prompts, device_name="this machine", dtype="float32", names=names, on_disturbance="note",
            batches=(1, 4, 16, max(options.loads)), contexts=(128, options.context), seconds=options.seconds,
        ).write(scratch / "cost.json")  # fmt: skip
    if not (scratch / "kv.json").exists():
        length = 2 * options.context
        spans = spans_of(library_texts(tokenizer), length, 8 * length, 2 * options.context, options.context)
        assert isinstance(target, LeanModel)
        fit_caches(target, spans, scratch / "kv.json", target=name, dtype="float32", context=options.context)
    trace, cost = Trace.read(scratch / "trace.json"), Cost.read(scratch / "cost.json")
    return plan_caches(
        fit_acceptance(trace, resamples=100), cost, trace, KVCaches.read(scratch / "kv.json"),
        kv_bytes=options.mib << 20, loads=options.loads, new_tokens=options.new_tokens,
    )  # fmt: skip


def measured(target: LanguageModel, point: KVPoint, prompts: list[PromptTokens], options: argparse.Namespace) -> float:
    """Tokens a second while decoding, `load` requests wanting to run at once; rows are held against the plan's."""
    scheme = scheme_of(f"{point.cache}={options.scratch / 'kv.json'}")
    served = target if scheme is None else quantised(target, scheme)
    longest = max(len(prompt.tokens) for prompt in prompts)
    assert point.policy is not None, "something fits"
    engine = Engine(
        served, policy=point.policy, max_batch=point.load, max_context=longest + options.new_tokens + 1,
        kv_bytes=options.mib << 20,
    )  # fmt: skip
    params = SamplingParams(max_new_tokens=options.new_tokens, ignore_eos=True)
    requests = [engine.add(prompts[i % len(prompts)].tokens, params) for i in range(2 * point.load)]
    most, begun = 0, perf_counter()
    while engine.step():
        most = max(most, len(engine.rows))
    assert most <= point.rows, "the engine admits no more than was predicted"
    spent = perf_counter() - begun - engine.prefill_s
    return sum(len(request.output) for request in requests) / spent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", default="out/models/smollm2")
    parser.add_argument("--mib", type=int, default=64, help="for keys and values")
    parser.add_argument("--loads", type=int, nargs="+", default=[2, 32])
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--new-tokens", type=int, default=96)
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=20.0, help="of calibration")
    parser.add_argument("--scratch", type=Path, default=Path("out/kv_load"))
    options = parser.parse_args()
    options.scratch.mkdir(parents=True, exist_ok=True)
    target, tokenizer = load_model(options.target), load_tokenizer(options.target)
    prompts = house_prompts(["code"], "test", tokenizer, options.prompts)
    plan = planned(target, options.target, tokenizer, prompts, options)
    rows = []
    for point in plan.points:
        rate = measured(target, point, prompts, options) if point.rows else 0.0
        predicted = 0.0 if point.tokens_per_s is None else point.tokens_per_s.value
        rows.append(
            {"load": point.load, "cache": point.cache, "rows": point.rows, "predicted": predicted, "measured": rate}
        )
        print(rows[-1], flush=True)
    print(write_report("kv_load", {"target": target.name, "mib": options.mib, "rows": rows}))


if __name__ == "__main__":
    main()
