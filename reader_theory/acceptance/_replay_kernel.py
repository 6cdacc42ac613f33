"""The walk of `replay`, compiled; loaded on first use because numba is slow to import."""

from __future__ import annotations

import numpy as np
from numba import njit  # pyright: ignore[reportMissingTypeStubs, reportUnknownVariableType]
from numpy.typing import NDArray

__all__ = ["walk"]

Ints = NDArray[np.int32]


@njit(cache=True, nogil=True)  # pyright: ignore[reportUntypedFunctionDecorator]
def walk(
    starts: Ints,
    ends: Ints,
    draft_rank: Ints,
    depths: int,
    match_length: Ints,
    offered: Ints,
    run: Ints,
    child: Ints,
    tree_nodes: int,
    skip_at: int,
    min_match: int,
    offset: float,
    factor: float,
    max_tokens: int,
    counts: NDArray[np.int64],
    nodes_histogram: Ints,
    accepted_histogram: Ints,
) -> None:
    """Walk every prompt, filling `counts` (5, P: steps, tokens, drafted, retrieved, nodes) and the two histograms.

    `draft_rank` holds `depths` ranks a position: 1 where the rank of the next position serves the next depth.
    """
    width = child.shape[1]
    for p in range(len(starts)):
        t, end = starts[p], ends[p]
        while t < end:
            m = match_length[t]
            drafted = tree_nodes > 0 and m < skip_at
            neural, node = 0, 0
            if drafted:
                while t + neural < end and (depths == 1 or neural < depths):
                    rank = draft_rank[t * depths + neural]
                    if rank < 0 or rank >= width or child[node, rank] == 0:
                        break
                    node = child[node, rank]
                    neural += 1
            chain = 0
            if m >= min_match:
                chain = max(0, min(max_tokens, int(np.floor(offset + factor * m)), offered[t]))
            copied = min(run[t], chain, end - t)
            nodes = (tree_nodes if drafted else 0) + chain - min(neural, copied)
            accepted = max(neural, copied)
            counts[0, p] += 1
            counts[1, p] += min(accepted + 1, end - t)
            counts[2, p] += drafted
            counts[3, p] += chain > 0
            counts[4, p] += nodes
            nodes_histogram[p, nodes] += 1
            accepted_histogram[p, accepted] += 1
            t += accepted + 1
