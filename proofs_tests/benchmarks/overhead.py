"""Share of a decoding step that is not a model's forward, and how often bfloat16 output diverges, near ties or not.

Overhead: forwards are timed where the models are called; everything else in the engine's steps is overhead. Divergence:
greedy output under drafts in a batch, and plain greedy output in a batch, each against plain decoding one at a time.

    python -m proofs_tests.benchmarks.overhead [--divergence]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from proofs_tests.benchmarks._report import RESULTS, write_report
from reader_theory.documents import Chain, Off, policy_of
from reader_theory.trees import TokenTree
from runtime.engine.engine import Engine
from runtime.engine.request import Request
from runtime.engine.sampling import SamplingParams
from runtime.measure.cell import Answer
from runtime.measure.prompts import house_prompts
from runtime.measure.run import _near_tie
from runtime.models.base import LanguageModel, Output
from runtime.models.house import house_folder
from runtime.models.house.inflate import inflate
from runtime.models.load import load_model, load_tokenizer

TREE = TokenTree.from_rank_paths([(0,), (1,), (0, 0), (0, 1), (0, 0, 0), (0, 0, 0, 0)])
RETRIEVAL = Chain(min_match=2, offset=0, factor=1, max_tokens=12)
POLICIES = {
    "off": Off(),
    "tree": policy_of(TREE),
    "retrieval": RETRIEVAL,
    "both": policy_of(TREE, RETRIEVAL),
}


class Timed:
    """A model with a clock around its forwards."""

    def __init__(self, model: LanguageModel) -> None:
        self.model, self.seconds, forward = model, 0.0, model.forward

        def timed(*args: Any, **options: Any) -> Output:
            start = time.perf_counter()
            out = forward(*args, **options)
            self.seconds += time.perf_counter() - start
            return out

        model.forward = timed  # type: ignore[method-assign]


def overhead(target: Timed, draft: Timed, prompts: list[Any], policy: str, batch: int, tokens: int) -> dict[str, float]:
    """Share of the decoding steps' seconds outside of forwards, and where it went."""
    engine = Engine(target.model, draft.model, policy=POLICIES[policy], max_batch=batch, max_context=512)
    for prompt in prompts[:batch]:
        engine.add(prompt.tokens, SamplingParams(max_new_tokens=tokens, ignore_eos=True))
    engine.step()  # prompts, and the draft's, are taken in
    engine.timings.clear()
    before, start = target.seconds + draft.seconds, time.perf_counter()
    while len(engine.rows) == batch:
        engine.step()
    took, inside = time.perf_counter() - start, target.seconds + draft.seconds - before
    assert inside > 0, "the engine's forwards are those that have the clock"
    terms = {
        f"{term}_s": sum(getattr(s, f"{term}_s") for s in engine.timings) for term in ("retrieval", "verify", "commit")
    }
    return {"share": 1 - inside / took, "step_s": took / len(engine.timings), "steps": len(engine.timings), **terms}


def divergence(folder: Path, prompts: list[Any], tokens: int) -> dict[str, Any]:
    """First divergences from plain decoding one at a time, and whether each is a near tie."""
    target, draft = load_model(folder, "bfloat16"), load_model(house_folder("draft"))

    def outputs(policy: str, batch: int) -> list[Request]:
        engine = Engine(target, draft, policy=POLICIES[policy], max_batch=batch, max_context=768)
        requests = [
            engine.add(p.tokens, SamplingParams(max_new_tokens=tokens, ignore_eos=True), id=p.id) for p in prompts
        ]
        while engine.step():
            pass
        return requests

    plain = outputs("off", 1)
    found: dict[str, Any] = {"prompts": len(prompts), "tokens": tokens}
    for name, (policy, batch) in {"plain, batch 4": ("off", 4), "both, batch 4": ("both", 4)}.items():
        pairs = [(a, b) for a, b in zip(outputs(policy, batch), plain, strict=True) if a.output != b.output]
        ties = sum(_near_tie(Answer.of(a), Answer.of(b), target) for a, b in pairs)
        found[name] = {"diverged": len(pairs), "near_ties": ties}
        print(f"{name}: {len(pairs)} of {len(prompts)} texts diverge, {ties} first at a near tie")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--divergence", action="store_true")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--limit", type=int, default=4, help="prompts of each workload")
    parser.add_argument("--runs", type=int, default=3)
    args = parser.parse_args()
    prompts = house_prompts(("code", "copy", "prose"), "test", load_tokenizer(house_folder("target")), limit=args.limit)
    if args.divergence:
        with tempfile.TemporaryDirectory() as scratch:
            inflate(house_folder("target"), Path(scratch) / "inflated")
            result = divergence(Path(scratch) / "inflated", prompts, args.tokens)
        print(write_report("divergence", result, RESULTS))
        return
    target, draft = Timed(load_model(house_folder("target"))), Timed(load_model(house_folder("draft")))
    rows = []
    for policy in POLICIES:
        for batch in (1, 8):
            runs = [overhead(target, draft, prompts, policy, batch, args.tokens) for _ in range(args.runs + 1)][1:]
            middle = sorted(runs, key=lambda run: run["share"])[len(runs) // 2]
            rows.append({"policy": policy, "batch": batch, "shares": [run["share"] for run in runs], **middle})
            print(f"{policy:10s} batch {batch}: {middle['share']:.1%} of {middle['step_s'] * 1e3:.2f} ms", flush=True)
    worst = {b: statistics.mean(r["share"] for r in rows if r["batch"] == b) for b in (1, 8)}
    print(f"mean share at batch 1: {worst[1]:.1%}, at batch 8: {worst[8]:.1%}")
    print(write_report("overhead", {"threads": torch.get_num_threads(), "rows": rows}))


if __name__ == "__main__":
    main()
