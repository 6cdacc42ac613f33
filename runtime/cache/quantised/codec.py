"""How a chunk of keys or values of one layer becomes bytes, written once, and numbers again."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import torch
from numpy.typing import NDArray

from runtime.cache.quantised.hadamard import Hadamard
from runtime.kernels.cpu.dequantise import nearest_points
from runtime.kernels.dequantise import grid_numbers, integer_heads, integer_numbers

__all__ = ["Codec", "GridCodec", "IntegerCodec"]

Bytes = NDArray[np.uint8]
Numbers = NDArray[np.float32]


class Codec(ABC):
    """Chunks of (C, channels) float32 numbers as records of `record_bytes` bytes, scales included.

    Parameters
    ----------
    chunk, channels : int
        Tokens of a chunk, and numbers of a token.
    """

    record_bytes: int

    def __init__(self, chunk: int, channels: int) -> None:
        self.chunk, self.channels = chunk, channels

    @abstractmethod
    def encode(self, numbers: Numbers) -> Bytes:
        """(record_bytes,) uint8 of (C, channels) float32."""

    @abstractmethod
    def decode(self, records: Bytes) -> Numbers:
        """(n C, channels) float32 of (n, record_bytes) uint8."""

    def decode_to(self, records: Bytes, out: torch.Tensor) -> None:
        """Write the numbers of (n, record_bytes) uint8 to (heads, n C, channels of a head); heads may lie apart."""
        out.copy_(torch.from_numpy(self.decode(records)).view(out.shape[1], len(out), -1).transpose(0, 1))


class IntegerCodec(Codec):
    """Each channel of a chunk between its least and its largest number, in evenly spaced steps.

    Prefer it where reading must be cheap; from 4 bits on its error is small. What engines ship, with a scale a channel.
    A record has the codes token by token, then step and least number of each channel in half precision.
    """

    def __init__(self, chunk: int, channels: int, bits: int) -> None:
        super().__init__(chunk, channels)
        self.bits = bits
        self.code_bytes = -(-channels * bits // 8)
        self.record_bytes = chunk * self.code_bytes + 4 * channels

    def encode(self, numbers: Numbers) -> Bytes:
        most = np.finfo(np.float16).max
        least = np.clip(numbers.min(axis=0), -most, most).astype(np.float16)
        spread = np.clip(numbers.max(axis=0) - least.astype(np.float32), 0, most) / (2**self.bits - 1)
        step = np.maximum(spread, np.finfo(np.float16).tiny).astype(np.float16)
        codes = np.rint((numbers - least.astype(np.float32)) / step.astype(np.float32))
        codes = np.clip(np.nan_to_num(codes), 0, 2**self.bits - 1).astype(np.uint8)
        return np.concatenate((packed(codes, self.bits).ravel(), step.view(np.uint8), least.view(np.uint8)))

    def decode(self, records: Bytes) -> Numbers:
        return integer_numbers(records, self.chunk, self.channels, self.bits)

    def decode_to(self, records: Bytes, out: torch.Tensor) -> None:
        integer_heads(records, self.chunk, self.bits, out)


class GridCodec(Codec):
    """Groups of a token turned by a Hadamard matrix, their pairs at the nearest points of a Gaussian grid.

    Prefer it below 4 bits: turned numbers are nearly Gaussian, whatever they were, and the grid is the best for those.
    A record has the codes token by token, then the scale of each token's groups in half precision.

    Parameters
    ----------
    turn : Hadamard
        Of the group's size, which divides `channels`.
    grid : (n, 2) float32, n a power of 2

    References
    ----------
    Malinovskii et al., "Pushing the limits of large language model quantization via the linearity theorem", 2024.
    """

    def __init__(self, chunk: int, channels: int, turn: Hadamard, grid: Numbers) -> None:
        super().__init__(chunk, channels)
        self.turn, self.grid = turn, np.ascontiguousarray(grid, dtype=np.float32)
        self.bits = len(grid).bit_length() - 1
        self.groups = channels // turn.order
        self.code_bytes = -(-channels // 2 * self.bits // 8)
        self.record_bytes = chunk * (self.code_bytes + 2 * self.groups)

    def encode(self, numbers: Numbers) -> Bytes:
        groups = numbers.reshape(self.chunk, self.groups, self.turn.order)
        most = np.finfo(np.float16).max
        norm = np.sqrt(np.mean(np.square(groups, dtype=np.float64), axis=-1))
        scale = np.minimum(norm, most).astype(np.float16)
        unit = groups / np.maximum(scale.astype(np.float32), np.finfo(np.float32).tiny)[..., None]
        codes = np.empty((self.chunk, self.channels // 2), dtype=np.uint8)
        nearest_points(self.turn.apply(unit).reshape(-1, 2), self.grid, codes.reshape(-1))
        return np.concatenate((packed(codes, self.bits).ravel(), scale.ravel().view(np.uint8)))

    def decode(self, records: Bytes) -> Numbers:
        return grid_numbers(records, self.chunk, self.channels, self.bits, self.grid, self.turn.base, self.turn.order)


def packed(codes: Bytes, bits: int) -> Bytes:
    """(C, bytes) codes of each token one behind the other, low bits first; (C, n) uint8 codes below 2 ** bits.

    Examples
    --------
    >>> packed(np.array([[1, 2, 3, 0]], dtype=np.uint8), 4).tolist()
    [[33, 3]]
    """
    digits = np.unpackbits(codes[..., None], axis=-1, count=bits, bitorder="little")
    return np.packbits(digits.reshape(len(codes), -1), axis=-1, bitorder="little")
