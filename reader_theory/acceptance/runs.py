r"""Runs of right tokens: how far a drafter goes on being right, and so what a chain of any length accepts.

Prefer it where an engine counted one chain of K tokens and another length is asked about. A step that is accepted whole
leaves its run unfinished, and the next step begins inside it; with a shorter chain that happens oftener. So acceptance
by depth is not the same at every length, and cutting the counted depths short understates a shorter chain (copied
text by a tenth). Runs are: after each mistake one begins, and goes on past its token d with probability c_d, the last
one repeated. A chain of k tokens cuts a run of L into floor(L / (k + 1)) whole steps and a last one, so that

.. math:: s_d(k) = \sum_m G_{m(k+1)+d} / \sum_m G_{m(k+1)}, \qquad G_j = c_1 \cdots c_j,

is the share of its steps that accept d tokens or more. Counted shares give c; c gives those of every k. Renewal theory
(Feller 1968, chapter XIII); exact where a draft is right by the position, not by its depth.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from reader_theory.errors import require

__all__ = ["RightRuns"]

Floats = NDArray[np.float64]
LEAST, MOST = 1e-6, 0.99
"""Bounds of a continuation: a run ends some time."""
HORIZON = 700
"""Tokens of a run that are looked at: what is beyond them has the chance 0.99 ** 700 at most."""


@dataclass(frozen=True, eq=False)
class RightRuns:
    """Chances that a run of right tokens goes on.

    Parameters
    ----------
    goes_on : (..., K) float64, in [0, 1]
        ``goes_on[d]``: probability that token d + 1 after a mistake is right, given that those before it were.
    """

    goes_on: Floats

    def __init__(self, goes_on: ArrayLike) -> None:
        values = np.asarray(goes_on, dtype=np.float64)
        require(
            values.ndim >= 1 and values.shape[-1] >= 1 and bool(((values >= 0) & (values <= 1)).all()),
            "`goes_on` must be probabilities, at least one",
            got=f"shape {values.shape}",
            fix="Pass the chances of one drafter by depth.",
        )
        object.__setattr__(self, "goes_on", np.clip(values, LEAST, MOST))

    @classmethod
    def of_shares(cls, shares: ArrayLike) -> Self:
        """From what a chain of K tokens was counted to accept.

        Parameters
        ----------
        shares : (K,) float64, in [0, 1], not increasing
            Share of its steps, those without a draft too, that accepted 1, 2, ... tokens or more.

        Examples
        --------
        >>> RightRuns.of_shares([0.8, 0.4]).shares(2).round(6).tolist()
        [0.8, 0.4]
        """
        counted = np.asarray(shares, dtype=np.float64)
        require(
            counted.ndim == 1
            and counted.size >= 1
            and bool((np.diff(counted, prepend=1.0) <= 1e-9).all() and (counted >= 0).all()),
            "`shares` must be (K,) numbers in [0, 1] that do not increase",
            got=counted.tolist(),
            fix="Divide the steps that accepted 1, 2, ... tokens by all steps.",
        )
        from scipy import optimize

        solve = cast(Any, optimize).least_squares
        start = _logit(np.clip(counted / np.maximum(np.concatenate([[1.0], counted[:-1]]), LEAST), 0.02, 0.98))
        bounds = (_logit(np.array(LEAST)) - 1e-9, _logit(np.array(MOST)) + 1e-9)

        def missed(z: Floats) -> Floats:
            return cls(_logistic(z)).shares(len(counted)) - counted

        solved = solve(missed, start, bounds=bounds)
        return cls(_logistic(np.asarray(solved.x, dtype=np.float64)))

    def shares(self, length: int) -> Floats:
        """(..., length) share of the steps of a chain of `length` tokens that accept 1, 2, ... tokens or more."""
        reached, starts = self._reached, slice(0, None, length + 1)
        steps = reached[..., starts].sum(axis=-1)
        found = [reached[..., depth :: length + 1].sum(axis=-1) / steps for depth in range(1, length + 1)]
        return np.stack(found, axis=-1)

    def tokens_per_step(self, length: int) -> Floats:
        """(...) mean tokens of a step, the bonus token counted."""
        return 1.0 + self.shares(length).sum(axis=-1)

    def coverage(self, length: int, counted: float, counted_length: int) -> Floats:
        """(...) share of steps that have a draft, where it was `counted` at another length.

        Inside a run there is always one: what is missing is missing after a mistake.
        """
        inside = self._inside(counted_length)
        fresh = np.clip(counted * (1 + inside) - inside, 0.0, 1.0)
        now = self._inside(length)
        return (fresh + now) / (1 + now)

    def _inside(self, length: int) -> Floats:
        """(...) steps that begin inside a run, for each that begins after a mistake."""
        return self._reached[..., length + 1 :: length + 1].sum(axis=-1)

    @cached_property
    def _reached(self) -> Floats:
        """(..., HORIZON + 1) chance that a run has 0, 1, ... tokens or more."""
        last = np.repeat(self.goes_on[..., -1:], max(HORIZON - self.goes_on.shape[-1], 0), axis=-1)
        whole = np.concatenate([np.ones_like(self.goes_on[..., :1]), self.goes_on, last], axis=-1)
        return np.asarray(np.cumprod(whole, axis=-1), dtype=np.float64)


def _logit(p: Floats) -> Floats:
    return np.log(p) - np.log1p(-p)


def _logistic(z: Floats) -> Floats:
    return 1.0 / (1.0 + np.exp(-z))
