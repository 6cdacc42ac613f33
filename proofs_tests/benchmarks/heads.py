"""SmolLM2's head in the engine: tokens a step and tokens a second, beside plain decoding and retrieval.

    python -m proofs_tests.benchmarks.heads [--target out/models/smollm2] [--dtype float32 bfloat16] [--prompts 8]
    python -m proofs_tests.benchmarks.heads --engines .venv-engines/bin/python     # acceptance by position in vLLM too

Prompts are the public `test` ones, which the head's training did not see. Methods take turns on the same prompts; a
rate is tokens emitted a second of decoding, prefill left out, the median over repeats. Tokens a step are counted from
the second token on: the first comes from the prompt's forward. Equal texts are checked in float32. What the output head
of low rank takes beside a full one (nu) is timed alone, over as many rows as drafting takes.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from scipy.stats import binomtest

from proofs_tests.benchmarks._report import RESULTS, write_report
from proofs_tests.benchmarks.engines.worker import Worker
from reader_theory.documents import Chain, Off, Policy, policy_of
from reader_theory.trees import TokenTree
from runtime.drafters.head.export import densified, export_head
from runtime.drafters.head.model import HeadModel, load_head
from runtime.engine.engine import Engine
from runtime.engine.sampling import SamplingParams
from runtime.measure.prompts import PromptTokens, public_prompts
from runtime.models.base import LanguageModel
from runtime.models.house import house_folder
from runtime.models.linear import AdaptiveLinear
from runtime.models.load import load_model, load_tokenizer

CHAIN = 4
LOOKUP = Chain(min_match=3, offset=0, factor=1, max_tokens=10)
TREE = TokenTree.from_rank_paths([(0,), (1,), (2,), (0, 0), (0, 1), (1, 0), (0, 0, 0), (0, 0, 1), (0, 0, 0, 0)])
POLICIES: dict[str, Policy] = {
    "plain": Off(),
    "chain": policy_of(TokenTree.chain(CHAIN)),
    "chain of 3": policy_of(TokenTree.chain(3)),
    "tree": policy_of(TREE),
    "retrieval": LOOKUP,
    "head and retrieval": policy_of(TokenTree.chain(CHAIN), LOOKUP, skip=6),
}


def served(engine: Engine, policy: Policy, prompts: Sequence[PromptTokens], params: SamplingParams) -> dict[str, Any]:
    """One method on one group of prompts."""
    engine.use(policy)
    before = engine.prefill_s
    start = perf_counter()
    requests = [engine.add(prompt.tokens, params) for prompt in prompts]
    depths: list[int] = []
    while any(not request.done for request in requests):
        had = [(request, len(request.output)) for request in requests]
        engine.step()
        depths += [len(r.output) - n for r, n in had if n and len(r.output) > n]
    seconds = perf_counter() - start - (engine.prefill_s - before)
    tokens = sum(len(request.output) - 1 for request in requests)
    return {"tokens": tokens, "steps": sum(r.steps for r in requests), "seconds": seconds, "emitted": depths,
            "texts": [list(request.output) for request in requests]}  # fmt: skip


def by_depth(emitted: Sequence[int], most: int = CHAIN) -> list[dict[str, float]]:
    """Acceptance at each depth of a chain given acceptance before it, with its interval, of tokens a step."""
    found: list[dict[str, float]] = []
    for depth in range(1, most + 1):
        asked, right = sum(n >= depth for n in emitted), sum(n > depth for n in emitted)
        low, high = binomtest(right, asked).proportion_ci(method="wilson") if asked else (0.0, 1.0)
        found.append({"depth": depth, "asked": asked, "acceptance": right / max(asked, 1), "low": low, "high": high})
    return found


def measured(
    target: LanguageModel, head: HeadModel, prompts: Sequence[PromptTokens], batch: int, args: argparse.Namespace
) -> list[dict[str, Any]]:
    """All methods on every workload at a batch, repeats in turn."""
    longest = max(len(prompt.tokens) for prompt in prompts) + args.new_tokens + 16
    engine = Engine(target, head, max_batch=batch, max_context=longest)
    params = SamplingParams(max_new_tokens=args.new_tokens, stop_token_ids=tuple(target.end_tokens))
    rows: list[dict[str, Any]] = []
    for workload in sorted({prompt.workload for prompt in prompts}):
        mine = [prompt for prompt in prompts if prompt.workload == workload][: args.prompts]
        served(engine, POLICIES["chain"], mine[:1], params)
        runs: dict[str, list[dict[str, Any]]] = {name: [] for name in POLICIES}
        for repeat in range(args.repeats):
            order = list(POLICIES) if repeat % 2 == 0 else list(POLICIES)[::-1]
            for name in order:
                runs[name].append(served(engine, POLICIES[name], mine, params))
        plain = statistics.median(run["tokens"] / run["seconds"] for run in runs["plain"])
        for name, each in runs.items():
            rate = statistics.median(run["tokens"] / run["seconds"] for run in each)
            last = each[-1]
            row = {
                "workload": workload, "batch": batch, "method": name, "tokens_a_step": last["tokens"] / last["steps"],
                "tokens_per_s": rate, "beside_plain": rate / plain,
                "equal_texts": last["texts"] == runs["plain"][-1]["texts"],
            }  # fmt: skip
            if name == "chain":
                row["by_depth"] = by_depth(last["emitted"])
            rows.append(row)
            print(
                f"{workload:14} batch {batch} {name:20} {row['tokens_a_step']:.2f} tokens a step, "
                f"{rate:7.1f} tokens/s, {row['beside_plain']:.2f} times plain, equal texts: {row['equal_texts']}",
                flush=True,
            )
    return rows


def output_head_times(head: HeadModel, rows: int = 1, repeats: int = 200) -> dict[str, float]:
    """Seconds of the output head of low rank, of the same multiplied out, and their ratio (nu)."""
    full = AdaptiveLinear(densified(head.network).lm_head.weight.data.to(head.dtype))
    x = torch.randn(rows, head.shape.width, dtype=head.dtype)

    def of(factors: Sequence[AdaptiveLinear]) -> float:
        times: list[float] = []
        for _ in range(repeats):
            start, z = perf_counter(), x
            for factor in factors:
                z = factor(z)
            times.append(perf_counter() - start)
        return float(np.median(times))

    low, whole = of(head.head), of([full])
    return {"rows": rows, "low_rank_s": low, "full_s": whole, "nu": low / whole}


def beside_vllm(python: Path, target: Path, prompts: Sequence[PromptTokens], tokens: int, end: int) -> dict[str, Any]:
    """Texts and acceptance by position of vLLM with the head multiplied out, and of vLLM without."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        exported = Path(folder) / "head"
        export_head(house_folder("smollm2_head"), exported, "vllm", dense=True, dtype="float32")
        for method in ("plain", f"eagle3:{CHAIN}:{exported}"):
            options = (str(target), "float32", method, "1", str(torch.get_num_threads()))
            with Worker(python, "vllm_worker.py", *options) as worker:
                answer = worker.generate([p.tokens.tolist() for p in prompts], tokens, end)
            found[method.partition(":")[0]] = {"tokens": answer["tokens"], "metrics": answer["metrics"]}
    found["equal_texts"] = found["plain"]["tokens"] == found["eagle3"]["tokens"]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m proofs_tests.benchmarks.heads", description=__doc__)
    parser.add_argument("--target", type=Path, default=Path("out/models/smollm2"))
    parser.add_argument("--dtype", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--prompts", type=int, default=8, help="a workload")
    parser.add_argument("--workload", nargs="+", default=["chat", "code", "math", "rag", "summarization"])
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--engines", type=Path, help="the interpreter of `make engines`")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the report")
    args = parser.parse_args()
    tokenizer = load_tokenizer(args.target)
    prompts = public_prompts("test", tokenizer, args.workload, args.prompts)
    report: dict[str, Any] = {"cells": {}, "output_head": {}}
    for dtype in args.dtype:
        target = load_model(args.target, dtype)
        head = load_head(house_folder("smollm2_head"), target)
        report["output_head"][dtype] = [output_head_times(head, rows) for rows in (1, 8)]
        print(dtype, report["output_head"][dtype], flush=True)
        report["cells"][dtype] = [row for batch in args.batch for row in measured(target, head, prompts, batch, args)]
    if args.engines is not None:
        few = [prompt for prompt in prompts if prompt.workload in ("chat", "code", "math")]
        report["vllm"] = beside_vllm(args.engines, args.target, few, args.new_tokens, int(tokenizer.eos_token_id))
        print("vLLM:", report["vllm"]["equal_texts"], report["vllm"]["eagle3"]["metrics"], flush=True)
    print(write_report("heads", report, args.output))


if __name__ == "__main__":
    main()
