"""CPU twins of the kernels against the floor of bytes moved, one thread, sizes past the cache.

The floor is the bytes that a kernel must read and write (each input once, each output once) at the rates of a plain
read, a plain fill and a plain copy, measured in the same run. Goal: at most 1.5 times the floor.

    python -m proofs_tests.benchmarks.kernels
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from proofs_tests.benchmarks._report import write_report
from runtime.kernels.commit import KVPool, commit
from runtime.kernels.cpu.lanes import block_max
from runtime.kernels.merge import merge_candidates
from runtime.kernels.tree_inputs import fill_tree_inputs
from runtime.kernels.verify import verify_greedy, verify_target_only

GOAL = 1.5


@dataclass(frozen=True)
class Case:
    """A kernel on arguments past the cache, and the bytes that it must move."""

    name: str
    run: Callable[[int], Any]
    read_bytes: int
    written_bytes: int
    size: str


def seconds(run: Callable[[int], Any], repeats: int) -> list[float]:
    """Seconds of each repeat, after one that is not counted."""
    run(0)
    times: list[float] = []
    for repeat in range(1, repeats + 1):
        start = time.perf_counter()
        run(repeat)
        times.append(time.perf_counter() - start)
    return times


def aligned(x: NDArray[Any]) -> NDArray[Any]:
    """The array where torch would put it, at a multiple of 64 bytes."""
    return torch.from_numpy(x).clone().numpy()


def rates(megabytes: int, repeats: int) -> dict[str, float]:
    """Bytes a second of a plain read (the faster of two maxima), a fill, and a copy (both ways counted)."""
    a = aligned(np.random.default_rng(0).random(megabytes << 17))
    b = np.empty_like(a)
    reads = [float(np.median(seconds(run, repeats))) for run in (lambda _: a.max(), lambda _: block_max(a))]
    return {
        "read": a.nbytes / min(reads),
        "fill": a.nbytes / float(np.median(seconds(lambda i: b.fill(i), repeats))),
        "copy": 2 * a.nbytes / float(np.median(seconds(lambda _: np.copyto(b, a), repeats))),
        "scattered_copy": scattered(a, b, repeats),
    }


def scattered(a: NDArray[Any], b: NDArray[Any], repeats: int) -> float:
    """Bytes a second of NumPy copying 8 cold entries of 256 bytes, 768 apart, in every 256 KiB, as commit does."""
    source, target = (x[: len(x) // 32768 * 32768].reshape(-1, 1024, 32) for x in (a, b))

    def run(repeat: int) -> None:
        start = 32 * (repeat % 28)
        target[:, start : start + 8] = source[:, start + 1 : start + 25 : 3]

    return 2 * len(source) * 8 * 256 / float(np.median(seconds(run, repeats)))


def floor_s(case: Case, rate: dict[str, float]) -> float:
    """Copied bytes at the rate of a copy; what is only read or only written at its own."""
    both = min(case.read_bytes, case.written_bytes)
    return (
        2 * both / rate["copy"] + (case.read_bytes - both) / rate["read"] + (case.written_bytes - both) / rate["fill"]
    )


def verification(rng: np.random.Generator, scale: int) -> list[Case]:
    """Greedy and target-only on paths that are accepted to the end."""
    batch, width, vocabulary = 4 * scale, 5, 32_000
    logits = aligned(rng.normal(size=(batch, width, vocabulary)).astype(np.float32))
    parents = np.tile(np.arange(width) - 1, (batch, 1))
    counts, hot, uniforms = np.full(batch, width), np.ones(batch), rng.random((batch, width))
    best = accepted(logits.argmax(-1))
    drawn = np.array([draw(*pair) for pair in zip(logits.reshape(-1, vocabulary), uniforms.reshape(-1), strict=True)])
    drawn = accepted(drawn.reshape(batch, width))
    shape = f"{batch} rows, {vocabulary} tokens"
    return [
        Case("verify_greedy", lambda _: verify_greedy(logits, best, parents, counts), logits.nbytes, 0, shape),
        Case(
            "verify_target_only",
            lambda _: verify_target_only(logits, hot, drawn, parents, counts, uniforms),
            logits.nbytes,
            0,
            shape,
        ),
    ]


def draw(logits: NDArray[Any], uniform: float) -> int:
    """Token of the softmax that the uniform picks."""
    weights = np.exp(logits.astype(np.float64) - logits.max()).cumsum()
    return int(np.searchsorted(weights, uniform * weights[-1], side="right"))


def accepted(chosen: NDArray[np.int64]) -> NDArray[np.int64]:
    """Tokens of chains in which each node carries what is chosen after the one before."""
    return np.concatenate([np.zeros((len(chosen), 1), np.int64), chosen[:, :-1]], axis=1)


def movement(rng: np.random.Generator, scale: int) -> list[Case]:
    """Masks of many rows, and commits whose entries lie far apart and are cold in every repeat."""
    batch, queries, width = 4 * scale, 33, 4096
    mask, positions = np.empty((batch, queries, width), np.float32), np.empty((batch, queries), np.int64)
    parents = np.tile((np.arange(queries) - 1) // 2, (batch, 1))
    parents[:, 0] = -1
    counts, lengths = np.full(batch, queries), rng.integers(1000, 4000, batch)
    scratch = np.zeros(batch, np.int64)
    layers, rows, heads, slots, dim = 8, scale // 2, 8, 1024, 128
    stores = [torch.zeros((rows, heads, slots, dim), dtype=torch.bfloat16).normal_() for _ in range(2 * layers)]
    pool = KVPool.of(stores[::2], stores[1::2])
    path = np.tile(np.arange(8) * 3 + 1, (rows, 1))
    kept = np.full(rows, path.shape[1])
    moved = 2 * layers * rows * heads * path.shape[1] * pool.entry_bytes

    def move(repeat: int) -> None:
        commit(pool, np.full(rows, 32 * (repeat % 28)), path, kept)

    def inputs(_: int) -> None:
        fill_tree_inputs(mask, positions, parents, counts, lengths, scratch, -3e38)

    return [
        Case("fill_tree_inputs", inputs, 0, mask.nbytes, f"{batch} rows, {queries} nodes, {width} slots"),
        Case("commit", move, moved, moved, f"{layers} layers, {rows} rows, {heads} heads, 8 entries of 256 bytes"),
    ]


def merging(rng: np.random.Generator, scale: int) -> list[Case]:
    """Many tries."""
    batch, size = 4096 * scale, 32
    above = np.tile((np.arange(size + 1) - 1) // 2, (batch, 1))
    tokens, chance = rng.integers(0, 32_000, above.shape), rng.random(above.shape)
    budgets = np.full(batch, 16)
    offered, out = tokens.nbytes + above.nbytes + chance.nbytes, batch * (17 * 24 + 8)
    return [
        Case(
            "merge_candidates",
            lambda _: merge_candidates(tokens, above, chance, budgets, 16, 0.1),
            offered,
            out,
            f"{batch} rows of {size} candidates",
        ),
    ]


def measure(scale: int, repeats: int) -> dict[str, Any]:
    """Rates of the machine and one row a kernel."""
    rate = rates(16 * scale, repeats)
    rng = np.random.default_rng(0)
    rows: list[dict[str, Any]] = []
    for case in (case for make in (verification, movement, merging) for case in make(rng, scale)):
        times = seconds(case.run, repeats)
        floor, took = floor_s(case, rate), float(np.median(times))
        rows.append(
            {
                "kernel": case.name,
                "size": case.size,
                "read_bytes": case.read_bytes,
                "written_bytes": case.written_bytes,
                "floor_s": floor,
                "median_s": took,
                "spread_s": [min(times), max(times)],
                "over_floor": took / floor,
                "meets_goal": took <= GOAL * floor,
            }
        )
    return {"threads": 1, "repeats": repeats, "goal": GOAL, "bytes_per_s": rate, "rows": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=int, default=32, help="of the sizes; 32 is past any cache")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--no-write", action="store_true", help="print only")
    args = parser.parse_args()
    found = measure(args.scale, args.repeats)
    if not args.no_write:
        write_report("kernels", found)
    print({name: f"{rate / 1e9:.1f} GB/s" for name, rate in found["bytes_per_s"].items()})
    for row in found["rows"]:
        print(f"{row['kernel']:28} {1e3 * row['median_s']:8.2f} ms  {row['over_floor']:5.2f} x floor  {row['size']}")


if __name__ == "__main__":
    main()
