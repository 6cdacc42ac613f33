"""A linear layer that picks its own operator: the fastest of those that are there, by measurement at load.

On processors without bfloat16 units a bfloat16 product of several rows costs several times a float32 one, and
torch's float32 product of 16 rows has a slow path that the prepacked one has not; which wins depends on the machine,
so it is measured, once for each shape and number of rows.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional

__all__ = ["ROW_BUCKETS", "AdaptiveLinear"]

ROW_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128)
"""Numbers of rows at which operators are compared; a product of m rows uses the choice of the next bucket up."""

Product = Callable[[torch.Tensor], torch.Tensor]

_chosen: dict[tuple[Any, ...], tuple[str, ...]] = {}


def _plain(weight: torch.Tensor) -> Product:
    return lambda x: functional.linear(x, weight)


def _upcast(weight: torch.Tensor) -> Product:
    """Float32 product of a narrower weight, rounded once at the end; exact products, as in the narrow one."""
    product, dtype = _packed_mkl(weight.float()), weight.dtype
    return lambda x: product(x.float()).to(dtype)


def _packed_mkldnn(weight: torch.Tensor) -> Product:
    packed = torch.ops.mkldnn._reorder_linear_weight(weight)
    apply = torch.ops.mkldnn._linear_pointwise
    return lambda x: apply(x, packed, None, "none", [], "")


def _packed_mkl(weight: torch.Tensor) -> Product:
    try:
        packed = torch.ops.mkl._mkl_reorder_linear_weight(weight, 16)
    except (AttributeError, RuntimeError):
        return _plain(weight)
    apply = torch.ops.mkl._mkl_linear
    return lambda x: apply(x, packed, weight, None, x.shape[0])


_CANDIDATES: dict[torch.dtype, dict[str, Callable[[torch.Tensor], Product]]] = {
    torch.float32: {"plain": _plain, "mkl": _packed_mkl},
    torch.bfloat16: {"plain": _plain, "mkldnn": _packed_mkldnn, "upcast": _upcast},
}


class AdaptiveLinear:
    """``x @ weight.T + bias`` for two-dimensional x.

    Parameters
    ----------
    weight : (n, k) tensor
    bias : (n,) tensor, optional
    adaptive : bool
        False keeps torch's own product whatever the machine.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None = None, *, adaptive: bool = True) -> None:
        self.weight, self.bias = weight.contiguous(), bias
        makers = _CANDIDATES.get(weight.dtype, {}) if adaptive and weight.device.type == "cpu" else {}
        built = {name: made for name, maker in makers.items() if (made := _try(maker, self.weight))}
        self.choice = _choose(self.weight, built) if len(built) > 1 else ("plain",) * len(ROW_BUCKETS)
        products = {name: built.get(name) or _plain(self.weight) for name in set(self.choice)}
        self._by_rows = [products[name] for name in self.choice]

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """(m, k) -> (m, n)."""
        bucket = min((x.shape[0] - 1).bit_length(), len(self._by_rows) - 1)
        out = self._by_rows[bucket](x)
        return out if self.bias is None else out + self.bias


def _try(maker: Callable[[torch.Tensor], Product], weight: torch.Tensor) -> Product | None:
    try:
        product = maker(weight)
        product(weight.new_zeros((2, weight.shape[1])))
    except (AttributeError, RuntimeError):
        return None
    return product


def _choose(weight: torch.Tensor, built: dict[str, Product]) -> tuple[str, ...]:
    key = (tuple(weight.shape), weight.dtype, torch.get_num_threads())
    if key not in _chosen:
        inputs = [torch.randn(rows, weight.shape[1]).to(weight.dtype) for rows in ROW_BUCKETS]
        _chosen[key] = tuple(min(built, key=lambda name: _seconds(built[name], x)) for x in inputs)
    return _chosen[key]


def _seconds(product: Product, x: torch.Tensor, repeats: int = 5) -> float:
    product(x)
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        product(x)
        best = min(best, time.perf_counter() - start)
    return best
