"""What the kernels must compute, by plain Python or by the package's own rules."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from reader_theory.rules import Greedy, TargetOnly
from reader_theory.trees import TokenTree, TokenTrees
from runtime.engine.processors import TokenLaw
from runtime.engine.sampling import SamplingParams

Walk = tuple[list[int], list[int]]


def tree_of(case: dict[str, NDArray[Any]], row: int) -> TokenTree:
    """The row's tree."""
    return TokenTrees(case["tokens"], case["parents"], case["counts"])[row]


def target_only(case: dict[str, NDArray[Any]], row: int) -> Walk:
    """The rule's own tokens, with the uniform of each node."""
    params = SamplingParams(temperature=float(case["temperature"][row]))
    rule, logits = Greedy() if params.greedy else TargetOnly(), torch.from_numpy(case["logits"][row])
    law = TokenLaw(params)
    return tree_of(case, row).follow(
        lambda path: rule.next_token(
            law.scores(logits[path[-1]], []), lambda _, count: case["uniforms"][row, path[-1]].repeat(count)
        )
    )


def walk_of(walks: Any, row: int) -> Walk:
    """A row of `Walks`, cut to its length; what lies beyond must be -1."""
    path, kept, emitted = (np.asarray(x)[row] for x in walks)
    assert (path[kept:] == -1).all() and (emitted[kept:] == -1).all()
    return path[:kept].tolist(), emitted[:kept].tolist()


def tree_inputs(case: dict[str, NDArray[Any]], queries: int) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """(B, Q, W) which slots are seen, and (B, Q) positions."""
    batch, width = len(case["counts"]), int(case["width"])
    seen, positions = np.zeros((batch, queries, width), dtype=bool), np.zeros((batch, queries), dtype=np.int64)
    for b in range(batch):
        base, first = int(case["lengths"][b]), int(case["scratch"][b])
        for i in range(queries):
            positions[b, i] = base
            if i >= case["counts"][b]:
                seen[b, i, base + first + i] = True
                continue
            ancestors, node = [], first + i
            while node >= 0:
                ancestors.append(node)
                node = int(case["parents"][b, node])
            seen[b, i, :base] = True
            seen[b, i, [base + node for node in ancestors]] = True
            positions[b, i] = base + len(ancestors) - 1
    return seen, positions


def committed(store: NDArray[Any], case: dict[str, NDArray[Any]], first_row: int) -> NDArray[Any]:
    """A store (R, H, S, D) after the commit."""
    out = store.copy()
    for b, kept in enumerate(case["kept"]):
        base = int(case["lengths"][b])
        out[first_row + b, :, base : base + kept] = store[first_row + b][:, base + case["path"][b, :kept]]
    return out


def merged(case: dict[str, NDArray[Any]], row: int, nodes: int, price: float) -> list[tuple[int, int, float]]:
    """(token, parent, probability) of each node but the root."""
    paths: list[tuple[int, ...] | None] = [()]
    chance: dict[tuple[int, ...], float] = {}
    candidates = zip(*(case[name][row, 1:] for name in ("tokens", "parents", "probability")), strict=True)
    for token, parent, p in candidates:
        above = paths[parent]
        path = None if above is None or token < 0 else (*above, int(token))
        paths.append(path)
        if path is not None:
            chance[path] = max(chance.get(path, 0.0), float(p))
    for path in sorted(chance, key=len):
        chance[path] = min(chance[path], chance.get(path[:-1], 1.0))
    room = min(int(case["budgets"][row]), nodes)
    likeliest = sorted((path for path in chance if chance[path] > price), key=lambda path: -chance[path])[:room]
    kept = [path for path in chance if path in set(likeliest)]
    place = {(): 0} | {path: i + 1 for i, path in enumerate(kept)}
    return [(path[-1], place[path[:-1]], chance[path]) for path in kept]
