"""Door: ``x @ weight.T`` for a weight that lies in rows, shared out over torch's own threads.

For a few inputs it takes little more than the weight's read; the bits of an output do not depend on how many inputs
there are, so the products of a tree's row and of a plain row of one token are the same.
"""

from __future__ import annotations

import ctypes
import sys
from functools import lru_cache

import torch
from llvmlite import binding
from numba.core.errors import NumbaError
from torch.nn import functional

from runtime.kernels.cpu.lanes import LINE
from runtime.kernels.cpu.threads import Pool, pool
from runtime.kernels.cpu.vectors import GROUP
from runtime.kernels.program import Operation

__all__ = ["Streamed", "streamed"]

ALLOWED, TILE_DATA, ARCH_PRCTL = 0x1023, 18, 158
"""How Linux is asked to let a process use the data of tiles."""


class Streamed:
    """The product, for float32 and bfloat16 on a CPU.

    Parameters
    ----------
    run : Pool
        Runs a compiled share on every thread.
    """

    def __init__(self, run: Pool) -> None:
        from runtime.kernels.cpu import code_product, vector_product

        self._run, self._vectors, self._codes, self._tiles = run, vector_product, code_product, None
        if have_tiles():
            from runtime.kernels.cpu import tile_product

            self._tiles, told = tile_product, tile_product.CONFIGURATION
            self._configuration = ctypes.create_string_buffer(told, len(told))

    @property
    def has_tiles(self) -> bool:
        """Whether bfloat16 is multiplied on matrix tiles, torch's own products among them."""
        return self._tiles is not None

    def fits(self, weight: torch.Tensor) -> bool:
        """Whether this product is for an (n, k) weight of its type and shape, where it lies."""
        return (
            weight.dtype in (torch.float32, torch.bfloat16)
            and weight.device.type == "cpu"
            and weight.ndim == 2
            and weight.is_contiguous()
            and weight.shape[0] % GROUP == 0
            and weight.shape[1] % self._vectors.STEP[weight.element_size()] == 0
        )

    def widened(self, weight: torch.Tensor) -> torch.Tensor:
        """A weight with zeros behind its rows, so many that it `fits`; itself where none would make it so."""
        step = self._vectors.STEP.get(weight.element_size())
        if step is None or weight.device.type != "cpu" or weight.shape[1] % step == 0:
            return weight
        wide = functional.pad(weight, (0, -weight.shape[1] % step))
        return wide if self.fits(wide) else weight

    def of_codes(self, x: torch.Tensor, codes: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
        """Inputs times a weight in codes, bfloat16; arguments beside x (m, k) as `operation_of_codes` takes them."""
        return self._once(self.operation_of_codes(codes, scales, len(x)), x.contiguous(), codes.shape[0])

    def operation_of_codes(self, codes: torch.Tensor, scales: torch.Tensor, inputs: int) -> Operation:
        """`of_codes` as a part of a program, on a weight that is kept.

        Parameters
        ----------
        codes : (n, k) int8, or (n, k / 2) uint8
            Of 8 bits, or of 4: of each 32 entries, 16 bytes whose low halves are the first 16. n a multiple of 4, k
            one of 32.
        scales : (n,) float32 for 8 bits, (n, k / 32) float32 for 4
        inputs : int
        """
        bits, threads = 8 if codes.dtype == torch.int8 else 4, torch.get_num_threads()
        (n, wide), weight = codes.shape, (codes.data_ptr(), scales.data_ptr())
        k = wide * 8 // bits
        return Operation(
            self._codes.share_of_codes.address,
            threads * inputs * k * 4,
            lambda x, out, room: (*weight, x, out, room, inputs, n, k, bits),
        )

    def values(self, codes: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
        """(n, k) bfloat16: codes of 8 bits as they are, those of 4 bits times their scales; see `of_codes`."""
        bits = 8 if codes.dtype == torch.int8 else 4
        n, k = codes.shape[0], codes.shape[1] * 8 // bits
        out = scales.new_empty((n, k), dtype=torch.bfloat16)
        held = (codes.data_ptr(), scales.data_ptr(), out.data_ptr())
        self._run(self._codes.share_of_values.address, (*held, n, k, bits))
        return out

    def __call__(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """(m, k) and (n, k) of one type -> (m, n); torch's own product where the operands are not what `fits` says."""
        alike = x.ndim == 2 and x.dtype == weight.dtype and x.shape[1] == weight.shape[-1]
        if not (alike and self.fits(weight) and x.is_contiguous() and len(x)):
            return functional.linear(x, weight)
        return self._once(self.operation(weight, len(x)), x, weight.shape[0])

    def operation(self, weight: torch.Tensor, inputs: int) -> Operation:
        """The product as a part of a program, of so many inputs and a weight that is kept and that `fits`."""
        (n, k), size, threads = weight.shape, weight.element_size(), torch.get_num_threads()
        share, room, last = self._vectors.share_of_vectors, threads * inputs * k * 4 if size == 2 else 0, size
        if self._tiles is not None and size == 2 and n % self._tiles.ROWS == 0:
            share, room = self._tiles.share_of_tiles, threads * self._tiles.room_bytes(inputs, k)
            last = ctypes.addressof(self._configuration)
        held = weight.data_ptr()
        return Operation(share.address, room, lambda x, out, room: (held, x, out, room, inputs, n, k, last))

    def _once(self, operation: Operation, x: torch.Tensor, n: int) -> torch.Tensor:
        """An operation on its own."""
        out, room = x.new_empty((len(x), n)), torch.empty(operation.room_bytes + LINE, dtype=torch.uint8)
        aligned = -(-room.data_ptr() // LINE) * LINE
        self._run(operation.share, operation.task(x.data_ptr(), out.data_ptr(), aligned))
        return out


@lru_cache
def streamed() -> Streamed | None:
    """The product, compiled at its first use and kept; None where torch's threads are not GNU's, or it is not right.

    It is tried before it is handed out, in both types and for every kind of block.
    """
    run, features = pool(), binding.get_host_cpu_features()
    if run is None or not features.get("fma", True):  # a sum without the instruction would be a call each
        return None
    try:
        product = Streamed(run)
        for dtype in (torch.float32, torch.bfloat16):
            weight = torch.linspace(-1, 1, 64 * 96).sin().view(64, 96).to(dtype)
            for inputs in (1, 2, 3, 4, 5, 6, 7, 8, 17, 33):
                x = torch.linspace(-1, 1, inputs * 96).cos().view(inputs, 96).to(dtype)
                near = functional.linear(x.double(), weight.double())
                for part in (weight, weight[:60]):
                    if not torch.allclose(product(x, part).double(), near[:, : len(part)], rtol=2**-7, atol=1e-2):
                        return None
    except NumbaError:
        return None
    return product


def have_tiles() -> bool:
    """Whether this processor has tiles of bfloat16 (AMX), and Linux lets this process use them."""
    features = binding.get_host_cpu_features()
    if sys.platform != "linux" or not (features.get("amx-tile") and features.get("amx-bf16")):
        return False
    return ctypes.CDLL(None).syscall(ARCH_PRCTL, ALLOWED, TILE_DATA) == 0
