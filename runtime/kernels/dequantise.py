"""Door: records of quantised keys or values to numbers.

A record holds one chunk of tokens: the codes of each token one behind the other, low bits first, then half-precision
scales. `runtime.cache.quantised.codec` writes them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from reader_theory.errors import require
from runtime.kernels._door import Array, Sizes, empty_like_of, host, on_gpu
from runtime.kernels.cpu import dequantise as cpu
from runtime.kernels.cpu.threads import pool

__all__ = ["grid_numbers", "integer_heads", "integer_numbers"]


def integer_numbers(records: Array, chunk: int, channels: int, bits: int) -> Any:
    """Numbers ``code * step + least`` of evenly spaced codes.

    Parameters
    ----------
    records : (n, R) uint8
        Codes, `bits` each; then the (channels,) steps and the (channels,) least numbers of the chunk.
    chunk, channels, bits : int
        Tokens of a record, numbers of a token, 1 to 8.

    Returns
    -------
    (n chunk, channels) float32, of the records' kind and device
    """
    codes = chunk * (-(-channels * bits // 8))
    scales = _scales(records, codes, 4 * channels, (2, channels))
    out = empty_like_of(records, (len(records) * chunk, channels), "float32")
    if on_gpu(records):
        from runtime.kernels.gpu import dequantise as gpu

        gpu.integer_numbers(records, scales, chunk, bits, out)
    else:
        cpu.integer_numbers(host(records), host(scales), chunk, bits, host(out))
    return out


def integer_heads(records: NDArray[np.uint8], chunk: int, bits: int, out: torch.Tensor) -> None:
    """Write the numbers of evenly spaced codes where attention reads them, on the threads of torch.

    Parameters
    ----------
    records : (n, R) uint8
        As `integer_numbers` reads them.
    out : (heads, n chunk, size), on a CPU, or any place that it can be copied to
        Numbers of a token are those of its heads, one behind the other; heads may lie apart.
    """
    heads, tokens, size = out.shape
    channels, run = heads * size, pool()
    require(
        tokens == len(records) * chunk,
        "`out` must have a place for each token of the records",
        got=f"{tokens} tokens for {len(records)} records of {chunk}",
        fix="Pass the slots that these chunks take.",
    )
    fits = out.dtype in (torch.float32, torch.bfloat16) and out.device.type == "cpu"
    if run is None or not fits or out.stride()[1:] != (size, 1):
        numbers = torch.from_numpy(integer_numbers(records, chunk, channels, bits))
        out.copy_(numbers.view(tokens, heads, size).transpose(0, 1))
        return
    scales = _scales(records, chunk * (-(-channels * bits // 8)), 4 * channels, (2, channels))
    entry = out.element_size()
    run(
        cpu.share_of_integers.address,
        (entry, records.ctypes.data, scales.ctypes.data, out.data_ptr(), len(records), records.shape[1], chunk, heads,
         size, bits, entry * out.stride(0)),
    )  # fmt: skip


def grid_numbers(records: Array, chunk: int, channels: int, bits: int, grid: Array, base: Array, order: int) -> Any:
    """Numbers of groups whose pairs lie on a grid, turned back and scaled.

    Parameters
    ----------
    records : (n, R) uint8
        Codes of pairs, `bits` each; then a scale for each token and group.
    chunk, channels, bits : int
        Tokens of a record, numbers of a token, and bits of a code, 1 to 8.
    grid : (2 ** bits, 2) float32
    base : (m, m) float32 of 1 and -1
        The group was turned by ``base (x) sylvester / sqrt(order)``.
    order : int
        Numbers of a group: m times a power of 2; divides `channels`.

    Returns
    -------
    (n chunk, channels) float32, of the records' kind and device
    """
    sizes = Sizes()
    sizes.take("grid", grid, ("P", "two"), ("float32",))
    sizes.take("base", base, ("m", "m"), ("float32",))
    require(
        channels % order == 0 and order % sizes["m"] == 0 and sizes["P"] == 2**bits and sizes["two"] == 2,
        "`order` must divide `channels`, `base` the order, and `grid` have 2 ** bits pairs",
        got=f"{channels} channels, order {order}, base of {sizes['m']}, grid of {sizes['P']}, {bits} bits",
        fix="Pass what `GridCodec` has.",
    )
    groups, codes = channels // order, chunk * (-(-channels // 2 * bits // 8))
    scales = _scales(records, codes, 2 * chunk * groups, (chunk, groups))
    out = empty_like_of(records, (len(records) * chunk, channels), "float32")
    if on_gpu(records, grid, base):
        from runtime.kernels.gpu import dequantise as gpu

        gpu.grid_numbers(records, scales, chunk, bits, grid, base, order, out)
        return out
    arrays, run, n = [host(each) for each in (records, scales, grid, base, out)], pool(), len(records)
    if run is None:
        cpu.grid_numbers(arrays[0], arrays[1], chunk, bits, arrays[2], arrays[3], order, arrays[4], 0, n)
    else:
        told = (n, records.shape[1], chunk, bits, sizes["m"], order, channels)
        run(cpu.share_of_grid.address, (*(each.ctypes.data for each in arrays), *told))
    return out


def _scales(records: Array, codes: int, size: int, shape: tuple[int, ...]) -> Any:
    """The half-precision numbers behind the codes, (n, *shape) float32."""
    sizes = Sizes({"codes and scales": codes + size})
    sizes.take("records", records, ("n", "codes and scales"), ("uint8",))
    if isinstance(records, torch.Tensor):
        return records[:, codes:].contiguous().view(torch.float16).float().view(len(records), *shape)
    return np.ascontiguousarray(records[:, codes:]).view(np.float16).astype(np.float32).reshape(len(records), *shape)
