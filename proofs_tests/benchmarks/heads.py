"""SmolLM2's head in the engine: tokens a step and tokens a second, beside plain decoding and retrieval.

    python -m proofs_tests.benchmarks.heads [--target out/models/smollm2] [--dtype float32 bfloat16] [--prompts 8]
    python -m proofs_tests.benchmarks.heads --part vllm --engines .venv-engines/bin/python

Prompts are the public `test` ones, which the head's training did not see. Methods take turns on the same prompts; a
rate is tokens emitted a second of decoding, prefill left out, the median over repeats. Tokens a step are counted from
the second token on: the first comes from the prompt's forward. Equal texts are checked in float32.

Part ``trade`` runs the head beside the same one multiplied out, which drafts the same tokens: rho_TPS measured, and by
the formula, with nu and kappa from the seconds of output heads and of whole rounds. Part ``vllm`` runs the exported
head in vLLM on the CPU: its text beside plain decoding's, its acceptance by position beside ours on the same prompts;
it needs no quiet machine.
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
from reader_theory.cost.head import HeadTrade
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


def traded(
    target: LanguageModel, head: HeadModel, prompts: Sequence[PromptTokens], batch: int, args: argparse.Namespace
) -> dict[str, float]:
    """The head beside the same one with a full output head: rates in turn, and the formula for their ratio."""
    whole = HeadModel(densified(head.network), head.embedding, name="full", dtype=head.dtype)
    longest = max(len(prompt.tokens) for prompt in prompts) + args.new_tokens + 16
    params = SamplingParams(max_new_tokens=args.new_tokens, stop_token_ids=tuple(target.end_tokens))
    engines = {
        name: Engine(target, each, max_batch=batch, max_context=longest)
        for name, each in {"slim": head, "full": whole}.items()
    }
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in engines}
    for repeat in range(args.repeats + 1):
        for name in list(engines)[:: 1 if repeat % 2 else -1]:
            runs[name].append(served(engines[name], POLICIES["chain"], prompts, params))
    rate = {n: statistics.median(run["tokens"] / run["seconds"] for run in each[1:]) for n, each in runs.items()}
    round_s = statistics.median(run["seconds"] / max(run["steps"] / batch, 1) for run in runs["full"][1:])
    heads = output_head_times(head, batch)
    drafted_s = CHAIN * heads["full_s"]
    tau = {name: each[-1]["tokens"] / each[-1]["steps"] for name, each in runs.items()}
    trade = HeadTrade(tau["slim"] / tau["full"], heads["nu"], drafted_s / (round_s - drafted_s))
    return {"batch": batch, "rho_tau": trade.rho_tau, "nu": trade.nu, "kappa": trade.kappa, "formula": trade.rho_tps,
            "measured": rate["slim"] / rate["full"]}  # fmt: skip


def by_position(emitted: Sequence[int], most: int = CHAIN) -> list[dict[str, float]]:
    """Share of steps that accepted at least so many drafts, with its interval, of tokens a step."""
    found: list[dict[str, float]] = []
    for depth in range(1, most + 1):
        right = sum(n > depth for n in emitted)
        low, high = binomtest(right, len(emitted)).proportion_ci(method="wilson")
        found.append({"position": depth, "share": right / len(emitted), "low": low, "high": high})
    return found


def ours_beside(folder: Path, prompts: Sequence[PromptTokens], tokens: int) -> tuple[list[list[int]], list[int]]:
    """Our own texts with the head, one request at a time, and tokens of each step."""
    target = load_model(folder, "float32")
    longest = max(len(prompt.tokens) for prompt in prompts) + tokens + 16
    engine = Engine(target, load_head(house_folder("smollm2_head"), target), max_batch=1, max_context=longest)
    params = SamplingParams(max_new_tokens=tokens, stop_token_ids=tuple(target.end_tokens))
    done = [served(engine, POLICIES["chain"], [prompt], params) for prompt in prompts]
    return [one["texts"][0] for one in done], [n for one in done for n in one["emitted"]]


def beside_vllm(python: Path, target: Path, prompts: Sequence[PromptTokens], tokens: int, end: int) -> dict[str, Any]:
    """Texts and acceptance by position of vLLM with the head multiplied out, of vLLM without, and of ours.

    Both count steps of all prompts; shares of vLLM are compared with ours by the interval of their difference.
    """
    found: dict[str, Any] = {}
    texts, emitted = ours_beside(target, prompts, tokens)
    found["ours"] = {"tokens": texts, "by_position": by_position(emitted), "steps": len(emitted)}
    print("ours:", found["ours"]["by_position"], flush=True)
    with tempfile.TemporaryDirectory() as folder:
        exported = Path(folder) / "head"
        export_head(house_folder("smollm2_head"), exported, "vllm", dense=True, dtype="float32")
        for method in ("plain", f"eagle3:{CHAIN}:{exported}"):
            options = (str(target), "float32", method, "1", str(torch.get_num_threads()))
            with Worker(python, "vllm_worker.py", *options) as worker:
                answer = worker.generate([p.tokens.tolist() for p in prompts], tokens, end)
            found[method.partition(":")[0]] = {"tokens": answer["tokens"], "metrics": answer["metrics"]}
    found["equal_texts"] = found["plain"]["tokens"] == found["eagle3"]["tokens"]
    found["equal_to_ours"] = [one == other for one, other in zip(texts, found["eagle3"]["tokens"], strict=True)]
    steps, accepted = counted(found["eagle3"]["metrics"])
    found["by_position"] = [apart(mine, len(emitted), theirs / steps, steps) for mine, theirs in
                            zip(found["ours"]["by_position"], accepted, strict=True)]  # fmt: skip
    return found


def counted(metrics: dict[str, Any]) -> tuple[int, list[int]]:
    """Drafts, and tokens accepted at each position, of vLLM's own counters."""
    return int(metrics["vllm:spec_decode_num_drafts"]), [
        int(each) for each in metrics["vllm:spec_decode_num_accepted_tokens_per_pos"]
    ]


def apart(mine: dict[str, float], steps: int, theirs: float, drafts: int) -> dict[str, float | bool]:
    """Two shares of one position, and whether 0 lies within the 95 % interval of their difference."""
    share = mine["share"]
    wide = 1.96 * float(np.sqrt(share * (1 - share) / steps + theirs * (1 - theirs) / drafts))
    return {"position": mine["position"], "ours": share, "vllm": theirs, "half_width": wide,
            "agree": abs(share - theirs) <= wide}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m proofs_tests.benchmarks.heads", description=__doc__)
    parser.add_argument("--target", type=Path, default=Path("out/models/smollm2"))
    parser.add_argument("--dtype", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--prompts", type=int, default=8, help="a workload")
    parser.add_argument("--workload", nargs="+", default=["chat", "code", "math", "rag", "summarization"])
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--part", nargs="+", choices=["cells", "trade", "vllm"], default=["cells", "trade"])
    parser.add_argument("--engines", type=Path, help="the interpreter of `make engines`")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the report")
    args = parser.parse_args()
    tokenizer = load_tokenizer(args.target)
    prompts = public_prompts("test", tokenizer, args.workload, args.prompts)
    report: dict[str, Any] = {"cells": {}, "output_head": {}, "trade": {}}
    few = [prompt for prompt in prompts if prompt.workload in ("chat", "code", "math")]
    for dtype in args.dtype if {"cells", "trade"} & set(args.part) else ():
        target = load_model(args.target, dtype)
        head = load_head(house_folder("smollm2_head"), target)
        report["output_head"][dtype] = [output_head_times(head, rows) for rows in (1, 8)]
        print(dtype, report["output_head"][dtype], flush=True)
        if "trade" in args.part:
            report["trade"][dtype] = [traded(target, head, few, batch, args) for batch in args.batch]
            print(dtype, report["trade"][dtype], flush=True)
        if "cells" in args.part:
            cells = [row for batch in args.batch for row in measured(target, head, prompts, batch, args)]
            report["cells"][dtype] = cells
    told: dict[str, Any] = {}
    if "vllm" in args.part:
        if args.engines is None:
            parser.error("--part vllm needs --engines, the interpreter of `make engines`")
        told = beside_vllm(args.engines, args.target, few, args.new_tokens, int(tokenizer.eos_token_id))
        report["vllm"] = told
        print("vLLM:", told["equal_texts"], sum(told["equal_to_ours"]), told["by_position"], flush=True)
    alone = args.part == ["vllm"]
    print(write_report("heads_vllm" if alone else "heads", told if alone else report, args.output))


if __name__ == "__main__":
    main()
