"""One water level for 256 requests of 64 candidates each, exactly, and what it gains over uniform budgets.

python -m proofs_tests.benchmarks.allocation [--runs 50]
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from optimizer.solvers.allocation import allocate
from proofs_tests.benchmarks._report import write_report

BATCH, CANDIDATES = 256, 64


def candidates(seed: int = 0) -> np.ndarray:
    """(B, K) path probabilities by request: a quarter of them copies, the others trees of mixed difficulty."""
    generator = np.random.default_rng(seed)
    alpha = np.where(np.arange(BATCH) % 4 == 0, 0.97, generator.uniform(0.3, 0.75, BATCH))
    return np.cumprod(np.broadcast_to(alpha[:, None], (BATCH, CANDIDATES)), axis=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=50)
    options = parser.parse_args()
    path = candidates()
    tokens = BATCH + np.arange(path.size + 1)
    seconds = 0.02 + np.maximum(0, np.ceil((tokens - 256) / 64)) * 5e-4
    found = allocate(path, seconds, BATCH)
    assert found is not None
    taken = []
    for _ in range(options.runs):
        began = time.perf_counter()
        allocate(path, seconds, BATCH)
        taken.append(time.perf_counter() - began)
    uniform = max((BATCH + path[:, :k].sum()) / seconds[BATCH * k] for k in range(CANDIDATES + 1))
    budgets = found.chosen.reshape(path.shape).sum(axis=1)
    best, median = min(taken), float(np.median(taken))
    print(
        f"{BATCH} x {CANDIDATES} candidates: best {best * 1e3:.2f} ms, median {median * 1e3:.2f} ms of {options.runs}"
    )
    print(f"nodes {found.nodes}, a request {budgets.min()}-{budgets.max()}, price {found.price:.3f} tokens a node")
    print(f"tokens/s: water level {found.value:.0f}, best uniform {uniform:.0f}, off {BATCH / seconds[0]:.0f}")
    payload = {
        "best_s": best,
        "median_s": median,
        "runs": options.runs,
        "nodes": found.nodes,
        "price": found.price,
        "tokens_per_s": found.value,
        "uniform_tokens_per_s": float(uniform),
        "off_tokens_per_s": float(BATCH / seconds[0]),
    }
    print(write_report("allocation", payload))


if __name__ == "__main__":
    main()
