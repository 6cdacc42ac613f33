"""Random batches for the kernels: trees, candidates and key-value stores, the same for every twin."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Arrays = dict[str, NDArray[Any]]


def trees(rng: np.random.Generator, batch: int, width: int, vocabulary: int, *, repeats: bool = False) -> Arrays:
    """(B, Q) tokens and parents with node 0 the root, and (B,) counts; siblings distinct unless `repeats`."""
    tokens = rng.integers(0, vocabulary, (batch, width))
    parents = np.full((batch, width), -1, dtype=np.int64)
    counts = np.ones(batch, dtype=np.int64)
    for b in range(batch):
        seen: set[tuple[int, int]] = set()
        for node in range(1, int(rng.integers(1, width + 1))):
            parent, token = int(rng.integers(max(0, node - 3), node)), int(rng.integers(vocabulary))
            if (parent, token) in seen and not repeats:
                break
            seen.add((parent, token))
            parents[b, node], tokens[b, node] = parent, token
            counts[b] += 1
    return {"tokens": tokens, "parents": parents, "counts": counts}


def sampling(rng: np.random.Generator, batch: int, width: int, vocabulary: int, dtype: str = "float32") -> Arrays:
    """Arguments of target-only verification, greedy rows among them; several logits tie."""
    return {
        "logits": np.round(4 * rng.normal(size=(batch, width, vocabulary))).astype(dtype) / 2,
        "temperature": np.where(rng.random(batch) < 0.3, 0.0, rng.random(batch) + 0.3),
        **trees(rng, batch, width, vocabulary),
        "uniforms": rng.random((batch, width)),
    }


def inputs(rng: np.random.Generator, batch: int, queries: int) -> Arrays:
    """Arguments of the tree inputs: parents of all nodes so far, and how many stand in this forward."""
    nodes = queries + int(rng.integers(0, 4))
    parents = np.full((batch, nodes), -1, dtype=np.int64)
    for node in range(1, nodes):
        parents[:, node] = rng.integers(-1, node, batch)
    counts = rng.integers(0, queries + 1, batch)
    scratch = np.array([rng.integers(0, nodes - count + 1) for count in counts])
    lengths = rng.integers(0, 20, batch)
    width = int((lengths + scratch + queries).max()) + int(rng.integers(1, 6))
    return {"parents": parents, "counts": counts, "lengths": lengths, "scratch": scratch, "width": np.array(width)}


def candidates(rng: np.random.Generator, batch: int, size: int) -> Arrays:
    """Arguments of the merge: a root and several sources' candidates, with holes, ties and repeated siblings."""
    parents = np.array([[-1, *(rng.integers(0, i) for i in range(1, size + 1))] for _ in range(batch)])
    tokens = rng.integers(0, 4, (batch, size + 1))
    tokens[rng.random(tokens.shape) < 0.15] = -1
    tokens[:, 0] = rng.integers(0, 9, batch)
    return {
        "tokens": tokens.astype(np.int64),
        "parents": parents.reshape(batch, size + 1).astype(np.int64),
        "probability": np.round(rng.random(tokens.shape), 1),
        "budgets": rng.integers(0, size + 2, batch),
    }


def paths(rng: np.random.Generator, batch: int, width: int) -> Arrays:
    """Lengths, increasing paths and counts as a verification gives them."""
    path = np.full((batch, width), -1, dtype=np.int64)
    kept = rng.integers(0, width + 1, batch)
    for b, count in enumerate(kept):
        path[b, :count] = np.sort(rng.choice(width, count, replace=False))
    return {"lengths": rng.integers(0, 7, batch), "path": path, "kept": kept}
