"""Attention of several query tokens over a context, with or without split-KV: an explicit choice, because it decides.

Without split-KV each thread block walks the whole context alone, and a verification of a few tokens costs up to nine
times a decode at 16k tokens; decodes that share such a call lose their split too. With it the call is bound by bytes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from reader_theory.cost.columns import Table, by_names, numbers, positive
from reader_theory.cost.device import Device, find_device
from reader_theory.cost.roofline import fit_log, p_norm
from reader_theory.errors import require

__all__ = ["BLOCK_ROWS", "TreeAttention", "fit_tree_attention", "predict_tree_attention"]

Array = NDArray[np.float64]
BLOCK_ROWS = 64
"""Query rows that one thread block holds."""
SPLIT_KNEE = 4.0
START, REACH = np.log([9.0, 0.03, 1.0, 0.9, 2.0, 0.5, 1.0]), np.log([4.0, 6.0, 8.0, 3.0, 8.0, 20.0, 30.0])
SPLIT_START, SPLIT_REACH = np.log([9.0, 0.9, 0.1]), np.log([4.0, 3.0, 100.0])


@dataclass(frozen=True)
class TreeAttention:
    """Coefficients of attention over several query tokens on one device, for one layer.

    Parameters
    ----------
    launch_s, walk_s : float
        Constant per call; seconds a thread block takes for each token of its context.
    balance : float
        Total walking over what the multiprocessors do at once.
    bandwidth_share, split_share : float
        Reached share of bandwidth, without and with split-KV; the last-level cache can lift it above one.
    p : float
        Sharpness of the knee.
    request_s, row_s : float
        Seconds a decoding request adds beside a call that is not split; seconds a query row adds.
    split_launch_s, split_request_s : float
        Constant of a call that splits its contexts, and what each request adds to it.
    """

    launch_s: float
    walk_s: float
    balance: float
    bandwidth_share: float
    split_share: float
    p: float
    request_s: float
    row_s: float
    split_launch_s: float
    split_request_s: float

    def seconds(
        self,
        queries: ArrayLike,
        context: ArrayLike,
        device: Device,
        *,
        split_kv: bool,
        requests: ArrayLike = 1.0,
        heads: int = 32,
        kv_heads: int = 8,
        head_dim: int = 128,
        decodes: ArrayLike = 0.0,
        decode_context: ArrayLike = 0.0,
    ) -> Array:
        """Seconds of `requests` blocks of `queries` tokens over `context` tokens, beside `decodes` one-token requests.

        Parameters
        ----------
        queries, context, requests, decodes, decode_context : scalars or equal shapes
            Tokens and counts; `context` excludes the queries themselves.
        split_kv : bool
            Whether the kernel splits the context over thread blocks.
        """
        rows, tokens, many, others, other_tokens = (
            np.asarray(x, dtype=np.float64) for x in (queries, context, requests, decodes, decode_context)
        )
        whole = np.where(rows > 0, tokens + rows, 0.0)
        moved = 2.0 * kv_heads * head_dim * 2 * (many * whole + others * other_tokens)
        memory = moved / device.bandwidth_bytes_per_s.value
        if split_kv:
            work = 4.0 * heads * head_dim * (many * rows * whole + others * other_tokens)
            busy = p_norm(memory / self.split_share, work / (0.5 * device.flops_per_s()), SPLIT_KNEE)
            return self.split_launch_s + self.split_request_s * (many * (rows > 0) + others) + busy
        constant = self.launch_s + self.row_s * many * rows + self.request_s * others
        units = device.multiprocessors.value
        blocks = many * heads * np.ceil(rows / BLOCK_ROWS)
        chain = np.maximum(whole * np.maximum(np.ceil(blocks / units), 1.0), other_tokens * np.minimum(others, 1.0))
        total = (blocks * whole + others * kv_heads * other_tokens) / units * self.balance
        return constant + p_norm(
            p_norm(chain * self.walk_s, total * self.walk_s, self.p), memory / self.bandwidth_share, self.p
        )


def fit_tree_attention(table: Table) -> dict[str, TreeAttention]:
    """Fit each device of `table`; calls with queries are taken as not split, pure decodes as split.

    Parameters
    ----------
    table : columns gpu, prefill_chunk, kv_prefill, n_decode, kv_decode, time_us
        One attention call of one layer (32 heads, 8 KV heads, head dim 128) a row; microseconds.
    """
    times, sizes = positive(table, "time_us") * 1e-6, _sizes(table)
    return {
        gpu: _fit_device(find_device(gpu), [size[at] for size in sizes], times[at])
        for (gpu,), at in by_names(table, "gpu", least=12)
    }


def predict_tree_attention(fits: dict[str, TreeAttention], table: Table) -> Array:
    """Seconds of each row of `table` (columns as for the fit, without time_us)."""
    sizes = _sizes(table)
    out = np.empty(len(sizes[0]))
    for (gpu,), at in by_names(table, "gpu"):
        out[at] = _seconds(fits[gpu], [size[at] for size in sizes], find_device(gpu))
    return out


def _sizes(table: Table) -> list[Array]:
    return [numbers(table, name) for name in ("prefill_chunk", "kv_prefill", "n_decode", "kv_decode")]


def _fit_device(device: Device, sizes: list[Array], times: Array) -> TreeAttention:
    """Fit the two kinds of call in turn: each has coefficients of its own."""
    mixed = sizes[0] > 0
    fitted = SPLIT_START
    if (~mixed).sum() >= 4:
        alone = [size[~mixed] for size in sizes]
        fitted = fit_log(lambda x: _seconds(_made(START, x), alone, device), SPLIT_START, times[~mixed], SPLIT_REACH)
    chosen = [size[mixed] for size in sizes]
    require(mixed.sum() >= 8, "`table` must have calls with queries", got=int(mixed.sum()), fix="Measure chunks too.")
    return _made(fit_log(lambda x: _seconds(_made(x, fitted), chosen, device), START, times[mixed], REACH), fitted)


def _made(log: Array, split: Array) -> TreeAttention:
    launch, walk, balance, share, p, request, row = (float(x) for x in np.exp(log))
    constant, reached, each = (float(x) for x in np.exp(split))
    return TreeAttention(
        launch_s=launch * 1e-6,
        walk_s=walk * 1e-6,
        balance=balance,
        bandwidth_share=share,
        split_share=reached,
        p=max(p, 1.0),
        request_s=request * 1e-6,
        row_s=row * 1e-8,
        split_launch_s=constant * 1e-6,
        split_request_s=each * 1e-6,
    )


def _seconds(model: TreeAttention, sizes: list[Array], device: Device) -> Array:
    queries, context, decodes, decode_context = sizes
    mixed = queries > 0
    split, alone = (
        model.seconds(queries, context, device, split_kv=choice, decodes=decodes, decode_context=decode_context)
        for choice in (True, False)
    )
    return np.where(mixed, alone, split)
