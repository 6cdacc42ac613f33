"""Weights of 8 or 4 bits: a target whose linear layers are quantised, and is served losslessly as what it then is.

int8 has a scale for each output, int4 one for each group of 32 inputs, and int8 in the output head; symmetric, without
zero points. Inputs stay in bfloat16: in 8 bits as well, a scale a row, products are faster and exact as integers, but a
rounding elsewhere that moves one code moves SmolLM2's logits by a tenth, and a tree no longer repeats a plain step.
The embedding stays as it is: of it rows are read, not the whole.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from reader_theory.errors import require
from runtime.kernels.product import Streamed, streamed
from runtime.kernels.program import Operation
from runtime.models.memory import give_back, trim

__all__ = ["QUANTISED", "Codes", "PackedCodes", "QuantisedLinear", "drop_codes", "quantise"]

QUANTISED = {"int8": 8, "int4": 4}
"""Names of the formats, and bits of a layer's weights."""
GROUP = 32
"""Inputs that share a scale where weights have 4 bits."""
OUTPUTS = 16
"""What the number of outputs must be a multiple of, as torch's products of integers have it; those are taken where
ours, `runtime.kernels.product`, are not to be had."""
LEAST_SHARE = 0.5
"""Share of a model's parameters, embedding left out, that must be quantised for its name to be true."""
LARGEST = {8: 127, 4: 7}
MANY = {8: 48, 4: 32}
"""Rows, by bits, from which weights are turned into bfloat16 for a product: there 8-bit codes have their places."""

Product = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Codes:
    """A weight as integers and scales: ``weight = codes * scales``, a scale for each stretch of a row.

    Parameters
    ----------
    codes : (n, k) int8
    scales : (n, s) float32
        s is 1 for 8 bits, k / 32 for 4.
    bits : {8, 4}
    """

    codes: torch.Tensor
    scales: torch.Tensor
    bits: int

    @classmethod
    def of(cls, weight: torch.Tensor, bits: int) -> Codes:
        """The nearest codes of an (n, k) weight; the same again for what they stand for."""
        groups = 1 if bits == 8 else weight.shape[1] // GROUP
        parts = weight.float().unflatten(1, (groups, -1))
        scales = parts.abs().amax(-1).div_(LARGEST[bits]).clamp_(min=torch.finfo(torch.float32).tiny)
        scales = scales.bfloat16().float()  # as torch's products hold them
        codes = (parts / scales.unsqueeze(-1)).round_().clamp_(-LARGEST[bits], LARGEST[bits])
        return cls(codes.flatten(1).to(torch.int8), scales, bits)

    @property
    def values(self) -> torch.Tensor:
        """(n, k) float32: the weight that the codes stand for."""
        return (self.codes.unflatten(1, (self.scales.shape[1], -1)) * self.scales.unsqueeze(-1)).flatten(1)

    @property
    def size_bytes(self) -> float:
        """Bytes of codes and float32 scales, as they are read."""
        return self.codes.numel() * self.bits / 8 + self.scales.numel() * 4

    def rows(self, order: torch.Tensor | slice) -> Codes:
        """The same with its outputs in another order."""
        return Codes(self.codes[order], self.scales[order], self.bits)

    @classmethod
    def stacked(cls, parts: Sequence[Codes]) -> Codes:
        """Weights of the same input, one below the other."""
        return cls(torch.cat([p.codes for p in parts]), torch.cat([p.scales for p in parts]), parts[0].bits)

    def packed(self) -> Product:
        """``x @ weight.T`` of (m, k) to (m, n), in the type of x."""
        ours = streamed()
        if ours is not None:
            return _Streamed(self, ours)
        return _product_of_4(self) if self.bits == 4 else _product_of_8(self)


class PackedCodes:
    """``x @ weight.T + bias`` for two-dimensional x, from codes that are packed and let go of."""

    weight = None

    def __init__(self, codes: Codes, bias: torch.Tensor | None = None) -> None:
        self.bias, self.outputs, self._product = bias, codes.codes.shape[0], codes.packed()

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """(m, k) -> (m, n)."""
        out = self._product(x)
        return out if self.bias is None else out + self.bias

    def operation(self, inputs: int) -> Operation | None:
        """The product of so many bfloat16 inputs, without its bias, as a part of a program; None where it cannot be."""
        return self._product.operation(inputs) if isinstance(self._product, _Streamed) else None

    def onto(self, base: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """``base + self(x)``."""
        return base + self(x)


class QuantisedLinear(torch.nn.Module):
    """In the place of a `torch.nn.Linear`, so that transformers' own forward and `generate` run the quantised model."""

    def __init__(self, linear: torch.nn.Linear, bits: int) -> None:
        super().__init__()
        self.in_features, self.out_features, self.bias = linear.in_features, linear.out_features, linear.bias
        self.codes: Codes | None = Codes.of(linear.weight.data, bits)
        self._packed: PackedCodes | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self._packed is None:
            assert self.codes is not None
            self._packed = PackedCodes(self.codes, self.bias)
        return self._packed(x.reshape(-1, self.in_features)).unflatten(0, x.shape[:-1])

    def taken(self) -> Codes:
        """Its codes, which it no longer has."""
        codes, self.codes, self._packed = self.codes, None, None
        assert codes is not None
        return codes


def quantise(model: Any, name: str) -> None:
    """Replace the linear layers of a transformers model, weights let go of one by one.

    Parameters
    ----------
    name : {"int8", "int4"}

    Raises
    ------
    InvalidInputError
        For a model on another device, and one most of whose parameters lie in no linear layer that torch's products
        of integers take.
    """
    require(
        model.device.type == "cpu",
        "a quantised model must be on the CPU, whose products of integers it is made for",
        got=f"{model.device} for {name!r}",
        fix="Load it in bfloat16 there.",
    )
    bits, head, table = QUANTISED[name], model.get_output_embeddings(), model.get_input_embeddings().weight
    names = [path for path, module in model.named_modules() if _fits(module)]
    inside = sum(p.numel() for p in model.parameters() if p is not table)
    weights = [model.get_submodule(path).weight for path in names]
    taken = sum(weight.numel() for weight in weights if weight is not table)
    require(
        taken >= LEAST_SHARE * inside,
        "a quantised model must have most of its parameters in linear layers of a multiple of "
        f"{OUTPUTS} outputs and {GROUP} inputs",
        got=f"{taken / max(inside, 1):.0%} of {inside:,} parameters ({type(model).__name__})",
        fix="Load it in bfloat16; experts that lie in one tensor are not quantised.",
    )
    for path in names:
        linear = model.get_submodule(path)
        model.set_submodule(path, QuantisedLinear(linear, 8 if linear is head else bits))
        if linear.weight is not table:
            give_back(linear.weight.data)
            linear.weight = None
    trim()


def drop_codes(model: Any) -> None:
    """Let go of the codes of layers that are packed and run as they are."""
    for module in model.modules():
        if isinstance(module, QuantisedLinear):
            module.codes = module.codes if module._packed is None else None


def _fits(module: Any) -> bool:
    return type(module) is torch.nn.Linear and not module.out_features % OUTPUTS and not module.in_features % GROUP


class _Streamed:
    """Rows with codes as they are streamed; many rows share one reading of the weight in bfloat16."""

    def __init__(self, held: Codes, ours: Streamed) -> None:
        codes, self.scales, self.bits, self._ours = held.codes.contiguous(), held.scales.contiguous(), held.bits, ours
        if held.bits == 4:
            low, high = codes.unflatten(1, (-1, 2, GROUP // 2)).unbind(2)
            codes = ((high << 4) | (low & 15)).flatten(1).view(torch.uint8)
        self.codes = codes

    def operation(self, inputs: int) -> Operation | None:
        """The product of so many inputs as a part of a program, while they are few."""
        return self._ours.operation_of_codes(self.codes, self.scales, inputs) if self._few(inputs) else None

    def _few(self, inputs: int) -> bool:
        """Whether the codes are streamed; so they always are where torch's product of bfloat16 has no tiles."""
        return inputs < MANY[self.bits] or not self._ours.has_tiles

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        rows = x.bfloat16()
        if self._few(len(rows)):
            out = self._ours.of_codes(rows, self.codes, self.scales)
        else:
            out = functional.linear(rows, self._ours.values(self.codes, self.scales))
            out = out if self.bits == 4 else out.float() * self.scales[:, 0]
        return out.to(x.dtype)


def _product_of_4(held: Codes) -> Product:
    """torch's product of bfloat16 rows with 4-bit weights; its codes count from 8, and its zeros are zero."""
    packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(held.codes.int() + 8, 1)
    scales = torch.stack((held.scales, torch.zeros_like(held.scales)), dim=-1).transpose(0, 1).bfloat16().contiguous()

    def product(x: torch.Tensor) -> torch.Tensor:
        out = torch.ops.aten._weight_int4pack_mm_for_cpu(x.bfloat16().contiguous(), packed, GROUP, scales)
        return out.to(x.dtype)

    return product


def _product_of_8(held: Codes) -> Product:
    """torch's product of bfloat16 rows with 8-bit weights; many rows share one reading of the weight in bfloat16."""
    codes, scales = held.codes.contiguous(), held.scales[:, 0].bfloat16().contiguous()

    def product(x: torch.Tensor) -> torch.Tensor:
        rows = x.bfloat16().contiguous()
        if len(rows) >= MANY[8]:
            return (functional.linear(rows, codes.bfloat16()).float() * scales).to(x.dtype)
        return torch.ops.aten._weight_int8pack_mm(rows, codes, scales).to(x.dtype)

    return product
