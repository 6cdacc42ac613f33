"""Acceptance by position with forgetting: what chains of every length would accept now, and how sure that is.

Counts are kept by the length of the chain that gave them, as acceptance at a depth depends on it (`RightRuns`), and
fade with the drafts that come after. The plan's own acceptance stands at the start, as so many drafts, and wherever a
depth has not been drafted since.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from reader_theory.acceptance.runs import RightRuns
from reader_theory.errors import require

__all__ = ["AcceptanceEstimator", "Accepting", "DraftWindow"]

Floats = NDArray[np.float64]
DRAWS = 64
_SPREAD_MEMORY = 20.0
"""Windows over which the spread between windows is averaged."""
_LOWEST, _HIGHEST, _VAGUE = -13.0, 4.59, 0.1
"""Log-odds of a run going on: within the bounds of `RightRuns`, and the information that there is of any."""
_FADED = 1e-3
"""Steps below which what was counted of a length is let go."""


@dataclass(frozen=True)
class DraftWindow:
    """Drafts of one length that were counted together.

    Parameters
    ----------
    steps : float, > 0
        Row-steps that they are a share of: drafts, or all steps where look-ups may find none.
    accepted : (K,) float
        Steps that accepted 1, 2, ..., K tokens or more: K is the length.
    """

    steps: float
    accepted: Sequence[float]

    def __post_init__(self) -> None:
        counts = np.asarray(self.accepted, dtype=np.float64)
        require(
            len(counts) >= 1 and bool(np.isfinite(counts).all()) and 0 < self.steps < np.inf and counts.min() >= 0,
            "a window must have steps above 0 and counts of at least 0 at one depth or more",
            got=f"{self.steps} steps, accepted {counts.tolist()[:8]}",
            fix="Leave out windows in which nothing was drafted.",
        )


@dataclass(frozen=True)
class Accepting:
    """Tokens a step of chains of 0, 1, ..., D tokens: (D + 1,), and draws of them: (R, D + 1)."""

    tokens: Floats
    draws: Floats


class AcceptanceEstimator:
    """Chances that a run of right tokens goes on, refitted from faded counts.

    Parameters
    ----------
    shares : (D,) float, in [0, 1], not increasing
        What the plan says that a chain of D tokens accepts at each depth.
    known : float
        Steps that the plan's word is worth.
    half_life : float
        Steps after which a count weighs half.
    """

    def __init__(self, shares: ArrayLike, *, known: float = 500.0, half_life: float = 30_000.0) -> None:
        self.shares = np.asarray(shares, dtype=np.float64)
        require(
            known > 0 and half_life > 0 and bool(np.isfinite([known, half_life]).all()),
            "`known` and `half_life` must be finite numbers of steps above 0",
            got=f"{known} and {half_life}",
            fix="Thousands of steps are a usual half-life.",
        )
        self.known, self.half_life = known, half_life
        self.counts: dict[int, tuple[float, Floats]] = {}
        self.spread = 1.0
        self._start = _logit(RightRuns.of_shares(self.shares).goes_on)
        self._fitted = self._start

    @property
    def depth(self) -> int:
        """Longest chain that is told of."""
        return len(self.shares)

    def observe(self, window: DraftWindow) -> None:
        """Take a window in; depths beyond `depth` are not looked at."""
        accepted = np.asarray(window.accepted, dtype=np.float64)[: self.depth]
        accepted = np.minimum.accumulate(np.minimum(accepted, window.steps))
        self._weigh_spread(window.steps, accepted)
        faded = 0.5 ** (window.steps / self.half_life)
        kept = {length: (n * faded, a * faded) for length, (n, a) in self.counts.items() if n * faded > _FADED}
        steps, before = kept.get(len(accepted), (0.0, np.zeros(len(accepted))))
        self.counts = kept | {len(accepted): (steps + window.steps, before + accepted)}

    def _weigh_spread(self, steps: float, accepted: Floats) -> None:
        """Variance between windows over the binomial one: tokens of one request are alike. At least 1."""
        reached, right = _conditional(steps, accepted)
        expected = _ratios(RightRuns(_logistic(self._fitted)).shares(len(accepted)))
        variance = np.maximum(reached * expected * (1 - expected), 1e-9)
        seen = reached >= 5
        if seen.any():
            ratio = float(np.mean(np.minimum((right - reached * expected)[seen] ** 2 / variance[seen], 50.0)))
            self.spread = max(1.0, self.spread + (ratio - self.spread) / _SPREAD_MEMORY)

    def fit(self) -> Accepting:
        """What the counts say now."""
        from scipy import optimize

        told = [(self.known, self.known * self.shares, self.spread)]
        told += [(steps, accepted, self.spread) for steps, accepted in self.counts.values()]

        def missed(z: Floats) -> Floats:
            runs = RightRuns(_logistic(z))
            return np.concatenate([_residual(runs, *each) for each in told])

        start = np.clip(self._fitted, _LOWEST + 1e-3, _HIGHEST - 1e-3)
        bounds = (_LOWEST, _HIGHEST)
        solved = cast(Any, optimize).least_squares(missed, start, bounds=bounds, xtol=1e-6, ftol=1e-6)
        self._fitted = np.asarray(solved.x, dtype=np.float64)
        information = np.asarray(solved.jac.T @ solved.jac, dtype=np.float64) + _VAGUE * np.eye(self.depth)
        normal = np.random.default_rng(0).standard_normal((DRAWS, self.depth))
        drawn = self._fitted + normal @ np.linalg.cholesky(np.linalg.inv(information)).T
        return Accepting(_tokens(_logistic(self._fitted)), _tokens(_logistic(drawn)))


def _residual(runs: RightRuns, steps: float, accepted: Floats, spread: float) -> Floats:
    """Depth by depth, given the depth before: independent binomials, in their standard errors."""
    reached, right = _conditional(steps, accepted)
    smoothed = (right + 0.5) / (reached + 1.0)
    weight = np.sqrt((reached + 1e-9) / (spread * smoothed * (1 - smoothed)))
    return weight * (right / np.maximum(reached, 1e-9) - _ratios(runs.shares(len(accepted))))


def _conditional(steps: float, accepted: Floats) -> tuple[Floats, Floats]:
    return np.concatenate([[steps], accepted[:-1]]), accepted


def _ratios(shares: Floats) -> Floats:
    return shares / np.maximum(np.concatenate([[1.0], shares[:-1]]), 1e-12)


def _tokens(goes_on: Floats) -> Floats:
    """(..., D + 1) tokens a step of chains of 0, 1, ..., D."""
    runs = RightRuns(goes_on)
    lengths = range(1, goes_on.shape[-1] + 1)
    return np.stack([np.ones(goes_on.shape[:-1]), *(runs.tokens_per_step(k) for k in lengths)], axis=-1)


def _logit(p: Floats) -> Floats:
    return np.log(p) - np.log1p(-p)


def _logistic(z: Floats) -> Floats:
    return 1.0 / (1.0 + np.exp(-z))
