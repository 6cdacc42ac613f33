"""Door: a level of draft trees from the laws above it: each node is a law's likeliest, second likeliest, ... token."""

from __future__ import annotations

import torch

from reader_theory.errors import require
from runtime.kernels._door import FLOATS, Array, Sizes, host, on_gpu
from runtime.kernels.cpu import top as cpu

__all__ = ["draft_level"]


def draft_level(
    logits: Array, width: int, queries: Array, ranks: Array, nodes: Array, tokens: Array, *, trusted: bool = False
) -> None:
    """Write the tokens of n nodes of each row's tree; of equally likely ones the lower id ranks first.

    Parameters
    ----------
    logits : (B, Q, V) float32, float64 or bfloat16, no NaN
    width : int, in [1, V]
        Likeliest tokens that are ranked.
    queries : (B, n) int64, in [0, Q)
        Whose logits give each node; nodes of one query in a run are ranked in one pass.
    ranks : (n,) int64, in [0, width)
        0 for the likeliest token.
    nodes : (n,) int64, in [0, N)
        Where each token goes.
    tokens : (B, N) int64, written
    trusted : bool
        Whether the caller vouches for all of this; on the CPU the arguments are then not looked at.

    Raises
    ------
    InvalidInputError
        On a wrong shape, dtype or layout, and on the CPU when an index lies outside.
    """
    if not trusted:
        sizes = Sizes()
        sizes.take("logits", logits, ("B", "Q", "V"), FLOATS)
        sizes.take("queries", queries, ("B", "n"))
        sizes.take("ranks", ranks, ("n",))
        sizes.take("nodes", nodes, ("n",))
        sizes.take("tokens", tokens, ("B", "N"))
        require(
            1 <= width <= sizes["V"],
            "`width` must lie in [1, V]",
            got=f"{width} of {sizes['V']}",
            fix="A tree can have no more siblings than the vocabulary has tokens.",
        )
    if isinstance(tokens, torch.Tensor) and on_gpu(logits, queries, ranks, nodes, tokens):
        best = logits.topk(width, dim=-1).indices  # type: ignore[union-attr]
        rows = torch.arange(len(tokens), device=tokens.device).unsqueeze(1)
        tokens[:, nodes] = best[rows, queries, ranks]  # pyright: ignore[reportArgumentType]
        return
    found = cpu.draft_level(host(logits), width, *map(host, (queries, ranks, nodes, tokens)))
    require(
        found >= 0,
        "`queries`, `ranks` and `nodes` must lie within the logits, the width and the tree",
        got=f"node {~found} of the level does not",
        fix="Take them from a tree of this many nodes, and as many queries as were forwarded.",
    )
