"""Door: what stands around a layer's products. On a CPU one compiled pass each; elsewhere torch's operators."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Protocol

import torch
from numba.core.errors import NumbaError
from torch.nn import functional

from runtime.kernels.cpu.threads import Pool, float_bits, pool

__all__ = ["Around", "around"]

Tensor = torch.Tensor
TYPES = (torch.float32, torch.bfloat16)


class Around(Protocol):
    """Residual sums with their norms, turned heads and gates, of two-dimensional activations."""

    def normed(self, x: Tensor, added: Tensor | None, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        """``x + added``, and that over its root mean square times the weight; (m, k) each."""
        ...

    def turned(self, x: Tensor, turns: Tensor, heads: int, size: int) -> Tensor:
        """The first heads of x (m, k), whose pairs lie side by side, turned by (m, 1, size / 2) complex numbers.

        (m, heads, size); x is the caller's own, and may be written to.
        """
        ...

    def gated(self, x: Tensor) -> Tensor:
        """The first half of x (m, 2 k), as a SiLU, times its second half; (m, k)."""
        ...


class TorchAround:
    """By torch's operators, on any device and in any type."""

    def normed(self, x: Tensor, added: Tensor | None, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        if added is not None:
            x = x + added
        return x, functional.rms_norm(x, x.shape[-1:], weight, eps)

    def turned(self, x: Tensor, turns: Tensor, heads: int, size: int) -> Tensor:
        wide = torch.promote_types(x.dtype, torch.float32)
        parts = x.view(len(x), -1, size)
        pairs = torch.view_as_complex(parts[:, :heads].to(wide).unflatten(-1, (-1, 2)))
        return torch.view_as_real(pairs * turns).flatten(-2).to(x.dtype)

    def gated(self, x: Tensor) -> Tensor:
        gate, up = x.chunk(2, dim=-1)
        return functional.silu(gate) * up


class CompiledAround(TorchAround):
    """Compiled, in float32 and bfloat16, on the threads of torch's own operators; any other operands go to torch."""

    def __init__(self, run: Pool) -> None:
        from runtime.kernels.cpu import around as twin

        self._run = run
        self._norms, self._turns = twin.share_of_norms.address, twin.share_of_turns.address
        self._gates = twin.share_of_gates.address

    def normed(self, x: Tensor, added: Tensor | None, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        if not _alike(x, weight, x if added is None else added) or weight.shape != x.shape[1:]:
            return super().normed(x, added, weight, eps)
        x, weight = x.contiguous(), weight.contiguous()
        out, total, more = torch.empty_like(x), x, 0
        if added is not None:
            added, total = added.contiguous(), torch.empty_like(x)
            more = added.data_ptr()
        held = (x.data_ptr(), more, weight.data_ptr(), total.data_ptr(), out.data_ptr(), *x.shape, float_bits(eps))
        self._run(self._norms, (x.element_size(), *held, x.shape[1]))
        return total, out

    def turned(self, x: Tensor, turns: Tensor, heads: int, size: int) -> Tensor:
        fits = turns.dtype == torch.complex64 and turns.is_contiguous() and turns.shape == (len(x), 1, size // 2)
        if not (fits and _alike(x) and x.is_contiguous() and x.shape[1] % size == 0 and heads * size <= x.shape[1]):
            return super().turned(x, turns, heads, size)
        self._run(self._turns, (x.element_size(), x.data_ptr(), turns.data_ptr(), *x.shape, heads, size))
        return x.view(len(x), -1, size)[:, :heads]

    def gated(self, x: Tensor) -> Tensor:
        if not _alike(x) or x.shape[1] % 2:
            return super().gated(x)
        x, out = x.contiguous(), x.new_empty((len(x), x.shape[1] // 2))
        self._run(self._gates, (x.element_size(), x.data_ptr(), out.data_ptr(), *out.shape))
        return out


def _alike(x: Tensor, *others: Tensor) -> bool:
    """Whether operands are of one compiled type, on the CPU, and fit: a model may have been cast since it was made."""
    return (
        x.dtype in TYPES
        and x.ndim == 2
        and x.device.type == "cpu"
        and all(each.dtype == x.dtype and each.shape in (x.shape, x.shape[1:]) for each in others)
    )


def around(dtype: torch.dtype, device: torch.device) -> Around:
    """The fastest there is for activations of a type on a device."""
    fits = dtype in TYPES and device.type == "cpu"
    return (_compiled() if fits else None) or TorchAround()


@lru_cache
def _compiled() -> Around | None:
    run: Any = pool()
    try:
        return None if run is None else CompiledAround(run)
    except NumbaError:
        return None
