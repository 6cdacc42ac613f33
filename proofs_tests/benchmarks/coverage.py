"""Do the intervals cover, and how much must be recorded for one of a given width?

1,000 simulated traces whose positions are correlated within prompts; the truth is the same policy on 40,000 prompts.
Then traces of few documents with a few prompts each, whose effects documents share: by what is said of the sources.

Run: ``python -m proofs_tests.benchmarks.coverage [--traces 1000]``
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from proofs_tests.benchmarks._report import write_report
from proofs_tests.plans.scenarios import Scenario, trace_of
from reader_theory.acceptance import bootstrap_prompts, ratio_of_sums, simulated_trace
from reader_theory.acceptance.replay import replay_many
from reader_theory.acceptance.statistics import conditionals_of, rank_depth_counts, rows_of
from reader_theory.documents import Chain, policy_of
from reader_theory.documents.trace import Trace
from reader_theory.trees import TokenTree

TOKENS = 128
LAW: dict[str, Any] = {"spread": 0.6, "stickiness": 0.8, "copying": 0.02}
TREE = TokenTree.from_rank_paths([(0, 0, 0, 0), (0, 1), (1, 0), (2,)])
POLICIES = {
    "chain 4": policy_of(TokenTree.chain(4)),
    "tree 8": policy_of(TREE),
    "tree 8 + retrieval 8": policy_of(TREE, Chain(min_match=2, offset=0, factor=2, max_tokens=8)),
}
SCENARIO = Scenario(copying=0.0)
Sums = NDArray[np.float64]


def replayed(trace: Trace) -> dict[str, Sums]:
    """(P, 2) tokens and steps of each policy."""
    results = replay_many(trace, POLICIES.values())
    return {n: np.stack([r.tokens, r.steps], axis=1).astype(float) for n, r in zip(POLICIES, results, strict=True)}


def path_sums(trace: Trace) -> Sums:
    """(P, D * (R + 1)) counts that the rank x depth model's chain of 4 is a function of."""
    return rank_depth_counts(rows_of(trace), 4, trace.candidates).reshape(len(trace.prompts), -1)


def modelled_chain(sums: Sums) -> Sums:
    table = conditionals_of(sums.reshape(*sums.shape[:-1], 4, -1))[..., 0]
    return 1 + np.cumprod(table, axis=-1).sum(axis=-1)


def statistics(trace: Trace) -> dict[str, tuple[Sums, Callable[[Sums], Sums]]]:
    """Sums by prompt and what is estimated from them, by name."""
    found = {f"replay, {name}": (sums, ratio_of_sums) for name, sums in replayed(trace).items()}
    return found | {"rank x depth model, chain 4": (path_sums(trace), modelled_chain)}


def truths() -> dict[str, float]:
    """Each statistic of 40,000 prompts, in 20 parts."""
    totals: dict[str, list[Sums]] = {}
    for part in range(20):
        trace = simulated_trace(prompts=2000, tokens=TOKENS, seed=10**6 + part, **LAW)
        for name, (sums, _) in statistics(trace).items():
            totals.setdefault(name, []).append(sums.sum(axis=0))
    rules = {name: rule for name, (_, rule) in statistics(trace).items()}
    return {name: float(rules[name](np.sum(parts, axis=0))) for name, parts in totals.items()}


def coverage(prompts: int, traces: int, truth: dict[str, float]) -> dict[str, dict[str, float]]:
    """Share of intervals that hold the truth, and their mean width over the truth, by statistic."""
    hits, widths = dict.fromkeys(truth, 0), dict.fromkeys(truth, 0.0)
    for seed in range(traces):
        for name, (sums, rule) in statistics(simulated_trace(prompts=prompts, tokens=TOKENS, seed=seed, **LAW)).items():
            found = bootstrap_prompts(sums, rule, resamples=1000, seed=seed)
            hits[name] += bool(found.low <= truth[name] <= found.high)
            widths[name] += float(found.high - found.low)
    return {
        name: {"coverage": hits[name] / traces, "width": widths[name] / traces / truth[name]} for name in truth
    }  # fmt: skip


def by_documents(documents: int, each: int, traces: int, truth: float) -> dict[str, float]:
    """Share of intervals on a chain of 4 that hold the truth, by documents and, were these not known, by prompts."""
    told = {"documents": 0, "prompts": 0, "width": 0.0}
    policy = POLICIES["chain 4"]
    for seed in range(traces):
        recorded = trace_of(SCENARIO, documents * each, seed, by_document=each)
        (result,) = replay_many(recorded, [policy])
        sums = np.stack([result.tokens, result.steps], axis=1).astype(float)
        grouped = sums.reshape(documents, each, 2).sum(axis=1)
        found = {"documents": bootstrap_prompts(grouped, ratio_of_sums, seed=seed)}
        found["prompts"] = bootstrap_prompts(sums, ratio_of_sums, seed=seed)
        for name, interval in found.items():
            told[name] += bool(interval.low <= truth <= interval.high)
        told["width"] += float(found["documents"].high - found["documents"].low) / truth
    return {name: total / traces for name, total in told.items()}


def document_truth() -> float:
    """Tokens a step of the chain on 4,000 documents."""
    (result,) = replay_many(trace_of(SCENARIO, 4000, 10**6, by_document=1), [POLICIES["chain 4"]])
    return float(result.tokens.sum() / result.steps.sum())


def document_rows(traces: int) -> list[dict[str, float]]:
    """Coverage by documents and prompts of each, printed as it is found."""
    truth = document_truth()
    print(f"{'documents':>10} {'prompts each':>13} {'covers':>8} {'by prompts':>11} {'width':>8}")
    rows = []
    for documents in (2, 3, 4, 6, 12):
        for each in (1, 3, 6):
            found = by_documents(documents, each, traces, truth)
            rows.append({"documents": documents, "prompts_each": each, "share": found})
            shares = [f"{100 * found[name]:.1f} %" for name in ("documents", "prompts", "width")]
            print(f"{documents:>10} {each:>13} {shares[0]:>8} {shares[1]:>11} {shares[2]:>8}", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--traces", type=int, default=1000)
    parser.add_argument("--prompts", type=int, nargs="*", default=[12, 24, 48, 96, 192])
    arguments = parser.parse_args()
    truth = truths()
    print(f"95 % intervals on tokens a step over {arguments.traces} traces of {TOKENS} tokens a prompt; asked: 93-97 %")
    print(f"{'prompts':>8} {'positions':>10}  {'statistic':<30} {'truth':>7} {'coverage':>9} {'width':>7}")
    rows = []
    for prompts in arguments.prompts:
        for name, found in coverage(prompts, arguments.traces, truth).items():
            rows.append(
                {"prompts": prompts, "positions": prompts * TOKENS, "statistic": name, "truth": truth[name], **found}
            )
            share, width = f"{100 * found['coverage']:.1f} %", f"{100 * found['width']:.1f} %"
            print(
                f"{prompts:>8} {prompts * TOKENS:>10}  {name:<30} {truth[name]:>7.3f} {share:>9} {width:>7}", flush=True
            )
    documents = document_rows(arguments.traces)
    payload = {"traces": arguments.traces, "law": LAW, "rows": rows, "documents": documents}
    print(write_report("coverage", payload).name)


if __name__ == "__main__":
    main()
