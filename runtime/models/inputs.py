"""One forward over a batch of trees: mask and positions from parents, tokens padded, the cache aimed."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray

from runtime.cache.rows import RowCache
from runtime.kernels.tree_inputs import TreeInputs
from runtime.models.base import LanguageModel, Output, hidden_value

__all__ = ["features_for", "forward_trees", "prefill", "run_prompt", "run_trees", "teacher_forced"]

WHOLE = 64
"""Forwards of trees see a multiple of so many slots, so that one view of a mask lasts for some steps."""
ROOM = 512
"""Buffers have room for a multiple of so many slots."""
SHAPES = 64
"""Shapes whose buffers a cache keeps."""
CHUNK = 1024
"""Tokens of a prompt that are run at once: of as many, reading the weights no longer counts."""


def forward_trees(
    model: LanguageModel,
    cache: RowCache,
    tokens: NDArray[np.int64],
    parents: NDArray[np.int64],
    counts: NDArray[np.int64],
    scratch: NDArray[np.int64] | None = None,
) -> torch.Tensor:
    """(B, Q, V) logits after each node of each row's tree; arguments as `run_trees` takes them."""
    return run_trees(model, cache, tokens, parents, counts, scratch).logits


def run_trees(
    model: LanguageModel,
    cache: RowCache,
    tokens: NDArray[np.int64],
    parents: NDArray[np.int64],
    counts: NDArray[np.int64],
    scratch: NDArray[np.int64] | None = None,
    hidden: Sequence[int] = (),
    first_row: int = 0,
) -> Output:
    """Logits after each node of each row's tree, and the hidden states of layers asked for.

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
    hidden : layers
        See `LanguageModel.forward`.
    first_row : int
        Row of the cache that is the first of these.
    """
    batch, queries = tokens.shape
    lengths = cache.lengths[first_row : first_row + batch]
    starts = lengths.tolist()
    if scratch is not None:
        starts = [length + before for length, before in zip(starts, scratch.tolist(), strict=True)]
    alone = batch == 1 and queries == 1 and scratch is None  # it sees every slot: no mask is needed
    width = cache.begin(starts, queries, first_row, whole=1 if alone else WHOLE)
    cache.counts = counts if 0 < int(counts.sum()) < batch * queries else None
    inputs = _inputs(cache, batch, queries, model.dtype)
    mask = inputs.fill(width, tokens, parents, counts, lengths, _unwritten(batch) if scratch is None else scratch)
    mask = None if alone else cache.masked(mask, inputs.positions, hidden_value(model.dtype))
    if cache.start is None:
        cache.slot_index = inputs.slots
    if model.device.type == "cpu":
        return model.forward(inputs.tokens, inputs.positions, mask, cache, hidden=hidden)
    cache.row_index, cache.slot_index = (x.to(model.device) for x in (cache.row_index, cache.slot_index))
    asked, positions = (x.to(model.device) for x in (inputs.tokens, inputs.positions))
    return model.forward(asked, positions, None if mask is None else mask.to(model.device), cache, hidden=hidden)


def _inputs(cache: RowCache, batch: int, queries: int, dtype: torch.dtype) -> TreeInputs:
    """The cache's buffers for this shape, made anew where the cache has outgrown them."""
    held = cache.inputs.get((batch, queries))
    if held is None or held.room < cache.width:
        if len(cache.inputs) >= SHAPES:
            cache.inputs.clear()
        room = -(-cache.width // ROOM) * ROOM
        held = cache.inputs[batch, queries] = TreeInputs(batch, queries, room, dtype, hidden_value(dtype))
    return held


@lru_cache(maxsize=256)
def _unwritten(batch: int) -> NDArray[np.int64]:
    return np.zeros(batch, dtype=np.int64)


def prefill(
    model: LanguageModel, cache: RowCache, tokens: NDArray[np.int64], row: int, chunk: int = CHUNK
) -> torch.Tensor:
    """Run `tokens` into `row` after what it holds, in chunks, and commit them; (V,) logits after the last."""
    return run_prompt(model, cache, tokens, row, chunk).logits[0, -1]


def teacher_forced(
    model: LanguageModel,
    prompt: NDArray[np.int64],
    output: NDArray[np.int64],
    target: LanguageModel | None = None,
) -> torch.Tensor:
    """(T, V) logits before each of the T output tokens, given the true prefix.

    Parameters
    ----------
    target : LanguageModel, optional
        Whose hidden states a head is given: needed for a model that reads `features`. It has no law right after a
        prompt of one token: all tokens are alike there.
    """
    tokens = np.concatenate([prompt, output[:-1]])
    cache = model.new_cache(1, len(tokens) + 1)
    start = len(prompt) - 1
    if not model.features:
        return _forced(model, cache, tokens, start)
    model.give(cache, 0, 0, features_for(model, target, tokens))
    if len(tokens) == 1:
        return torch.zeros((1, model.vocabulary))
    logits = _forced(model, cache, tokens[1:], max(start - 1, 0))
    return logits if start else torch.cat((torch.zeros_like(logits[:1]), logits))


def features_for(model: LanguageModel, target: LanguageModel | None, tokens: NDArray[np.int64]) -> torch.Tensor:
    """(n, layers, H) hidden states of the target at (n,) tokens, for a model that reads them."""
    assert target is not None, "a model that reads features is given its target"
    out = run_prompt(target, target.new_cache(1, len(tokens) + 1), tokens, 0, hidden=model.features)
    return torch.stack(out.hidden, dim=2)[0]


def _forced(model: LanguageModel, cache: RowCache, tokens: NDArray[np.int64], start: int) -> torch.Tensor:
    """Logits after each token from `start` on."""
    if start:
        prefill(model, cache, tokens[:start], 0)
    each: list[torch.Tensor] = []
    for first in range(start, len(tokens), cache.reach):
        chain = tokens[first : first + cache.reach]
        parents, kept = np.arange(len(chain), dtype=np.int64)[None] - 1, np.array([len(chain)])
        each.append(forward_trees(model, cache, chain[None], parents, kept)[0])
        cache.lengths[0] += len(chain)
    return torch.cat(each)


def run_prompt(
    model: LanguageModel,
    cache: RowCache,
    tokens: NDArray[np.int64],
    row: int,
    chunk: int = CHUNK,
    hidden: Sequence[int] = (),
) -> Output:
    """The same: logits after the last token, (1, 1, V), and the hidden states of all, (1, len(tokens), d) a layer."""
    outputs: list[Output] = []
    chunk = min(chunk, cache.reach)
    for start in range(0, len(tokens), chunk):
        part = tokens[start : start + chunk]
        base = int(cache.lengths[row])
        width = cache.begin([base], len(part), first_row=row)
        seen = np.arange(width)[None, :] <= (base + np.arange(len(part)))[:, None]
        mask = torch.from_numpy(np.where(seen, np.float32(0), np.float32(hidden_value(model.dtype))))
        positions = torch.from_numpy((base + np.arange(len(part)))[None])
        mask = cache.masked(mask[None, None].to(model.dtype), positions, hidden_value(model.dtype))
        out = model.forward(
            torch.from_numpy(part[None]).to(model.device),
            positions.to(model.device),
            mask.to(model.device),
            cache,
            last_only=True,
            hidden=hidden,
        )
        outputs.append(out)
        cache.lengths[row] = base + len(part)
    assert outputs, "a prompt has at least one token"
    states = (torch.cat([out.hidden[i] for out in outputs], dim=1) for i in range(len(hidden)))
    return Output(outputs[-1].logits, tuple(states))
