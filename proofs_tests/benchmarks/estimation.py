"""How much is lost by planning from a short trace: the tree solved from n samples, judged by the true law.

The tree's *shape* hardly suffers; the tokens a step that it *promises* do. Monotone fit beside raw.

Run: ``python -m proofs_tests.benchmarks.estimation [--repeats 200]``
"""

from __future__ import annotations

import argparse
import heapq

import numpy as np
from numpy.typing import NDArray

from proofs_tests.benchmarks._report import write_report
from reader_theory.acceptance import RankTable
from reader_theory.acceptance.rank_table import non_increasing
from reader_theory.trees import TokenTree

SAMPLES = (100, 667, 5000)
NODES = 32
WEIGHTS = np.array([72, 11, 5, 3, 2, 1.5, 1, 1, 0.5, 0.5, 0.4, 0.3, 0.3, 0.2, 0.2, 0.1])
LAW = 0.85 * WEIGHTS / WEIGHTS.sum()


def best_tree(ranks: NDArray[np.float64], nodes: int) -> TokenTree:
    """The N likeliest rank paths, any subset of ranks allowed: best first, which is optimal here."""
    order = np.argsort(-ranks, kind="stable")
    heap: list[tuple[float, int, int, int]] = [(-float(ranks[order[0]]), 0, 0, 0)]
    parents, chosen, chance, counter = [-1], [0], [1.0], 0
    while len(parents) <= nodes and heap:
        negative, _, parent, place = heapq.heappop(heap)
        parents.append(parent)
        chosen.append(int(order[place]))
        chance.append(-negative)
        counter += 2
        if place + 1 < len(order):
            heapq.heappush(heap, (-chance[parent] * float(ranks[order[place + 1]]), counter, parent, place + 1))
        heapq.heappush(heap, (negative * float(ranks[order[0]]), counter + 1, len(parents) - 1, 0))
    return TokenTree(parents, chosen)


def trial(samples: int, generator: np.random.Generator, monotone: bool) -> tuple[float, float]:
    """(regret of the tree, error of its promise), both as shares of the true optimum's tokens a step."""
    counts = generator.multinomial(samples, np.append(LAW, 1 - LAW.sum()))[:-1]
    ranks = non_increasing([counts / samples])[0] if monotone else counts / samples
    tree, true = best_tree(ranks, NODES), RankTable.stationary(LAW, NODES)
    best, got = true.tokens_per_step(best_tree(LAW, NODES)), true.tokens_per_step(tree)
    return 1 - got / best, RankTable.stationary(ranks, NODES).tokens_per_step(tree) / got - 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=200)
    repeats = parser.parse_args().repeats
    print(f"tree of {NODES} nodes from n samples of {len(LAW)} ranks, {repeats} repeats; shares of tokens a step")
    print(f"{'n':>6} {'fit':<9} {'regret mean':>12} {'regret p95':>11} {'promise bias':>13} {'promise sd':>11}")
    rows = []
    for samples in SAMPLES:
        for monotone in (False, True):
            generator = np.random.default_rng(samples)
            regret, promise = np.array([trial(samples, generator, monotone) for _ in range(repeats)]).T
            row = {
                "regret_mean": float(regret.mean()),
                "regret_p95": float(np.quantile(regret, 0.95)),
                "promise_bias": float(promise.mean()),
                "promise_sd": float(promise.std()),
            }
            rows.append({"samples": samples, "monotone": monotone} | row)
            shares = "  ".join(f"{share:>+11.2%}" for share in row.values())
            print(f"{samples:>6} {'monotone' if monotone else 'raw':<9} {shares}")
    print(write_report("estimation", {"repeats": repeats, "nodes": NODES, "law": LAW.tolist(), "rows": rows}).name)


if __name__ == "__main__":
    main()
