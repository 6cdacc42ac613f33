"""One forward over a batch of trees: mask and positions from parents, tokens padded, the cache aimed."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from runtime.cache.rows import RowCache
from runtime.kernels.tree_inputs import fill_tree_inputs
from runtime.models.target import LanguageModel, hidden_value

__all__ = ["forward_trees", "prefill"]


def forward_trees(
    model: LanguageModel,
    cache: RowCache,
    tokens: NDArray[np.int64],
    parents: NDArray[np.int64],
    counts: NDArray[np.int64],
    scratch: NDArray[np.int64] | None = None,
) -> torch.Tensor:
    """Logits after each node of each row's tree.

    Parameters
    ----------
    tokens : (B, Q) int64
        Tokens of this forward's nodes, anything valid where padded.
    parents : (B, P) int64
        Parents of all nodes of each row so far, -1 for the first after the committed tokens.
    counts : (B,) int64
        Nodes of each row in this forward.
    scratch : (B,) int64, optional
        Nodes of each row that earlier forwards already wrote; none when left out.

    Returns
    -------
    (B, Q, V) of the model's dtype
    """
    batch, queries = tokens.shape
    lengths = cache.lengths[:batch]
    written = np.zeros(batch, dtype=np.int64) if scratch is None else scratch
    width = cache.begin(lengths + written, queries, model.device)
    if batch == 1 and queries == 1 and not written[0]:  # it sees every slot: no mask is needed
        alone = torch.from_numpy(lengths[:, None].copy()).to(model.device)
        return model.logits(torch.from_numpy(tokens).to(model.device), alone, None, cache)
    positions = torch.empty((batch, queries), dtype=torch.int64)
    mask = torch.empty((batch, queries, width), dtype=model.dtype)
    above = np.ascontiguousarray(parents)
    fill_tree_inputs(mask, positions, above, counts, lengths, written, hidden_value(model.dtype))
    return model.logits(
        torch.from_numpy(tokens).to(model.device),
        positions.to(model.device),
        mask.unsqueeze(1).to(model.device),
        cache,
    )


def prefill(
    model: LanguageModel, cache: RowCache, tokens: NDArray[np.int64], row: int, chunk: int = 512
) -> torch.Tensor:
    """Run `tokens` into `row` after what it holds, in chunks, and commit them; (V,) logits after the last."""
    logits: torch.Tensor | None = None
    for start in range(0, len(tokens), chunk):
        part = tokens[start : start + chunk]
        base = int(cache.lengths[row])
        width = cache.begin(np.array([base]), len(part), model.device, first_row=row)
        seen = np.arange(width)[None, :] <= (base + np.arange(len(part)))[:, None]
        mask = torch.from_numpy(np.where(seen, np.float32(0), np.float32(hidden_value(model.dtype))))
        logits = model.logits(
            torch.from_numpy(part[None]).to(model.device),
            torch.from_numpy((base + np.arange(len(part)))[None]).to(model.device),
            mask[None, None].to(model.device, model.dtype),
            cache,
            last_only=True,
        )[0, -1]
        cache.lengths[row] = base + len(part)
    assert logits is not None, "a prompt has at least one token"
    return logits
