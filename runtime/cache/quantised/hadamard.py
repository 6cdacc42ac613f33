"""Hadamard matrices of the sizes that heads have: Paley's constructions for the odd part, Sylvester's for the rest."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import hadamard, toeplitz

from reader_theory.errors import InvalidInputError

__all__ = ["Hadamard", "grouping"]

Numbers = NDArray[np.float32]

LARGEST_GROUP = 1024
"""A larger group gains nothing: a scale of 16 bits is then 1/64 of a bit a number."""


@dataclass(frozen=True, eq=False)
class Hadamard:
    """The orthogonal matrix ``base (x) sylvester / sqrt(order)``, by its factors.

    Parameters
    ----------
    base : (m, m) float32 of 1 and -1
    order : int
        m times a power of 2.
    """

    base: Numbers
    order: int

    @cached_property
    def matrix(self) -> Numbers:
        """(order, order) float32, orthogonal."""
        inner = hadamard(self.order // len(self.base))
        return np.kron(self.base, inner).astype(np.float32) / np.float32(np.sqrt(self.order))

    def apply(self, numbers: Numbers) -> Numbers:
        """The matrix times each (..., order) vector; by torch, whose threads NumPy's would wait for."""
        return (torch.from_numpy(numbers) @ torch.from_numpy(self.matrix).T).numpy()


@lru_cache
def hadamard_of(order: int) -> Hadamard | None:
    """The one of this order with the smallest base; None where neither construction has one.

    Examples
    --------
    >>> found = hadamard_of(192)
    >>> found.base.shape, bool(np.allclose(found.matrix @ found.matrix.T, np.eye(192), atol=1e-5))
    ((12, 12), True)
    >>> hadamard_of(6) is None
    True
    """
    if order < 1:
        return None
    odd = order & -order
    small = order // odd
    if small == 1:
        return Hadamard(np.ones((1, 1), dtype=np.float32), order)
    sizes = [small * 2**power for power in range(2, odd.bit_length())]
    bases = (found for size in sizes if (found := _paley(size)) is not None)
    base = next(bases, None)
    return None if base is None else Hadamard(base, order)


def _paley(size: int) -> Numbers | None:
    """A Hadamard matrix of this size from quadratic residues, of q = size - 1 or size / 2 - 1, where that is prime."""
    if size % 4 == 0 and _is_prime(size - 1) and (size - 1) % 4 == 3:
        residues = _residues(size - 1)
        skew = np.block([[np.zeros((1, 1)), np.ones((1, size - 1))], [-np.ones((size - 1, 1)), residues]])
        return (skew + np.eye(size)).astype(np.float32)
    half = size // 2
    if size % 4 == 0 and _is_prime(half - 1) and (half - 1) % 4 == 1:
        core = np.block([[np.zeros((1, 1)), np.ones((1, half - 1))], [np.ones((half - 1, 1)), _residues(half - 1)]])
        plus, minus = np.array([[1, 1], [1, -1]]), np.array([[1, -1], [-1, -1]])
        return (np.kron(core, plus) + np.kron(np.eye(half), minus)).astype(np.float32)
    return None


def _is_prime(q: int) -> bool:
    return q > 2 and all(q % d for d in range(2, int(q**0.5) + 1))


def _residues(q: int) -> NDArray[np.float64]:
    """(q, q): 1 where i - j is a square modulo q, -1 where it is none, 0 on the diagonal."""
    squares = {i * i % q for i in range(1, q)}
    row = np.array([0 if i == 0 else 1 if i in squares else -1 for i in range(q)], dtype=np.float64)
    return toeplitz(row, np.roll(row[::-1], 1))


def grouping(heads: int, head_dim: int) -> Hadamard:
    """The Hadamard matrix of as many whole heads as one takes, at most `LARGEST_GROUP` numbers.

    Raises
    ------
    InvalidInputError
        Where not even one head can be turned.
    """
    for count in range(heads, 0, -1):
        if heads % count == 0 and count * head_dim <= LARGEST_GROUP and head_dim % 2 == 0:
            found = hadamard_of(count * head_dim)
            if found is not None:
                return found
    raise InvalidInputError(
        "heads must have a size that a Hadamard matrix has, alone or some of them together",
        got=f"{heads} heads of {head_dim}; a group has at most {LARGEST_GROUP} numbers: a power of 2, "
        "or 2^k m with m from Paley's constructions (12, 20, 24, 28, ...)",
        fix="Use --kv int8 or --kv int4, which turn nothing.",
    )
