"""SmolLM2's head in the engine: tokens a step and tokens a second, beside plain decoding and retrieval.

    python -m proofs_tests.benchmarks.heads [--part cells] [--dtype float32 bfloat16] [--batch 1 8] [--prompts 4]
    python -m proofs_tests.benchmarks.heads --part trade
    python -m proofs_tests.benchmarks.heads --part vllm --engines .venv-engines/bin/python

Prompts are the public `test` ones, which the head's training did not see, and `edits`: functions of Python's standard
library, which no training saw either, to be written again with better names or comments. Methods take turns on each
group of `batch` prompts; a rate is tokens emitted a second of decoding, prefill left out. Tokens a step are counted
from the second token on: the first comes from the prompt's forward. Milliseconds are medians over steps with all rows:
of the draft's forwards, of the target's, and of the whole step.

Part ``trade`` runs the head beside the same one multiplied out, which drafts the same tokens: rho_TPS measured, and by
the formula, with nu and kappa from the seconds of output heads and of whole rounds. Part ``vllm`` runs the exported
head in vLLM on the CPU: its text beside plain decoding's, its acceptance by position beside ours on the same prompts;
it needs no quiet machine. Every part is written when it is there, and not run again with the same settings.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from scipy.stats import binomtest

from proofs_tests.benchmarks._report import RESULTS, write_report
from proofs_tests.benchmarks.engines.worker import Worker
from reader_theory.cost.head import HeadTrade
from reader_theory.documents import Chain, Grown, Off, Policy, policy_of
from reader_theory.trees import TokenTree
from runtime.drafters.head.export import densified, export_head
from runtime.drafters.head.model import HeadModel, load_head
from runtime.engine.counters import columns_of
from runtime.engine.engine import Engine
from runtime.engine.sampling import SamplingParams
from runtime.measure.bench import trial_of
from runtime.measure.output_head import chain_s
from runtime.measure.prompts import PromptTokens, public_prompts
from runtime.models.base import LanguageModel
from runtime.models.house import house_folder
from runtime.models.linear import AdaptiveLinear
from runtime.models.load import load_model, load_tokenizer
from runtime.models.text import encode_chat
from runtime.training.heads.asking import library_edits

CHAIN = 4
LOOKUP = Chain(min_match=3, offset=0, factor=1, max_tokens=10)
TREE = TokenTree.from_rank_paths([(0,), (1,), (2,), (0, 0), (0, 1), (1, 0), (0, 0, 0), (0, 0, 1), (0, 0, 0, 0)])
POLICIES: dict[str, Policy] = {
    "plain": Off(),
    "chain": policy_of(TokenTree.chain(CHAIN)),
    "tree": policy_of(TREE),
    "grown": Grown(retrieval=None, nodes=9, levels=3, width=2, draft_price=0.05),
    "retrieval": LOOKUP,
    "head and retrieval": policy_of(TokenTree.chain(CHAIN), LOOKUP, skip=6),
    "planned for 8": policy_of(TokenTree.chain(1), Chain(min_match=2, offset=0, factor=1, max_tokens=8)),
}
"""The last is what one plan chose for eight requests of all kinds at once (`head_plan_mixed`)."""


WORKLOADS = ["chat", "code", "math", "rag", "summarization", "edits"]


def prompts_of(tokenizer: Any, workload: str, count: int) -> list[PromptTokens]:
    """Test prompts of a workload."""
    if workload != "edits":
        return public_prompts("test", tokenizer, [workload], count)
    return [
        PromptTokens(f"edits-{n}", workload, encode_chat(tokenizer, [{"role": "user", "content": text}]), source)
        for n, (source, text) in enumerate(library_edits(count))
    ]


Run = dict[str, Any]
Contenders = Mapping[str, tuple[Engine, Policy]]


def served(engine: Engine, policy: Policy, prompts: Sequence[PromptTokens], params: SamplingParams) -> Run:
    """One method on one group of prompts."""
    engine.use(policy)
    engine.timings.clear()
    before = engine.prefill_s
    start = perf_counter()
    requests = [engine.add(prompt.tokens, params) for prompt in prompts]
    depths: list[int] = []
    while any(not request.done for request in requests):
        had = [(request, max(len(request.output), 1)) for request in requests]
        engine.step()
        depths += [len(r.output) - n for r, n in had if len(r.output) > n]
    seconds = perf_counter() - start - (engine.prefill_s - before)
    tokens = sum(len(request.output) - 1 for request in requests)
    return {"tokens": tokens, "steps": sum(r.steps for r in requests), "seconds": seconds, "emitted": depths,
            "texts": [list(request.output) for request in requests], "timings": list(engine.timings)}  # fmt: skip


def in_turn(
    contenders: Contenders, prompts: Sequence[PromptTokens], batch: int, repeats: int, params: SamplingParams
) -> dict[str, list[Run]]:
    """Runs of each, one a group of `batch` prompts and repeat; every other group in the opposite order."""
    runs: dict[str, list[Run]] = {name: [] for name in contenders}
    for engine, policy in contenders.values():
        served(engine, policy, prompts[:batch], replace(params, max_new_tokens=16))
    for number, start in enumerate([*range(0, len(prompts), batch)] * repeats):
        for name in list(contenders)[:: -1 if number % 2 else 1]:
            runs[name].append(served(*contenders[name], prompts[start : start + batch], params))
    return runs


def rate_of(runs: Sequence[Run]) -> float:
    """Tokens a second."""
    return sum(run["tokens"] for run in runs) / sum(run["seconds"] for run in runs)


def tau_of(runs: Sequence[Run]) -> float:
    """Tokens a step."""
    return sum(run["tokens"] for run in runs) / sum(run["steps"] for run in runs)


def milliseconds(runs: Sequence[Run], batch: int) -> dict[str, float]:
    """Medians over steps of all rows."""
    seen = columns_of([one for run in runs for one in run["timings"] if one.rows == batch])
    return {f"{name}_ms": round(1e3 * float(np.median(seen[f"{name}_s"])), 3) for name in ("draft", "target", "step")}


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
    """All methods on one workload at a batch."""
    longest = max(len(prompt.tokens) for prompt in prompts) + args.new_tokens + 16
    engine = Engine(target, head, max_batch=batch, max_context=longest)
    params = SamplingParams(max_new_tokens=args.new_tokens, stop_token_ids=tuple(target.end_tokens))
    contenders = {name: (engine, policy) for name, policy in POLICIES.items()}
    runs = in_turn(contenders, prompts, batch, args.repeats, params)
    plain = rate_of(runs["plain"])
    rows: list[dict[str, Any]] = []
    for name, each in runs.items():
        row = {
            "method": name, "tokens_a_step": tau_of(each), "tokens_per_s": rate_of(each),
            "beside_plain": rate_of(each) / plain, **milliseconds(each, batch),
            "equal_texts": sum(one == other for mine, theirs in zip(each, runs["plain"], strict=True)
                               for one, other in zip(mine["texts"], theirs["texts"], strict=True)),
            "texts": sum(len(run["texts"]) for run in each),
        }  # fmt: skip
        if name == "chain":
            row["by_depth"] = by_depth([n for run in each for n in run["emitted"]])
        rows.append(row)
        print(
            f"  {name:20} {row['tokens_a_step']:.2f} tokens a step, {row['tokens_per_s']:7.1f} tokens/s, "
            f"{row['beside_plain']:.2f} times plain, equal texts {row['equal_texts']} of {row['texts']}, "
            f"draft {row['draft_ms']} target {row['target_ms']} step {row['step_ms']} ms",
            flush=True,
        )
    return rows


def output_head_times(target: LanguageModel, head: HeadModel, rows: int = 1, repeats: int = 30) -> dict[str, float]:
    """Seconds of the output head of low rank and of the same multiplied out, as a chain runs them; their ratio (nu)."""
    full = AdaptiveLinear(densified(head.network).lm_head.weight.data.to(head.dtype))
    x = torch.randn(rows, head.shape.width, dtype=head.dtype)
    step = trial_of(target, target.new_cache(1, 130), (1, 1, 128))

    def of(factors: Sequence[AdaptiveLinear]) -> float:
        def run() -> None:
            z = x
            for factor in factors:
                z = factor(z)

        return float(np.median([chain_s(run, step, CHAIN) for _ in range(repeats)]))

    low, whole = of(head.head), of([full])
    return {"rows": rows, "low_rank_s": low, "full_s": whole, "nu": low / whole}


def traded(
    target: LanguageModel, head: HeadModel, prompts: Sequence[PromptTokens], batch: int, args: argparse.Namespace
) -> dict[str, float]:
    """The head beside the same one with a full output head: rates in turn, and the formula for their ratio."""
    whole = HeadModel(densified(head.network), head.embedding, name="full", dtype=head.dtype)
    longest = max(len(prompt.tokens) for prompt in prompts) + args.new_tokens + 16
    params = SamplingParams(max_new_tokens=args.new_tokens, stop_token_ids=tuple(target.end_tokens))
    contenders = {
        name: (Engine(target, each, max_batch=batch, max_context=longest), POLICIES["chain"])
        for name, each in {"slim": head, "full": whole}.items()
    }
    runs = in_turn(contenders, prompts, batch, args.repeats, params)
    round_s = milliseconds(runs["full"], batch)["step_ms"] / 1e3
    heads = output_head_times(target, head, batch)
    drafted_s = CHAIN * heads["full_s"]
    tau = {name: tau_of(each) for name, each in runs.items()}
    trade = HeadTrade(tau["slim"] / tau["full"], heads["nu"], drafted_s / (round_s - drafted_s))
    found = {"rho_tau": trade.rho_tau, "nu": trade.nu, "kappa": trade.kappa, "formula": trade.rho_tps,
             "measured": rate_of(runs["slim"]) / rate_of(runs["full"]),
             "by_steps": milliseconds(runs["full"], batch)["step_ms"] / milliseconds(runs["slim"], batch)["step_ms"],
             **{f"{name}_{key}": each for name in runs for key, each in milliseconds(runs[name], batch).items()},
             **heads}  # fmt: skip
    print(found, flush=True)
    return found


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


class Kept:
    """A report that is written after each part, and goes on from what lies there with the same settings."""

    def __init__(self, name: str, settings: dict[str, Any], folder: Path) -> None:
        self.name, self.folder = name, folder
        path = folder / f"{name}.json"
        found = json.loads(path.read_text()) if path.is_file() else {}
        same = found.get("settings") == settings
        self.held: dict[str, Any] = found if same else {"settings": settings}

    def __call__(self, key: str, make: Callable[[], Any]) -> Any:
        """The part under a key, made unless it is there."""
        if key not in self.held:
            self.held[key] = make()
            write_report(
                self.name, {k: v for k, v in self.held.items() if k not in ("benchmark", "environment")}, self.folder
            )
        return self.held[key]


def beside_vllm(
    python: Path, target: Path, prompts: Sequence[PromptTokens], args: argparse.Namespace, end: int, kept: Kept
) -> None:
    """Texts and acceptance by position of vLLM with the head multiplied out, of vLLM without, and of ours.

    Both count steps of all prompts; shares of vLLM are compared with ours by the interval of their difference. The last
    step of a prompt accepts in vLLM what it then cuts off at the limit of tokens.
    """

    def ours() -> dict[str, Any]:
        texts, emitted = ours_beside(target, prompts, args.new_tokens)
        return {"tokens": texts, "by_position": by_position(emitted), "steps": len(emitted)}

    def theirs(method: str) -> dict[str, Any]:
        options = (str(target), "float32", method, "1", str(torch.get_num_threads()))
        with Worker(python, "vllm_worker.py", *options) as worker:
            answer = worker.generate([p.tokens.tolist() for p in prompts], args.new_tokens, end)
        return {"tokens": answer["tokens"], "metrics": answer["metrics"]}

    own, plain = kept("ours", ours), kept("plain", lambda: theirs("plain"))
    with tempfile.TemporaryDirectory() as folder:
        exported = Path(folder) / "head"
        export_head(house_folder("smollm2_head"), exported, "vllm", dense=True, dtype="float32")
        drafted = kept("eagle3", lambda: theirs(f"eagle3:{CHAIN}:{exported}"))
    steps, accepted = counted(drafted["metrics"])
    pairs = zip(own["tokens"], drafted["tokens"], strict=True)
    kept("compared", lambda: {
        "equal_texts": sum(one == other for one, other in zip(plain["tokens"], drafted["tokens"], strict=True)),
        "equal_to_ours": sum(one == other for one, other in pairs), "texts": len(prompts),
        "steps": {"ours": own["steps"], "vllm": steps},
        "by_position": [apart(mine, own["steps"], each / steps, steps)
                        for mine, each in zip(own["by_position"], accepted, strict=True)],
    })  # fmt: skip
    print(kept.held["compared"], flush=True)


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
            "agree": bool(abs(share - theirs) <= wide)}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m proofs_tests.benchmarks.heads", description=__doc__)
    parser.add_argument("--target", type=Path, default=Path("out/models/smollm2"))
    parser.add_argument("--dtype", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--prompts", type=int, default=4, help="a workload, and at least the batch")
    parser.add_argument("--workload", nargs="+", choices=WORKLOADS, default=WORKLOADS)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--part", nargs="+", choices=["cells", "trade", "vllm"], default=["cells", "trade"])
    parser.add_argument("--engines", type=Path, help="the interpreter of `make engines`")
    parser.add_argument("--name", default="heads", help="of the report of cells and trade")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the report")
    args = parser.parse_args()
    tokenizer = load_tokenizer(args.target)
    settings = {name: getattr(args, name) for name in ("prompts", "new_tokens", "repeats")}
    if "vllm" in args.part:
        if args.engines is None:
            parser.error("--part vllm needs --engines, the interpreter of `make engines`")
        few = public_prompts("test", tokenizer, ["chat", "code", "math"], args.prompts)
        kept = Kept("heads_vllm", settings, args.output)
        beside_vllm(args.engines, args.target, few, args, int(tokenizer.eos_token_id), kept)
    kept = Kept(args.name, settings, args.output)
    for batch in args.batch:
        for dtype in args.dtype if {"cells", "trade"} & set(args.part) else ():
            target = load_model(args.target, dtype)
            head = load_head(house_folder("smollm2_head"), target)
            for workload in args.workload if "cells" in args.part else ():
                prompts = prompts_of(tokenizer, workload, max(args.prompts, batch))
                print(workload, dtype, "batch", batch, flush=True)
                kept(f"{workload}, {dtype}, batch {batch}", partial(measured, target, head, prompts, batch, args))
            if "trade" in args.part:
                limit = -(-max(args.prompts, batch) // 2)
                prompts = public_prompts("test", tokenizer, ["chat", "code", "math"], limit)
                kept(f"trade, {dtype}, batch {batch}", partial(traded, target, head, prompts, batch, args))


if __name__ == "__main__":
    main()
