"""When to draft otherwise: a schedule over batch and context that is changed where that pays, and not at every whim.

Pure: time comes in as numbers, acceptance as an estimate with draws, load as weights. A cell moves to a better length
where the gain is above a margin and surely one; the moves are made together, when what they gain under the load that
is served pays for the change within a horizon, and not too soon after the last change. Turning drafts off is not free:
a server that can draft and does not is slower than one that cannot.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reader_theory.errors import require
from runtime.live.estimator import Accepting
from runtime.live.menu import Menu

__all__ = ["LiveSchedule", "Switching"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Switching:
    """What a change must bring.

    Parameters
    ----------
    margin : float
        Least gain of a cell that moves, over its rate.
    confidence : float
        Least chance that it is a gain.
    rest_s : float
        Least seconds between two changes.
    switch_s : float
        Seconds of service that a change costs.
    horizon_s : float
        Seconds within which the gain must pay for it.
    off_loss : float
        Share of plain decoding's rate that is lost where a server that can draft does not; 6.6 to 21.6 % are reported.
    """

    margin: float = 0.01
    confidence: float = 0.95
    rest_s: float = 600.0
    switch_s: float = 5.0
    horizon_s: float = 3600.0
    off_loss: float = 0.066

    def __post_init__(self) -> None:
        told = (self.margin, self.rest_s, self.switch_s, self.horizon_s)
        require(
            all(np.isfinite(x) and x >= 0 for x in told) and 0.5 <= self.confidence < 1 and 0 <= self.off_loss < 1,
            "margins and seconds must be finite and at least 0, `confidence` in [0.5, 1), `off_loss` in [0, 1)",
            got=self,
            fix="Leave out what is not known.",
        )


class LiveSchedule:
    """Lengths by context and batch.

    Attributes
    ----------
    lengths : (C, B) int
    changed_s : float
        When they last changed; minus infinity before.
    """

    def __init__(self, menu: Menu, switching: Switching) -> None:
        self.menu, self.switching = menu, switching
        self.lengths = menu.chosen.copy()
        self.changed_s = -np.inf

    def length(self, context: float, batch: float) -> int:
        """Tokens drafted there."""
        return int(self.lengths[self.menu.place(context, batch)])

    def decide(self, now_s: float, accepting: Accepting, weights: Floats) -> bool:
        """Change the lengths where it pays; whether they changed.

        Parameters
        ----------
        now_s : float
            Seconds on a clock that never goes back.
        weights : (C, B) float
            Shares of the time that each cell is served; cells that are not served move along when others do.
        """
        if now_s - self.changed_s < self.switching.rest_s:
            return False
        best, gain, sure = self._moves(accepting)
        moves = (gain >= self.switching.margin) & (sure >= self.switching.confidence)
        total = float((weights * gain)[moves].sum()) / max(float(weights.sum()), 1e-12)
        if not moves.any() or total <= 0 or total * self.switching.horizon_s < self.switching.switch_s:
            return False
        self.lengths, self.changed_s = np.where(moves, best, self.lengths), now_s
        return True

    def promising(self, accepting: Accepting, weights: Floats) -> Ints | None:
        """(C, B) the lengths with the moves that would gain and are not sure to; None where they gain too little."""
        best, gain, sure = self._moves(accepting)
        moves = (gain >= self.switching.margin) & (sure < self.switching.confidence)
        total = float((weights * gain)[moves].sum()) / max(float(weights.sum()), 1e-12)
        return np.where(moves, best, self.lengths) if total >= self.switching.margin else None

    def best_drafting(self, accepting: Accepting) -> Ints:
        """(C, B) the fastest lengths of those that draft, whatever a change costs."""
        rates = self.menu.rates(accepting.tokens, self.switching.off_loss)
        return 1 + np.argmax(rates[..., 1:], axis=-1)

    def _moves(self, accepting: Accepting) -> tuple[Ints, Floats, Floats]:
        """Best length of each cell, its gain over the present one, and the chance that it is one."""
        off = self.switching.off_loss
        rates, drawn = self.menu.rates(accepting.tokens, off), self.menu.rates(accepting.draws, off)
        best = np.argmax(rates, axis=-1)
        there, here = (_taken(rates, lengths) for lengths in (best, self.lengths))
        gain = there / np.maximum(here, 1e-12) - 1.0
        sure = np.mean(_taken(drawn, best) > _taken(drawn, self.lengths), axis=0)
        return best, gain, sure


def _taken(rates: Floats, lengths: Ints) -> Floats:
    index = np.broadcast_to(lengths, rates.shape[:-1])[..., None]
    return np.take_along_axis(rates, index, axis=-1)[..., 0]
