"""Forwards that a drafter takes for a tree: declared by the drafter, carried by documents, charged by every plan."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field

from reader_theory.documents.base import Frozen

__all__ = ["DraftForwards"]


class DraftForwards(Frozen):
    """Which forwards a drafter takes for a tree: one or more a level, one or more for a whole block, or none.

    ``levels``: the forward that takes in the tokens emitted since offers the first level, and each further level costs
    one over the nodes above it. ``block``: one forward offers every level. ``lookup``: no forward, a look-up a row.
    """

    kind: Literal["levels", "block", "lookup"] = "levels"
    times: int = Field(default=1, ge=1, description="how often each is run: two a level for a cascade of two models")
    masks: int = Field(
        default=0, ge=0, description="tokens a row that a block's forward has for each level, beside those to take in"
    )
    rooted: bool = Field(
        default=False,
        exclude_if=lambda each: not each,
        description="whether the last token taken in offers a block's first level, which then needs none of these",
    )

    def sizes(self, widths: ArrayLike, pending: float = 1.0) -> NDArray[np.float64]:
        """Tokens a row of each forward for a tree; a look-up counts as one of a single token.

        Parameters
        ----------
        widths : (D,)
            Nodes a row below which there are others, by level, that of the root first; empty where nothing is drafted.
        pending : float
            Tokens that were emitted since the drafter last ran.

        Examples
        --------
        >>> DraftForwards().sizes([1, 2, 2], pending=3).tolist()
        [3.0, 2.0, 2.0]
        >>> DraftForwards(kind="block", masks=1).sizes([1, 1, 1, 1], pending=3).tolist()
        [7.0]
        >>> DraftForwards(kind="block", masks=1, rooted=True).sizes([1, 1, 1, 1], pending=3).tolist()
        [6.0]
        """
        above = np.asarray(widths, dtype=np.float64)
        if not above.size:
            return np.empty(0)
        masked = above.size - self.rooted
        first = {"levels": pending, "block": pending + self.masks * masked, "lookup": 1.0}[self.kind]
        return np.repeat([first, *(above[1:] if self.kind == "levels" else ())], self.times)
