"""A linear layer that holds its weight once, in the layout whose products are fastest on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch

from runtime.kernels.product import streamed
from runtime.kernels.program import Operation
from runtime.models.products import ROW_BUCKETS, ROWS, STREAMED, Choice, Product, choose, chosen, pack, row_products

__all__ = ["ROW_BUCKETS", "AdaptiveLinear", "FollowingLinear"]


class AdaptiveLinear:
    """``x @ weight.T + bias`` for two-dimensional x.

    Parameters
    ----------
    weight : (n, k) tensor
        Shared where its rows stay as they are; let go of where it is packed.
    bias : (n,) tensor, optional
    adaptive : bool
        False keeps torch's own product whatever the machine.
    in_rows : bool
        The weight's rows are read by others too (an embedding), so that it must not be packed beside them.
    spare_bytes, others
        See `choose`.

    Attributes
    ----------
    weight : (n, k) tensor or None
        None where it is packed.
    outputs : int
    """

    def __init__(
        self,
        weight: torch.Tensor,
        bias: torch.Tensor | None = None,
        *,
        adaptive: bool = True,
        in_rows: bool = False,
        spare_bytes: int = 1 << 24,
        others: torch.Tensor | None = None,
    ) -> None:
        self.bias, self.outputs, self._adaptive = bias, weight.shape[0], adaptive
        self.choice = choose(weight, spare_bytes, others) if adaptive else Choice()
        weight = weight.contiguous()
        packed = None if in_rows or self.choice.layout == ROWS else pack(weight, self.choice.layout)
        self.weight = weight if packed is None else None
        if packed is not None:
            self._by_rows = [packed]
        else:
            self._by_rows = [
                partial(_in_rows, product=row_products()[name], weight=weight) for name in self.choice.rows
            ]

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """(m, k) -> (m, n)."""
        bucket = min((x.shape[0] - 1).bit_length(), len(self._by_rows) - 1)
        out = self._by_rows[bucket](x)
        return out if self.bias is None else out + self.bias

    def operation(self, inputs: int) -> Operation | None:
        """The product of so many inputs, without its bias, as a part of a program; None where another is faster.

        Of weights that are too small for a choice, what a call costs decides, and a program makes no calls.
        """
        bucket = min((inputs - 1).bit_length(), len(self.choice.rows) - 1)
        ours, weight = streamed(), self.weight
        if not self._adaptive or ours is None or weight is None or not ours.fits(weight):
            return None
        return ours.operation(weight, inputs) if self.choice.rows[bucket] == STREAMED or not chosen(weight) else None

    def onto(self, base: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """``base + self(x)``; on a GPU in the place of `base`, (m, n), within the product."""
        if base.is_cuda and self.bias is None and self.weight is not None:
            return base.addmm_(x, self.weight.t())
        return base + self(x)


def _in_rows(x: torch.Tensor, product: Product, weight: torch.Tensor) -> torch.Tensor:
    return product(x, weight)


class FollowingLinear:
    """The outputs of linear modules side by side, by the weights that they hold at each call.

    Prefer it where somebody else owns the modules: nothing is copied, and nothing goes stale.
    """

    def __init__(self, modules: Sequence[Any], *, adaptive: bool = True) -> None:
        self.modules = tuple(modules)
        choices = [choose(each.weight.detach()) if adaptive else Choice() for each in modules]
        self._rows = [[row_products()[name] for name in choice.rows] for choice in choices]

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """(m, k) -> (m, sum of n)."""
        bucket = (x.shape[0] - 1).bit_length()
        outs = [
            _with_bias(products[min(bucket, len(products) - 1)](x, module.weight), module.bias)
            for products, module in zip(self._rows, self.modules, strict=True)
        ]
        return outs[0] if len(outs) == 1 else torch.cat(outs, dim=1)

    def onto(self, base: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """``base + self(x)``."""
        return base + self(x)


def _with_bias(out: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    return out if bias is None else out + bias
