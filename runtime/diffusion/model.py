"""A masked model as a denoiser sees it: rows with masked tokens in, laws of single places out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reader_theory.errors import require
from runtime.diffusion.params import DiffusionParams

__all__ = ["MaskedModel", "MaskedTable"]


class MaskedModel(ABC):
    """A model of masked tokens given all others, before and after.

    Attributes
    ----------
    vocabulary : int
        Tokens that it has laws over, the mask among them, at probability 0.
    mask_token : int
    max_positions : int
        Tokens of a row at most.
    first_place : int
        First place that may be masked.
    head_sees : int
        Tokens before a place that the model's draft head takes in; 0 where it has none.
    """

    vocabulary: int
    mask_token: int
    max_positions: int
    name: str
    first_place: int = 0
    head_sees: int = 0

    @abstractmethod
    def laws(self, rows: NDArray[np.int64], places: NDArray[np.int64], params: DiffusionParams) -> NDArray[Any]:
        """Laws of single places of each row, given all tokens of the row that are not masked.

        Parameters
        ----------
        rows : (B, T) int64
        places : (B, P) int64
            Masked places of each row; the last may stand several times.
        params : DiffusionParams
            Temperature and filters, which are part of the law.

        Returns
        -------
        (B, P, V) float64, or object array of fractions; sums to 1, 0 at the mask
        """

    def look(
        self, rows: NDArray[np.int64], own: NDArray[np.int64], ahead: NDArray[np.int64], params: DiffusionParams
    ) -> tuple[NDArray[Any], Sequence[Any]]:
        """Laws of `own` places, (B, P, V), and what `head_law` reads of those `ahead`, (B, Q), from one forward."""
        raise NotImplementedError(f"{self.name} has no draft head")

    def head_law(self, state: Any, before: tuple[int, ...], params: DiffusionParams) -> NDArray[Any]:
        """(V,) law of a draft: what `look` gave of its place, and the `head_sees` tokens before it, nearest first."""
        raise NotImplementedError(f"{self.name} has no draft head")


class MaskedTable(MaskedModel):
    """Laws known exactly, to prove a denoiser by.

    Parameters
    ----------
    law : callable
        (row as a tuple of T tokens, place) -> V fractions or floats that sum to 1. The laws of two places need not fit
        together: then only the chain from left to right has the law that it says.
    vocabulary : int
        Tokens, the mask last.
    head : callable, optional
        (row, place, the token before the place) -> law of a draft.
    """

    def __init__(
        self,
        law: Callable[[tuple[int, ...], int], Any],
        vocabulary: int,
        head: Callable[[tuple[int, ...], int, int], Any] | None = None,
    ) -> None:
        self.law, self.vocabulary, self.head = law, vocabulary, head
        self.head_sees = int(head is not None)
        self.mask_token, self.max_positions, self.name = vocabulary - 1, 1 << 20, "table"

    def laws(self, rows: NDArray[np.int64], places: NDArray[np.int64], params: DiffusionParams) -> NDArray[Any]:
        require(
            params.plain,
            "a table's laws must be sampled as they are: temperature 1, no filter",
            got=f"temperature {params.temperature}, top_k {params.top_k}, top_p {params.top_p}",
            fix="Write temperature and filters into the table.",
        )
        told = [
            [self.law(tuple(row.tolist()), int(place)) for place in places_of]
            for row, places_of in zip(rows, places, strict=True)
        ]
        return np.array(told)

    def look(
        self, rows: NDArray[np.int64], own: NDArray[np.int64], ahead: NDArray[np.int64], params: DiffusionParams
    ) -> tuple[NDArray[Any], Sequence[Any]]:
        seen = [[(tuple(row.tolist()), int(place)) for place in of] for row, of in zip(rows, ahead, strict=True)]
        return self.laws(rows, own, params), seen

    def head_law(self, state: Any, before: tuple[int, ...], params: DiffusionParams) -> NDArray[Any]:
        assert self.head is not None
        return np.array(self.head(*state, *before))
