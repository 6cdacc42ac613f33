"""Tree planners against their peers: all sizes and depths of a rank vector, a million nodes, and what the values are.

Peers, written here again from their published descriptions: the size-depth-branch recurrence of Sequoia (Chen et al.
2024, section 3.1) in numpy and in plain Python, and the frontier greedy of Medusa (Cai et al. 2024), which opens a
sibling only after those before it. Physics: the recurrence compares N^2 R D / 2 sums; at two sums a cycle and lane that
is 30 ms of vector arithmetic, so what is faster must compare fewer.

    python -m proofs_tests.benchmarks.solvers [--runs 7] [--nodes 1024] [--sequoia tree_search.py]

`--sequoia` names the planner in a checkout of Infini-AI-Lab/Sequoia, which is then run as it is; needs torch.
"""

from __future__ import annotations

import argparse
import heapq
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from optimizer.export.growmap import tree_of_growmap
from optimizer.solvers import best_first, dynamic
from proofs_tests.benchmarks._report import write_report
from reader_theory.acceptance import RankTable

DEPTH, RANKS = 32, 32


def vectors() -> dict[str, np.ndarray]:
    """Rank vectors of 32: falling, measured with noise (not monotone), drawn at random, and rising."""
    generator = np.random.default_rng(0)
    falling = np.concatenate([[0.62, 0.13, 0.06], 0.19 * 0.5 * 0.85 ** np.arange(29) * 0.15])
    counts = generator.multinomial(667, np.append(falling, 1 - falling.sum()))[:-1]
    return {
        "falling": falling,
        "measured, 667 draws": counts / 667,
        "random": generator.dirichlet(np.ones(RANKS)) * 0.95,
        "rising": falling[::-1].copy(),
        "one rank of 0.9, last": np.append(np.zeros(RANKS - 1), 0.9),
        "deep, first rank 0.93": np.append(0.93, 0.06 * 0.5 ** np.arange(1, RANKS)),
    }


def numpy_recurrence(ranks: np.ndarray, nodes: int, depth: int) -> np.ndarray:
    """(depth + 1, nodes + 2): best value of a tree of that depth and size, root counted; one row operation a split."""
    best = np.full((depth + 1, nodes + 2), -np.inf)
    best[0, 1] = 1.0
    for d in range(1, depth + 1):
        branches = np.full(nodes + 2, -np.inf)  # trees with exactly the first b branches
        branches[1] = 1.0
        best[d] = branches
        for p in ranks:
            longer = np.full(nodes + 2, -np.inf)
            for m in range(1, nodes + 1):
                if best[d - 1, m] == -np.inf:
                    break
                np.maximum(longer[m:], branches[: nodes + 2 - m] + p * best[d - 1, m], out=longer[m:])
            branches = longer
            np.maximum(best[d], branches, out=best[d])
    return best


def python_recurrence(ranks: list[float], nodes: int, depth: int) -> list[list[float]]:
    """The same recurrence as three nested loops, as a first implementation would have it."""
    missing = float("-inf")
    best = [[missing] * (nodes + 2) for _ in range(depth + 1)]
    best[0][1] = 1.0
    for d in range(1, depth + 1):
        branches = [missing] * (nodes + 2)
        branches[1] = 1.0
        best[d] = branches[:]
        for p in ranks:
            longer = [missing] * (nodes + 2)
            for n in range(2, nodes + 2):
                longer[n] = max((branches[n - m] + p * best[d - 1][m] for m in range(1, n)), default=missing)
            branches = longer
            best[d] = [max(a, b) for a, b in zip(best[d], branches, strict=True)]
    return best


def frontier_greedy(ranks: np.ndarray, nodes: int, depth: int) -> float:
    """Value of the tree that takes the best open node, siblings in rank order; root counted."""
    heap, value = [(-ranks[0], 1.0, 0, 1)], 1.0
    for _ in range(nodes):
        gain, above, rank, level = heapq.heappop(heap)
        value -= gain
        if rank + 1 < len(ranks):
            heapq.heappush(heap, (-above * ranks[rank + 1], above, rank + 1, level))
        if level < depth:
            heapq.heappush(heap, (gain * ranks[0], -gain, 0, level + 1))
    return value


def timed(call: Callable[[], Any], runs: int) -> tuple[float, float]:
    """Best CPU seconds of this thread, and the worst over the best."""
    seconds: list[float] = []
    for _ in range(runs):
        began = time.thread_time()
        call()
        seconds.append(time.thread_time() - began)
    return min(seconds), max(seconds) / min(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--nodes", type=int, default=1024)
    parser.add_argument("--sequoia", type=Path, help="tree_search.py of a checkout of Sequoia")
    parser.add_argument("--sequoia-nodes", type=int, default=64, help="size for it, the root counted, 10 levels")
    parser.add_argument("--python-nodes", type=int, default=64, help="size for the plain Python recurrence, depth 10")
    options = parser.parse_args()
    nodes, rows = options.nodes, []
    print(f"all sizes to {nodes}, depths to {DEPTH}, {RANKS} ranks; CPU ms of one thread, best of {options.runs}")
    print(f"{'ranks':24}{'ours':>8}{'spread':>8}{'numpy':>9}{'ratio':>7}{'value':>9}{'theirs':>9}{'greedy':>9}")
    for name, ranks in vectors().items():
        law = RankTable.stationary(ranks, DEPTH)
        table = dynamic.tokens_table(law, nodes, DEPTH)
        ours, spread = timed(lambda law=law: dynamic.tokens_table(law, nodes, DEPTH), options.runs)
        began = time.thread_time()
        theirs = numpy_recurrence(ranks, nodes, DEPTH)
        peer = time.thread_time() - began
        known = np.isfinite(theirs[1:, 1:])
        shortfall = float((theirs[1:, 1:][known] - table.values[1:][known]).max())
        value, greedy = float(table.values[DEPTH, nodes]), frontier_greedy(ranks, nodes, DEPTH)
        row = {
            "ranks": name,
            "ours_s": ours,
            "spread": spread,
            "numpy_s": peer,
            "ratio": peer / ours,
            "value": value,
            "numpy_value": float(theirs[DEPTH, nodes + 1]),
            "greedy_value": greedy,
            "worst_shortfall": shortfall,
        }
        rows.append(row)
        print(
            f"{name:24}{ours * 1e3:8.1f}{spread:8.2f}{peer * 1e3:9.0f}{peer / ours:7.0f}{value:9.4f}"
            f"{theirs[DEPTH, nodes + 1]:9.4f}{greedy:9.4f}"
        )
    print(f"theirs above ours, any size and depth: at most {max(row['worst_shortfall'] for row in rows):.1e}")
    shape = {"nodes": nodes, "depth": DEPTH, "rows": rows}
    report = {**shape, **_plain_python(options), **_sequoia(options), **_million(options)}
    print(write_report("solvers", report))


def _plain_python(options: argparse.Namespace) -> dict[str, float]:
    small, depth = options.python_nodes, 10
    ranks = vectors()["measured, 667 draws"]
    began = time.thread_time()
    python_recurrence(ranks.tolist(), small, depth)
    slow = time.thread_time() - began
    law = RankTable.stationary(ranks, depth)
    ours, _ = timed(lambda: dynamic.tokens_table(law, small, depth), options.runs)
    print(
        f"plain Python, {small} nodes, depth {depth}: {slow:.2f} s; ours {ours * 1e3:.2f} ms; ratio {slow / ours:.0f}"
    )
    return {"python_s": slow, "python_ours_s": ours}


def _sequoia(options: argparse.Namespace) -> dict[str, float]:
    """Sequoia's own program on the measured ranks: CPU seconds of its process less those of its imports."""
    if options.sequoia is None:
        return {}
    import torch

    ranks, nodes, levels = vectors()["measured, 667 draws"], options.sequoia_nodes, 10
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        torch.save(torch.tensor([0.0, *ranks, 1 - ranks.sum()], dtype=torch.float64), place / "ranks.pt")
        config = {
            "acceptance_rate_vector": str(place / "ranks.pt"), "max_depth": levels, "max_budget": nodes,
            "draft_time": 0.0, "target_time": [1.0], "valid_budget": [nodes], "dst": str(place / "tree.pt"),
        }  # fmt: skip
        (place / "config.json").write_text(json.dumps(config))
        whole = _child_s([sys.executable, str(options.sequoia), "--config", str(place / "config.json")])
        theirs = whole - _child_s([sys.executable, "-c", "import torch, tqdm"])
        grown = torch.load(place / "tree.pt")
    law = RankTable.stationary(ranks, levels - 1)
    ours, _ = timed(lambda: dynamic.tokens_table(law, nodes - 1, levels - 1), options.runs)
    value = float(law.path_probability(tree_of_growmap(grown)).sum())
    best = float(dynamic.tokens_table(law, nodes - 1, levels - 1).values[levels - 1, nodes - 1])
    print(f"Sequoia's own program, {nodes} nodes with the root, {levels} levels: {theirs:.2f} CPU s, value {value:.4f}")
    print(f"  ours {ours * 1e3:.2f} ms, value {best:.4f}; ratio {theirs / ours:.0f}")
    return {
        "sequoia_nodes": nodes, "sequoia_own_s": theirs, "sequoia_ours_s": ours, "sequoia_value": value,
        "sequoia_our_value": best,
    }  # fmt: skip


def _child_s(command: list[str]) -> float:
    """CPU seconds of a process of one thread."""
    before = os.times()
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def _million(options: argparse.Namespace) -> dict[str, float]:
    law = RankTable.stationary(vectors()["falling"], DEPTH)
    parts = lambda: best_first.tokens_table(law, 1_000_000, DEPTH, every_depth=False)  # noqa: E731
    parts()
    seconds, spread = timed(parts, max(3, options.runs // 2))
    print(f"one million nodes by heap: {seconds:.2f} s CPU, spread {spread:.2f}")
    return {"million_nodes_s": seconds}


if __name__ == "__main__":
    main()
