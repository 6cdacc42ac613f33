"""A step's drafts in one layout, and what each row keeps and emits once the target has seen them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from runtime.drafters.trie import DraftTrie
from runtime.engine.request import Request
from runtime.engine.step import Drafts
from runtime.engine.walks import walk
from runtime.kernels.verify import Walks, verify_greedy, verify_target_only

__all__ = ["Layout", "lay_out", "walk_rows"]


class Layout(NamedTuple):
    """Nodes of all rows, as the kernels read them.

    Attributes
    ----------
    tokens, parents : (B, Q) int64
        Node 0 is the last committed token, whose parent is -1; 0 and -1 where padded.
    counts : (B,) int64
        Nodes of each row.
    """

    tokens: NDArray[np.int64]
    parents: NDArray[np.int64]
    counts: NDArray[np.int64]


def lay_out(drafts: Drafts) -> Layout:
    """Drafts of a step, one a row, padded to the widest."""
    counts = [len(draft) for draft in drafts]
    most = max(counts)
    tokens = [draft.tokens + [0] * (most - count) for draft, count in zip(drafts, counts, strict=True)]
    parents = [draft.parents + [-1] * (most - count) for draft, count in zip(drafts, counts, strict=True)]
    return Layout(*(np.array(nodes, dtype=np.int64) for nodes in (tokens, parents, counts)))


def walk_rows(requests: Sequence[Request], drafts: Drafts, layout: Layout, logits: torch.Tensor) -> Walks:
    """Path and emitted tokens of each row, as NumPy arrays; (B, Q, V) logits after each node.

    Rows that follow the target's own tokens, most likely or drawn from a plain softmax, are walked by one kernel.
    """
    compiled = [r.follows and type(d) is DraftTrie for r, d in zip(requests, drafts, strict=True)]
    if not any(compiled):
        walks = Walks(*(np.full(shape, -1) for shape in (layout.tokens.shape, len(drafts), layout.tokens.shape)))
    elif all(request.params.greedy for request in requests):
        walks = _greedy(layout, logits)
    else:
        walks = _drawn(requests, layout, logits)
    for row, done in enumerate(compiled):
        if done:
            continue
        path, emitted = walk(requests[row], drafts[row], logits[row])
        walks.kept[row] = len(path)
        walks.path[row, : len(path)], walks.emitted[row, : len(emitted)] = path, emitted
    return walks


def _greedy(layout: Layout, logits: torch.Tensor) -> Walks:
    if not logits.is_cuda:
        return verify_greedy(logits, *layout, trusted=True)
    return _fetched(verify_greedy(logits, *(torch.from_numpy(x).to(logits.device) for x in layout)))


def _drawn(requests: Sequence[Request], layout: Layout, logits: torch.Tensor) -> Walks:
    """Each node reads the uniform of the output position that follows it."""
    temperature = np.array([request.params.temperature for request in requests], dtype=np.float64)
    uniforms = np.zeros(layout.tokens.shape)
    for row, (request, parents) in enumerate(zip(requests, layout.parents.tolist(), strict=True)):
        if not request.params.greedy:
            positions = [len(request.output)]
            for parent in parents[1:]:
                positions.append(positions[parent] + 1 if parent >= 0 else 0)
            uniforms[row] = request.uniforms[np.minimum(positions, len(request.uniforms) - 1)]
    if not logits.is_cuda:
        return verify_target_only(logits, temperature, *layout, uniforms, trusted=True)
    there = [torch.from_numpy(x).to(logits.device) for x in (temperature, *layout, uniforms)]
    return _fetched(verify_target_only(logits, *there))


def _fetched(walks: Walks) -> Walks:
    return Walks(*(x.cpu().numpy() for x in walks))
