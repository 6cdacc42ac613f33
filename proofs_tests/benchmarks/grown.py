"""Grown trees beside its two sources: tokens a step at equal nodes on the workloads of the house models.

    python -m proofs_tests.benchmarks.grown [--prompts 16] [--fit-prompts 24] [--new-tokens 96]

The target answers prompts once, greedily and at temperature 1; each drafter is then replayed on these outputs, which
is exact for rules that follow the target's own tokens. Maps are fitted on other prompts than the ones that are
replayed. Nodes are the ones verified, the root not counted; a source is read off its own curve, linear between
measured points, at the nodes that the grown tree used. Greedy text of small models repeats itself, which flatters
retrieval: temperature 1 has little of that.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from time import perf_counter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from optimizer.solvers.best_first import best_first_order
from proofs_tests.benchmarks._report import write_report
from reader_theory.acceptance.calibration import Scored, draft_scores, expected_calibration_error
from reader_theory.acceptance.rank_table import RankTable
from reader_theory.documents import Grown, Static, Trace
from reader_theory.documents.policy import DRAFT
from reader_theory.trees import TokenTree
from runtime.drafters.neural import NeuralDrafter
from runtime.drafters.offers import OffersFit, fit_offers, record_offers
from runtime.engine.engine import Engine
from runtime.engine.sampling import SamplingParams
from runtime.measure.prompts import PromptTokens, house_prompts
from runtime.measure.record import trace_of
from runtime.measure.replay import replay_grown
from runtime.models.base import LanguageModel
from runtime.models.house import house_folder
from runtime.models.load import load_model, load_tokenizer

BUDGETS = (2, 4, 8, 16, 32, 64)
GROWN_AT = (4, 8, 16, 32)
LEVELS, BATCH = 5, 8
Pair = tuple[NDArray[np.int64], NDArray[np.int64]]


def answers(target: LanguageModel, prompts: Sequence[PromptTokens], temperature: float, tokens: int) -> list[Pair]:
    """Prompts and the target's own outputs."""
    longest = max(len(prompt.tokens) for prompt in prompts)
    engine = Engine(target, max_batch=BATCH, max_context=longest + tokens + 2)
    params = SamplingParams(temperature=temperature, max_new_tokens=tokens, seed=1)
    done = engine.generate([prompt.tokens for prompt in prompts], params)
    return [(p.tokens, np.array(d.tokens, dtype=np.int64)) for p, d in zip(prompts, done, strict=True)]


def opened(draft: LanguageModel, rows: int, slots: int) -> NeuralDrafter:
    """A drafter with room for some rows."""
    drafter = NeuralDrafter(draft)
    drafter.open("draft", rows, slots)
    return drafter


def kept_of(tokens: list[int], parents: list[int], ahead: list[int]) -> list[int]:
    """What a step emits whose tree has these nodes, -1 the root, where the target goes on with `ahead`."""
    below, node, emitted = dict(zip(zip(parents, tokens, strict=True), range(len(tokens)), strict=True)), -1, []
    for token in ahead:
        emitted.append(token)
        if (node := below.get((node, token), -2)) < -1:
            break
    return emitted


def replayed(draft: LanguageModel | None, policy: Grown, pairs: Sequence[Pair]) -> dict[str, float]:
    """Tokens, nodes and seconds of the replay a row and step."""
    began = perf_counter()
    steps = replay_grown(draft, policy, pairs)
    spent, count = perf_counter() - began, len(steps["emitted"])
    return {
        "tokens_per_step": float(steps["emitted"].sum()) / count,
        "nodes_per_step": float(steps["nodes"].sum()) / count,
        "replay_ms_per_row_step": spent / count * 1e3,
    }


def static_trees(trace: Trace, workload: str) -> dict[int, TokenTree]:
    """Best trees of every budget under the draft's ranks, as a plan for one source would choose them."""
    rank = trace.columns["draft_rank"][trace.rows(workload)]
    share = np.bincount(rank[rank >= 0], minlength=trace.candidates) / len(rank)
    whole, _ = best_first_order(RankTable(np.tile(share, (LEVELS + 1, 1))), max(BUDGETS), LEVELS + 1)
    return {n: whole.prune(nodes=n).by_level() for n in BUDGETS}


def neural_static(draft: LanguageModel, trees: dict[int, TokenTree], pairs: Sequence[Pair]) -> list[dict[str, float]]:
    """Replay of the draft's static trees alone."""
    rows = []
    for nodes, tree in trees.items():
        steps = emitted = 0
        for prompt, output in pairs:
            drafter = opened(draft, 1, len(prompt) + len(output) + nodes + 2)
            drafter.join(0, np.append(prompt, output[0]))
            at, text = 1, output.tolist()
            while at < len(text):
                tokens = np.empty((1, len(tree)), dtype=np.int64)
                drafter.fill(tree, tokens)
                kept = kept_of(tokens[0, 1:].tolist(), (tree.parents[1:] - 1).tolist(), text[at:])
                drafter.extend(0, kept)
                at, steps, emitted = at + len(kept), steps + 1, emitted + len(kept)
        rows.append({"budget": nodes, "tokens_per_step": emitted / steps, "nodes_per_step": float(nodes)})
    return rows


def at_nodes(curve: list[dict[str, float]], nodes: float) -> float:
    """Tokens a step of a measured curve at so many nodes; flat beyond its last point."""
    points = sorted((row["nodes_per_step"], row["tokens_per_step"]) for row in curve)
    return float(np.interp(nodes, [0.0, *(x for x, _ in points)], [1.0, *(y for _, y in points)]))


def errors(fit: OffersFit, offered: dict[str, Scored], trace: Trace, workload: str) -> dict[str, Any]:
    """Expected calibration error on the prompts of the test, before and after the maps, by who offered the token."""
    found: dict[str, Any] = {}
    for name, one in offered.items():
        if name in fit.calibrations:
            mapped = fit.calibrations[name](one.score)
            found[name] = {
                "raw": expected_calibration_error(one.score, one.right),
                "mapped": expected_calibration_error(mapped, one.right),
                "tokens": int(one.score.size),
            }
    alone = draft_scores(trace, workload)
    found["draft's own probability"] = {"raw": expected_calibration_error(alone.score, alone.right)}
    return found


def one_workload(
    target: LanguageModel, draft: LanguageModel, prompts: dict[str, list[PromptTokens]], temperature: float, tokens: int
) -> dict[str, Any]:
    pairs = {split: answers(target, chosen, temperature, tokens) for split, chosen in prompts.items()}
    workload = prompts["fit"][0].workload
    outputs = [output for _, output in pairs["fit"]]
    trace = trace_of(target, draft, prompts["fit"], outputs, temperature=temperature)
    fit = fit_offers(record_offers(draft, pairs["fit"]))
    test, trees = pairs["test"], static_trees(trace, workload)

    def grown(name: str, model: LanguageModel | None, budgets: Sequence[int], **options: Any) -> list[dict[str, Any]]:
        static = options.pop("static", None)
        rows = []
        for nodes in budgets:
            asked = {"asked": Static.of(static[nodes]), "candidates": trace.candidates} if static else {}
            source = DRAFT if model is not None else None
            policy = Grown(nodes=nodes, width=min(nodes, 12), levels=LEVELS, drafter=source, **asked, **options)
            found = replayed(model, policy, test)
            rows.append({"budget": nodes, "price": policy.price, **found})
            print(
                f"  {name:26s}{nodes:4d} nodes, price {policy.price:<5g} {found['tokens_per_step']:6.3f} tokens a step"
                f" at {found['nodes_per_step']:5.1f} nodes, replay {found['replay_ms_per_row_step']:6.2f} ms",
                flush=True,
            )
        return rows

    curves = {
        "retrieval": grown("retrieval", None, BUDGETS, maps=fit.maps),
        "draft, dynamic": grown("draft, dynamic", draft, BUDGETS, retrieval=None, maps=fit.maps),
        "draft, static": neural_static(draft, trees, test),
        "grown, dynamic": grown("grown, dynamic", draft, GROWN_AT, maps=fit.maps),
        "grown, static": grown("grown, static", draft, GROWN_AT, maps=fit.maps, static=trees),
        "grown, not calibrated": grown("grown, not calibrated", draft, GROWN_AT),
        "grown, by price": [
            row for p in (0.2, 0.1, 0.05) for row in grown("grown, by price", draft, (64,), maps=fit.maps, price=p)
        ],
    }
    beside = []
    for row in curves["grown, dynamic"]:
        sources = {
            name: at_nodes(curves[name], row["nodes_per_step"])
            for name in ("retrieval", "draft, dynamic", "draft, static")
        }
        better = max(sources, key=lambda name: sources[name])
        ratio = row["tokens_per_step"] / sources[better]
        beside.append({"nodes": row["nodes_per_step"], "grown": row["tokens_per_step"], **sources, "ratio": ratio})
        print(f"  at {row['nodes_per_step']:5.1f} nodes: grown {row['tokens_per_step']:.3f}, {better} "
              f"{sources[better]:.3f}, ratio {ratio:.3f}", flush=True)  # fmt: skip
    calibration = errors(fit, record_offers(draft, test), trace, workload)
    print("  calibration error " + ", ".join(f"{k} {v['raw']:.4f} -> {v.get('mapped', float('nan')):.4f}"
                                              for k, v in calibration.items()), flush=True)  # fmt: skip
    return {"curves": curves, "at_equal_nodes": beside, "calibration_error": calibration}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=16, help="replayed, by workload")
    parser.add_argument("--fit-prompts", type=int, default=24, help="that the maps are fitted on, by workload")
    parser.add_argument("--new-tokens", type=int, default=96)
    parser.add_argument("--workloads", nargs="*")
    parser.add_argument("--temperatures", nargs="*", type=float, default=[0.0, 1.0])
    parser.add_argument("--name", default="grown")
    options = parser.parse_args()
    torch.set_num_threads(1)
    target, draft = load_model(house_folder("target")), load_model(house_folder("draft"))
    tokenizer = load_tokenizer(house_folder("target"))
    counts = {"fit": options.fit_prompts, "test": options.prompts}
    splits = {split: house_prompts(options.workloads, split, tokenizer, count) for split, count in counts.items()}
    payload: dict[str, Any] = {"prompts": counts, "new_tokens": options.new_tokens, "levels": LEVELS}
    for temperature in options.temperatures:
        for workload in dict.fromkeys(prompt.workload for prompt in splits["fit"]):
            print(f"{workload}, temperature {temperature:g}", flush=True)
            chosen = {split: [p for p in prompts if p.workload == workload] for split, prompts in splits.items()}
            payload[f"{workload}, temperature {temperature:g}"] = one_workload(
                target, draft, chosen, temperature, options.new_tokens
            )
    print(write_report(options.name, payload))


if __name__ == "__main__":
    main()
