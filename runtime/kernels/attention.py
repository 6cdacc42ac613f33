"""Door: what the queries of a forward read of a cache. On a CPU few queries are one compiled pass; else torch's."""

from __future__ import annotations

from functools import lru_cache
from typing import Protocol

import torch
from llvmlite import binding
from numba.core.errors import NumbaError
from torch.nn import functional

from runtime.kernels.cpu.threads import Pool, float_bits, pool

__all__ = ["Attention", "attention"]

Tensor = torch.Tensor
TYPES = (torch.float32, torch.bfloat16)
MOST = 64
"""Queries of a row that are compiled, at most: more, as in prompts, are torch's."""
BLOCK = 256
"""Queries of a prompt that torch reads at once on a CPU, and none of the slots that only later ones see."""
TRIED = ((3, 3, 1), (4, 1, 5), (8, 4, 3))
"""Heads, how many share keys and values, and queries, with which it is tried before it is used."""


class Attention(Protocol):
    """Attention of one forward, in each of its layers."""

    def __call__(self, q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Queries (B, Q, H, d), keys and values (B, H / group, W, d) -> (B * Q, H * d)."""
        ...


class TorchAttention:
    """By torch's operator, on any device and in any type.

    Heads that share keys and values are laid one behind the other as queries, so that those are read once. torch's CPU
    kernel reads them once a head otherwise: 3 times slower for one query in bfloat16, 1.2 times for several; the sums
    are the same. One query in float32 has a fast path of its own there. On a GPU the kernels that take a mask know no
    shared heads. Many queries on a CPU, as of a prompt, are read in blocks: half of the slots are seen by later ones
    alone, and the kernel would compute their scores.

    Parameters
    ----------
    mask : (B, 1, Q, W), optional
        Added to the scores.
    queries, group : int
        Queries a row, and heads that share keys and values.
    scale : float
    """

    def __init__(self, mask: Tensor | None, queries: int, group: int, scale: float) -> None:
        self.mask, self.queries, self.group, self.scale = mask, queries, group, scale
        self._folded: Tensor | None = None
        self._spans: list[tuple[int, int, int]] | None = None

    def __call__(self, q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        batch, queries, heads, size = q.shape
        q, mask, fold = q.transpose(1, 2), self.mask, self.group
        if queries > MOST and mask is not None and q.device.type == "cpu":
            return self._in_blocks(q, keys, values, mask)
        if queries == 1 and q.dtype == torch.float32 and q.device.type == "cpu":
            fold = 1
        if fold > 1:
            q, mask = q.reshape(batch, heads // fold, -1, size), self._mask(fold)
        out = functional.scaled_dot_product_attention(
            q, keys, values, attn_mask=mask, scale=self.scale, enable_gqa=q.shape[1] != keys.shape[1]
        ).reshape(batch, heads, queries, size)
        return out.transpose(1, 2).reshape(batch * queries, -1)

    def _in_blocks(self, q: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
        """The same, block by block of the queries (B, H, Q, d)."""
        if self._spans is None:
            self._spans = _spans(mask)
        out = q.new_empty((q.shape[0], q.shape[2], q.shape[1], q.shape[3]))
        for first, last, slots in self._spans:
            out[:, first:last] = functional.scaled_dot_product_attention(
                q[:, :, first:last], keys[:, :, :slots], values[:, :, :slots], scale=self.scale,
                attn_mask=mask[:, :, first:last, :slots], enable_gqa=q.shape[1] != keys.shape[1],
            ).transpose(1, 2)  # fmt: skip
        return out.reshape(q.shape[0] * q.shape[2], -1)

    def _mask(self, fold: int) -> Tensor | None:
        if self._folded is None and self.mask is not None:
            batch, _, queries, _ = self.mask.shape
            self._folded = self.mask.expand(-1, fold, -1, -1).reshape(batch, 1, fold * queries, -1)
        return self._folded


class CompiledAttention(TorchAttention):
    """Compiled, in float32 and bfloat16 on a CPU; what a query reads has the same bits whatever stands beside it.

    Operands of other types and layouts, and heads whose entries do not fill pairs of registers, go to torch.
    """

    def __init__(self, run: Pool, mask: Tensor | None, queries: int, group: int, scale: float) -> None:
        super().__init__(mask, queries, group, scale)
        self._run = run

    def __call__(self, q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        from runtime.kernels.cpu import attention as twin

        batch, queries, heads, size = q.shape
        slots, mask = keys.shape[2], self.mask
        fits = (
            q.dtype in TYPES
            and size % twin.STEP == 0
            and keys.shape == values.shape == (batch, heads // self.group, slots, size)
            and all(each.dtype == q.dtype and each.stride(-1) == 1 for each in (q, keys, values))
            and (batch == 1 or q.stride(0) == queries * q.stride(1))
            and (
                mask is None
                or (mask.dtype == q.dtype and mask.shape == (batch, 1, queries, slots) and mask.stride(-1) == 1)
            )
        )
        if not fits:
            return super().__call__(q, keys, values)
        out = q.new_empty((batch * queries, heads * size))
        room = torch.empty(torch.get_num_threads() * twin.room_bytes(slots, size), dtype=torch.uint8)
        held = (each.data_ptr() for each in (q, keys, values))
        masks = (0, 0, 0) if mask is None else (mask.data_ptr(), mask.stride(0), mask.stride(2))
        apart = (*q.stride()[1:3], *keys.stride()[:3], *values.stride()[:3], *masks[1:])
        entry = q.element_size()
        self._run(
            twin.share_of_attention.address,
            (entry, *held, masks[0], out.data_ptr(), room.data_ptr(), batch, keys.shape[1], self.group, queries, size,
             slots, *(entry * each for each in apart), float_bits(self.scale), 0),
        )  # fmt: skip
        return out


def _spans(mask: Tensor) -> list[tuple[int, int, int]]:
    """First query, the one after the last, and how many slots they see, of each block; (B, 1, Q, W)."""
    queries, slots = mask.shape[2:]
    seen = (mask > torch.finfo(mask.dtype).min / 8).any(dim=1).any(dim=0)
    last = (seen * torch.arange(1, slots + 1)).amax(dim=-1)
    blocks = [(first, min(first + BLOCK, queries)) for first in range(0, queries, BLOCK)]
    return [(first, end, max(int(last[first:end].max()), 1)) for first, end in blocks]


def attention(
    mask: Tensor | None, queries: int, group: int, scale: float, *, dtype: torch.dtype, device: torch.device
) -> Attention:
    """The fastest there is for a forward; see `TorchAttention` for its parameters."""
    run = _tried() if dtype in TYPES and device.type == "cpu" and queries <= MOST else None
    told = mask, queries, group, scale
    return TorchAttention(*told) if run is None else CompiledAttention(run, *told)


@lru_cache
def _tried() -> Pool | None:
    """The threads that it runs on, once it has been seen to be right; None where torch's threads are not GNU's."""
    run, features = pool(), binding.get_host_cpu_features()
    if run is None or not features.get("fma", True):
        return None
    try:
        return run if all(_is_right(run, dtype, *shape) for dtype in TYPES for shape in TRIED) else None
    except NumbaError:
        return None


def _is_right(run: Pool, dtype: torch.dtype, heads: int, group: int, queries: int) -> bool:
    """Whether it is attention to rounding: a chain of queries after 9 slots, in two rows."""
    slots, size = 9 + queries, 96
    drawn = torch.linspace(-99, 99, 2 * (queries * heads + 2 * slots * heads // group) * size).sin().to(dtype)
    sizes = [2 * queries * heads * size, *[2 * slots * heads // group * size] * 2]
    q, keys, values = drawn.split(sizes)
    q, keys, values = q.view(2, queries, heads, size), *(x.view(2, -1, slots, size) for x in (keys, values))
    hidden = torch.arange(slots)[None] > 9 + torch.arange(queries)[:, None]
    mask = (hidden * torch.finfo(torch.bfloat16).min / 4).expand(2, 1, -1, -1)
    found = CompiledAttention(run, mask.to(dtype), queries, group, 0.5)(q, keys, values)
    near = TorchAttention(mask.double(), queries, group, 0.5)(q.double(), keys.double(), values.double())
    return torch.allclose(found.double(), near, rtol=2**-7, atol=1e-4)
