"""Tally: what an engine says of every step, added up until it is looked at."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from runtime.live.estimator import DraftWindow

__all__ = ["Tally"]


class Tally:
    """Sums over steps since the last `taken`."""

    def __init__(self) -> None:
        self._clear()

    def _clear(self) -> None:
        self.drafts: dict[int, float] = {}
        self.accepted: dict[int, NDArray[np.float64]] = {}
        self.steps, self.rows, self.cache = 0, 0.0, 0.0

    def step(self, running: int, cache: float) -> None:
        """One step of `running` requests with a share of the cache in use."""
        if running > 0:
            self.steps, self.rows, self.cache = self.steps + 1, self.rows + running, self.cache + cache

    def drafted(self, drafts: float, draft_tokens: Sequence[float], accepted: Sequence[float]) -> None:
        """A step's drafts: how many, how many of them had a token at each position, and accepted as far as it.

        The length is the deepest position that any draft of the step had: a step has one. A draft that ended earlier
        counts as rejected there, as in what is planned.
        """
        length = max((i + 1 for i, count in enumerate(draft_tokens) if count > 0), default=0)
        if drafts <= 0 or length == 0:
            return
        counts = np.asarray(accepted[:length], dtype=np.float64)
        self.drafts[length] = self.drafts.get(length, 0.0) + drafts
        self.accepted[length] = self.accepted.get(length, np.zeros(length)) + counts

    def taken(self) -> tuple[list[DraftWindow], float, float]:
        """Windows, mean running requests, mean share of the cache in use; the sums begin anew."""
        windows = [DraftWindow(self.drafts[k], self.accepted[k].tolist()) for k in self.drafts]
        steps = max(self.steps, 1)
        rows, cache = self.rows / steps, self.cache / steps
        self._clear()
        return windows, rows, cache
