"""One call of every kernel on a random batch, through the CPU twin or through the GPU twin."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from proofs_tests.kernels import kernel_cases as cases
from runtime.cache.quantised.codec import GridCodec, IntegerCodec
from runtime.cache.quantised.hadamard import grouping
from runtime.kernels import commit, dequantise, merge, tree_inputs, verify

Outputs = list[torch.Tensor]
Call = Callable[[], Outputs]


def tensors(case: cases.Arrays, device: str) -> dict[str, torch.Tensor]:
    """A case on a device."""
    return {name: torch.from_numpy(np.array(x)).to(device) for name, x in case.items()}


def calls(rng: np.random.Generator, device: str = "cpu") -> dict[str, Call]:
    """A call of every door on random arguments that lie on `device`, and returns all that it wrote."""
    batch, width = int(rng.integers(1, 5)), int(rng.integers(1, 9))
    vocabulary = int(rng.choice([4, 7, 33, 900]))
    walk = tensors(cases.sampling(rng, batch, width, vocabulary), device)
    tree = {name: walk[name] for name in ("tokens", "parents", "counts")}
    offered = tensors(cases.candidates(rng, batch, int(rng.integers(0, 20))), device)
    nodes = int(rng.integers(0, 12))
    found: dict[str, Call] = {
        "merge_candidates": lambda: list(merge.merge_candidates(**offered, nodes=nodes, price=0.2)),
    }
    found["integer_numbers"] = _integers(rng, device)
    found["grid_numbers"] = _grid(rng, device)
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        logits = walk["logits"].to(dtype)
        found[f"verify_target_only {dtype}"] = lambda x=logits: list(
            verify.verify_target_only(**(walk | {"logits": x}))
        )
        found[f"verify_greedy {dtype}"] = lambda x=logits: list(verify.verify_greedy(x, **tree))
        found[f"fill_tree_inputs {dtype}"] = _tree_inputs(rng, dtype, device)
        found[f"commit {dtype}"] = _commit(rng, dtype, device)
    return found


def _integers(rng: np.random.Generator, device: str) -> Call:
    chunk, channels, bits = (int(rng.integers(1, most)) for most in (5, 40, 9))
    codec = IntegerCodec(chunk, channels, bits)
    records = [codec.encode(rng.normal(size=(chunk, channels)).astype(np.float32)) for _ in range(3)]
    held = torch.from_numpy(np.stack(records)).to(device)
    return lambda: [dequantise.integer_numbers(held, chunk, channels, bits)]


def _grid(rng: np.random.Generator, device: str) -> Call:
    chunk, bits = int(rng.integers(1, 5)), int(rng.integers(1, 9))
    turn = grouping(*((1, 8), (3, 4), (1, 20), (3, 64), (1, 512))[int(rng.integers(5))])
    channels = turn.order * int(rng.integers(1, 3))
    grid = rng.normal(size=(2**bits, 2)).astype(np.float32)
    codec = GridCodec(chunk, channels, turn, grid)
    records = [codec.encode(rng.normal(size=(chunk, channels)).astype(np.float32)) for _ in range(3)]
    held, points, base = (torch.from_numpy(x).to(device) for x in (np.stack(records), grid, turn.base))
    return lambda: [dequantise.grid_numbers(held, chunk, channels, bits, points, base, turn.order)]


def _tree_inputs(rng: np.random.Generator, dtype: torch.dtype, device: str) -> Call:
    batch, queries = int(rng.integers(1, 5)), int(rng.integers(1, 9))
    case = tensors(cases.inputs(rng, batch, queries), device)
    width = int(case.pop("width"))

    def call() -> Outputs:
        mask = torch.full((batch, queries, width), 7.0, dtype=dtype, device=device)
        positions = torch.full((batch, queries), -7, device=device)
        tree_inputs.fill_tree_inputs(mask, positions, **case, hidden=torch.finfo(dtype).min)
        return [mask, positions]

    return call


def _commit(rng: np.random.Generator, dtype: torch.dtype, device: str) -> Call:
    batch, width, first = int(rng.integers(1, 5)), int(rng.integers(1, 9)), int(rng.integers(0, 3))
    case = tensors(cases.paths(rng, batch, width), device)
    dim = int(rng.choice([2, 6, 8]))
    stores = [torch.from_numpy(rng.normal(size=(batch + first, 2, 16, dim))).to(device, dtype) for _ in range(4)]

    def call() -> Outputs:
        kept, lengths = [store.clone() for store in stores], case["lengths"].clone()
        pool = commit.KVPool.of(kept[::2], kept[1::2])
        commit.commit(pool, lengths, case["path"], case["kept"], first_row=first)
        return [*kept, lengths]

    return call


def equal(ours: Outputs, theirs: Outputs) -> bool:
    """Whether two calls wrote the same."""
    return all(torch.equal(a.cpu(), b.cpu()) for a, b in zip(ours, theirs, strict=True))
