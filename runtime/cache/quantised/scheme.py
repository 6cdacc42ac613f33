"""Which codec each layer's keys and values go through, and from what they are predicted."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from reader_theory.errors import require
from reader_theory.memory import Window
from runtime.cache.quantised.codec import Codec, GridCodec, IntegerCodec
from runtime.cache.quantised.grid import gaussian_grid
from runtime.cache.quantised.hadamard import grouping

__all__ = ["Aqua", "Codecs", "Integers", "Predictor", "Scheme"]

Numbers = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Predictor:
    """A layer's keys from those of the layer before, and its values from those and its own keys, as they are read back.

    Parameters
    ----------
    key : (kv + 1, kv) float32
        The last row is the constant.
    value : (2 kv + 1, kv) float32
        Of the layer's keys, then the values of the layer before.
    """

    key: Numbers
    value: Numbers

    def keys(self, before: tuple[Numbers, Numbers]) -> Numbers:
        """(n, kv) keys from (n, kv) keys and values of the layer before."""
        return _affine(self.key, before[0])

    def values(self, keys: Numbers, before: tuple[Numbers, Numbers]) -> Numbers:
        """(n, kv) values, given this layer's keys."""
        return _affine(self.value, keys, before[1])

    @property
    def nbytes(self) -> int:
        """Bytes of its weights."""
        return self.key.nbytes + self.value.nbytes


def _affine(weight: Numbers, *inputs: Numbers) -> Numbers:
    """The inputs' products with the rows of `weight` that are theirs, and its last row.

    By torch: NumPy's threads would wait for torch's, which spin, in every layer of a forward.
    """
    held, first = torch.from_numpy(weight), 0
    sums = held[-1]
    for each in inputs:
        sums = torch.addmm(sums, torch.from_numpy(each), held[first : first + each.shape[1]])
        first += each.shape[1]
    return sums.numpy()


@dataclass(frozen=True, eq=False)
class Codecs:
    """Of one layer: how keys and values are written, after what predicts them is taken off."""

    keys: Codec
    values: Codec
    predictor: Predictor | None = None

    def write(
        self, keys: Numbers, values: Numbers, before: tuple[Numbers, Numbers] | None
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8], tuple[Numbers, Numbers]]:
        """Records of a chunk's (C, kv) keys and values, and what they are read back as."""
        guess = None if self.predictor is None or before is None else self.predictor.keys(before)
        key_record = self.keys.encode(keys if guess is None else keys - guess)
        read = self._read(self.keys, key_record[None], guess)
        guess = None if self.predictor is None or before is None else self.predictor.values(read, before)
        value_record = self.values.encode(values if guess is None else values - guess)
        return key_record, value_record, (read, self._read(self.values, value_record[None], guess))

    def read(
        self, keys: NDArray[np.uint8], values: NDArray[np.uint8], before: tuple[Numbers, Numbers] | None
    ) -> tuple[Numbers, Numbers]:
        """(n C, kv) keys and values of (n, bytes) records."""
        guess = None if self.predictor is None or before is None else self.predictor.keys(before)
        read = self._read(self.keys, keys, guess)
        guess = None if self.predictor is None or before is None else self.predictor.values(read, before)
        return read, self._read(self.values, values, guess)

    def _read(self, codec: Codec, records: NDArray[np.uint8], guess: Numbers | None) -> Numbers:
        found = codec.decode(records)
        return found if guess is None else np.add(found, guess, out=found)


class Scheme(ABC):
    """A kind of quantised cache: makes each layer's codecs.

    Attributes
    ----------
    name : str
        As ``--kv`` has it.
    window : Window
    file : str
        Document that it was read from, if any.
    unturned : bool
        Whether keys are written as they are before their rotary positions.
    by_record : bool
        Whether a record alone tells what attention reads: nothing predicts it, and keys are written turned.
    shared_bytes : int
        Held once: predictors and grids.
    """

    name: str
    window: Window
    file: str = ""
    unturned: bool = False
    by_record: bool = False
    shared_bytes: int = 0

    @property
    def named(self) -> str:
        """What ``--kv`` was given."""
        return f"{self.name}={self.file}" if self.file else self.name

    @abstractmethod
    def codecs(self, layer: int, keys: tuple[int, int], values: tuple[int, int]) -> Codecs:
        """Of a layer, given heads and head size of keys and of values."""

    def check(self, layers: int, heads: int, head_dim: int) -> None:
        """Refuse a model that it was not made for."""
        return None


@dataclass(frozen=True, eq=False)
class Integers(Scheme):
    """Evenly spaced steps of each channel over a chunk; any model that has an ordinary cache."""

    bits: int
    window: Window = field(default_factory=Window)
    file: str = ""
    by_record = True

    @property
    def name(self) -> str:
        return f"int{self.bits}"

    def codecs(self, layer: int, keys: tuple[int, int], values: tuple[int, int]) -> Codecs:
        sizes = (heads * size for heads, size in (keys, values))
        of_keys, of_values = (IntegerCodec(self.window.chunk, size, self.bits) for size in sizes)
        return Codecs(of_keys, of_values)


@dataclass(frozen=True, eq=False)
class Aqua(Scheme):
    """What is left of keys and values once the layer before has predicted them, on a Gaussian grid.

    Parameters
    ----------
    bits : tuple of (int, int)
        Bits a number of keys and of values, 1 to 4, for each layer; scales come on top.
    predictors : tuple of Predictor
        Of layers 1, 2, ...; none for the direct form, which writes keys and values themselves.
    fitted_to : (int, int, int), optional
        Layers, KV heads and their size of the target that it was fitted to.

    References
    ----------
    Shutova et al., "Cache me if you must: adaptive key-value quantization for large language models", 2025.
    """

    name: str
    bits: tuple[tuple[int, int], ...]
    predictors: tuple[Predictor, ...] = ()
    window: Window = field(default_factory=Window)
    fitted_to: tuple[int, int, int] | None = None
    file: str = ""
    unturned: bool = True

    def check(self, layers: int, heads: int, head_dim: int) -> None:
        grouping(heads, head_dim)
        wanted = self.fitted_to or (len(self.bits), heads, head_dim)
        require(
            wanted == (layers, heads, head_dim),
            f"{self.name} must be run on the target that it was fitted to",
            got=f"{layers} layers of {heads} KV heads of {head_dim}; it was fitted to {wanted[0]} of {wanted[1]} of "
            f"{wanted[2]}",
            fix="Pass that target, or fit this one with `reader kv fit`.",
        )

    @property
    def shared_bytes(self) -> int:
        grids = {each for pair in self.bits for each in pair}
        return sum(each.nbytes for each in self.predictors) + sum(8 * 4**each for each in grids)

    def codecs(self, layer: int, keys: tuple[int, int], values: tuple[int, int]) -> Codecs:
        made = (
            GridCodec(self.window.chunk, heads * size, grouping(heads, size), gaussian_grid(4**bits))
            for (heads, size), bits in zip((keys, values), self.bits[layer], strict=True)
        )
        return Codecs(*made, predictor=self.predictors[layer - 1] if layer and self.predictors else None)
