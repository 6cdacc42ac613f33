"""Doors: walk a batch of draft trees along the tokens that the target chooses.

Every rule takes the batch in one layout: node 0 of a row is its last committed token, and the law at a node is the
target's after the path to it. Every rule returns `Walks`. The same draw decides the same way in both twins; a GPU sums
in another order, so that there a uniform within rounding of a boundary (1e-12) may fall to the other side.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from reader_theory.errors import NotATreeError, require
from runtime.kernels._door import FLOATS, Array, Sizes, empty_like_of, host, on_gpu
from runtime.kernels.cpu import verify as cpu

__all__ = ["Walks", "verify_greedy", "verify_target_only"]


class Walks(NamedTuple):
    """What a step accepts and emits, row by row, of the kind and on the device of the arguments.

    Attributes
    ----------
    path : (B, Q) int64
        Nodes on the accepted path, 0 first; what a cache keeps. -1 beyond `kept`, but for the last node of a path to
        which the rule adds no token: it is emitted, and is the root of the next step.
    kept : (B,) int64
        Nodes on the path, the root included; also the number of tokens that the row emits.
    emitted : (B, Q) int64
        Tokens of the path below the root, then the one that the target chose after it. -1 beyond `kept`.
    """

    path: Any
    kept: Any
    emitted: Any


def verify_target_only(
    logits: Array,
    temperature: Array,
    tokens: Array,
    parents: Array,
    counts: Array,
    uniforms: Array,
    *,
    trusted: bool = False,
) -> Walks:
    """Draw a token from the target after each node on the path, and follow the child that carries it.

    Lossless for any tree that was built without looking at these draws. Rows of temperature 0 take the most likely
    token, the lowest id of several.

    Parameters
    ----------
    logits : (B, Q, V) float32, float64 or bfloat16, finite or -inf
        After each node; only the rows on the path are read.
    temperature : (B,) float64, >= 0
    tokens, parents : (B, Q) int64
        Nodes of each row: ``parents[b, i] < i``, -1 for node 0. Siblings carry distinct tokens.
    counts : (B,) int64, in [1, Q]
        Nodes of each row; the others are padding.
    uniforms : (B, Q) float64 in [0, 1)
        Decides the token after each node.
    trusted : bool
        Whether the caller vouches for shapes and dtypes, having made NumPy arrays beside logits on the CPU; they are
        then not looked at, and `Walks` are NumPy arrays.

    Raises
    ------
    InvalidInputError
        On a wrong shape, dtype or layout, and on the CPU on counts outside of [1, Q].
    """
    if trusted and isinstance(tokens, np.ndarray):
        walks = Walks(np.empty_like(tokens), np.empty_like(counts), np.empty_like(tokens))
        if cpu.verify_target_only(host(logits), temperature, tokens, parents, counts, uniforms, *walks) < 0:
            return walks
    sizes = _sizes(tokens, parents, counts)
    sizes.take("logits", logits, ("B", "Q", "V"), FLOATS)
    sizes.take("temperature", temperature, ("B",), ("float64",))
    sizes.take("uniforms", uniforms, ("B", "Q"), ("float64",))
    walks = _walks(logits, sizes)
    if on_gpu(logits, temperature, tokens, parents, counts, uniforms):
        from runtime.kernels.gpu import verify as gpu

        gpu.verify_target_only(logits, temperature, tokens, parents, counts, uniforms, *walks)
        return walks
    arrays = map(host, (logits, temperature, tokens, parents, counts, uniforms, *walks))
    _refuse(cpu.verify_target_only(*arrays), counts, sizes)
    return walks


def verify_greedy(logits: Array, tokens: Array, parents: Array, counts: Array, *, trusted: bool = False) -> Walks:
    """Follow the most likely token after each node, the lowest id of several; see `verify_target_only`."""
    if trusted and isinstance(tokens, np.ndarray):
        walks = Walks(np.empty_like(tokens), np.empty_like(counts), np.empty_like(tokens))
        if cpu.verify_greedy(host(logits), tokens, parents, counts, *walks) < 0:
            return walks
    sizes = _sizes(tokens, parents, counts)
    sizes.take("logits", logits, ("B", "Q", "V"), FLOATS)
    walks = _walks(logits, sizes)
    if on_gpu(logits, tokens, parents, counts):
        from runtime.kernels.gpu import verify as gpu

        gpu.verify_greedy(logits, tokens, parents, counts, *walks)
        return walks
    _refuse(cpu.verify_greedy(*map(host, (logits, tokens, parents, counts, *walks))), counts, sizes)
    return walks


def _sizes(tokens: Array, parents: Array, counts: Array) -> Sizes:
    sizes = Sizes()
    sizes.take("tokens", tokens, ("B", "Q"))
    sizes.take("parents", parents, ("B", "Q"))
    sizes.take("counts", counts, ("B",))
    return sizes


def _walks(kind: Array, sizes: Sizes) -> Walks:
    shape = (sizes["B"], sizes["Q"])
    return Walks(empty_like_of(kind, shape), empty_like_of(kind, shape[:1]), empty_like_of(kind, shape))


def _refuse(row: int, counts: Array, sizes: Sizes) -> None:
    """Say what is wrong with the first bad row, if there is one."""
    if row < 0:
        return
    count = int(counts[row])
    require(
        1 <= count <= sizes["Q"],
        f"`counts` must lie in [1, {sizes['Q']}]",
        got=f"{count} at row {row}",
        fix="Count the root: a row without drafts has one node.",
    )
    raise NotATreeError(
        "`tokens` and `parents` must describe a tree over the vocabulary: parents before their nodes, -1 for node 0",
        got=f"row {row} breaks this",
        fix="Order nodes by depth, and cut padding by `counts`.",
    )
