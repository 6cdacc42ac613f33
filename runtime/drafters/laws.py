"""Laws of the neural draft at nodes of a tree, as the compiled growth reads them."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from reader_theory.documents.policy import OFFERS, SourceMap
from runtime.retrieval.bodies import laws as kernel

if TYPE_CHECKING:
    import torch

__all__ = ["NeuralLaws", "gridded"]

_SLOPE = 1e-3
"""What a map rises at least, so that equal acceptances keep the order of their scores."""


@lru_cache(maxsize=64)
def gridded(maps: tuple[SourceMap, ...], trust: float) -> NDArray[np.float64]:
    """Maps on the grid of the compiled body, and the trust behind them."""
    grid = np.linspace(0.0, 1.0, kernel.GRID + 1)
    found = {one.offer: one for one in maps}
    rows = [grid if offer not in found else _on_grid(found[offer], grid) for offer in OFFERS]
    table = np.append(np.concatenate(rows), trust)
    table.flags.writeable = False
    return table


def _on_grid(one: SourceMap, grid: NDArray[np.float64]) -> NDArray[np.float64]:
    rough = np.interp(grid, [0.0, *one.score], [0.0, *one.acceptance])
    return np.minimum((1 - _SLOPE) * rough + _SLOPE * grid, 1.0)


class NeuralLaws:
    """The laws of each row of a batch: law 0 at its root, the others at nodes below, parents first.

    Parameters
    ----------
    rows : int
    most : int
        Laws that a row may have.
    width : int
        Tokens of a law.
    maps : (MAPS_SIZE,) float64
        From `gridded`.
    """

    def __init__(self, rows: int, most: int, width: int, maps: NDArray[np.float64]) -> None:
        self.tokens = np.zeros((rows, most, width), np.int32)
        self.chances = np.zeros((rows, most, width), np.float64)
        self.parents, self.of = np.full((rows, most), -1, np.int32), np.full((rows, most), -1, np.int32)
        self.slots = np.full((rows, most), -1, np.int64)
        self.counts = np.zeros(rows, np.int64)
        self.width, self._maps = width, maps
        self._headers = np.zeros((rows, kernel.HEADER), np.int64)
        self._headers[:, kernel.WIDTH], self._headers[:, kernel.MAPS] = width, maps.ctypes.data
        for word, array in (
            (kernel.TOKENS, self.tokens),
            (kernel.CHANCES, self.chances),
            (kernel.PARENTS, self.parents),
            (kernel.OF, self.of),
        ):
            self._headers[:, word] = array.ctypes.data + array.strides[0] * np.arange(rows)
        self.addresses = self._headers.ctypes.data + self._headers.strides[0] * np.arange(rows)

    def clear(self) -> None:
        """No laws at any row."""
        self.counts[:] = 0
        self._headers[:, kernel.COUNT] = 0

    def top(self, logits: torch.Tensor) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
        """Likeliest tokens of (rows, Q, V) logits and their probabilities, each (rows, Q, width), descending.

        Where V is below the width, the rest is token 0 with probability 0, which nothing offers.
        """
        best = logits.float().softmax(dim=-1).topk(min(self.width, logits.shape[-1]), dim=-1)
        missing = ((0, 0), (0, 0), (0, self.width - best.values.shape[-1]))
        tokens = np.pad(best.indices.cpu().numpy().astype(np.int32), missing)
        chances = np.fmax(best.values.cpu().numpy().astype(np.float64), 0.0)  # NaN is no chance
        return tokens, np.pad(chances, missing)

    def add(
        self,
        row: int,
        parents: NDArray[np.integer],
        of: NDArray[np.integer],
        slots: NDArray[np.integer],
        tokens: NDArray[np.int32],
        chances: NDArray[np.float64],
    ) -> None:
        """Append n laws to a row.

        Parameters
        ----------
        parents, of : (n,) int
            Law that each comes after, and the token between.
        slots : (n,) int
            Place of its node among the draft's scratch entries; -1 for the root.
        tokens, chances : (n, width)
        """
        low = int(self.counts[row])
        high = low + len(parents)
        self.parents[row, low:high], self.of[row, low:high], self.slots[row, low:high] = parents, of, slots
        self.tokens[row, low:high], self.chances[row, low:high] = tokens, chances
        self.counts[row] = self._headers[row, kernel.COUNT] = high
