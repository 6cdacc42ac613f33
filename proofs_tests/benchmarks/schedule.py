"""A full schedule: batch 1-256 x 8 contexts x sizes to 256 x depths to 16 with memory, solved and certified.

python -m proofs_tests.benchmarks.schedule [--runs 5]
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from optimizer import Memory, ScheduleProblem, solve_schedule
from optimizer.problem import Rule
from proofs_tests.benchmarks._report import write_report
from reader_theory.acceptance import RankTable

BATCHES, CONTEXTS, NODES, DEPTH = 256, 8, 256, 16


def problem(rule: Rule) -> ScheduleProblem:
    """Flat to 256 tokens, then a stair every 64; acceptance decays with context and depth."""
    generator = np.random.default_rng(0)
    batches, contexts = np.arange(1, BATCHES + 1), np.linspace(512, 32768, CONTEXTS)
    tokens = batches[:, None] * (np.arange(NODES + 1) + 1)
    verify_s = (0.02 + np.maximum(0, np.ceil((tokens - 256) / 64)) * 5e-4)[:, None, :] + (
        batches[:, None] * contexts * 3e-9
    )[:, :, None]
    draft_s = np.broadcast_to(np.arange(DEPTH + 1) * 1.1e-3, (BATCHES, CONTEXTS, DEPTH + 1))
    ranks = np.array([0.6, 0.12, 0.07, 0.03, 0.02, 0.012, 0.008, 0.005])
    if rule == "first":
        ranks = ranks * generator.uniform(0.7, 1.2, len(ranks))
        ranks[[1, 2]] = ranks[[2, 1]]
    decay = 0.97 ** np.arange(DEPTH)[:, None]
    laws = tuple(RankTable(ranks * (1 - 0.02 * i) * decay) for i in range(CONTEXTS))
    memory = Memory(80e9, 262_144 / 8, 2e4)
    return ScheduleProblem(laws, tuple(batches.tolist()), tuple(contexts.tolist()), verify_s, draft_s, memory, rule)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    rows = []
    rules: tuple[Rule, ...] = ("any", "first")
    for rule in rules:
        grid = problem(rule)
        schedule = solve_schedule(grid)
        cpu, wall = [], []
        for _ in range(options.runs):
            began, began_wall = time.thread_time(), time.perf_counter()
            schedule = solve_schedule(grid)
            cpu.append(time.thread_time() - began)
            wall.append(time.perf_counter() - began_wall)
        row = {
            "rule": rule,
            "cpu_s": min(cpu),
            "wall_s": min(wall),
            "spread": max(wall) / min(wall),
            "cells": int(schedule.nodes.size),
            "infeasible": int((schedule.nodes < 0).sum()),
            "off": int((schedule.nodes == 0).sum()),
            "largest_gap": float(schedule.gap.max()),
            "nodes_at_batch_1_64_256": schedule.nodes[[0, 63, 255], 0].tolist(),
        }
        rows.append(row)
        print(f'rule "{rule}", {schedule.solver}: wall {row["wall_s"]:.2f} s, CPU {row["cpu_s"]:.2f} s', end=", ")
        print(
            f"spread {row['spread']:.2f}, {row['cells']} cells, {row['infeasible']} infeasible, {row['off']} off",
            end=", ",
        )
        print(f"largest gap {row['largest_gap']:.1e}, nodes at batch 1, 64, 256: {row['nodes_at_batch_1_64_256']}")
    print(write_report("schedule", {"rows": rows}))


if __name__ == "__main__":
    main()
