r"""Windows of places drafted in parallel: tokens a round, and what a denoising takes in rounds, forwards or seconds.

A window of w places keeps drafts up to the first that is rejected, which is replaced; nothing comes after a window kept
whole. With acceptance a_j of its place j, given that those before it were kept, a round gives

.. math:: E_w = \sum_{i=0}^{w-1} a_1 \cdots a_i, \qquad (1 - a^w) / (1 - a) \text{ where all } a_j = a.

Prefer these to the engines' chain formula wherever the law after the last draft costs a forward of its own. Binomial
numbers of masked tokens as in Sahoo and others 2024, "Simple and effective masked diffusion language models".
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from reader_theory.acceptance.base import as_probabilities
from reader_theory.acceptance.intervals import bootstrap_prompts
from reader_theory.errors import require
from reader_theory.estimate import Estimate

if TYPE_CHECKING:
    from reader_theory.documents.diffusion import DiffusedText, DiffusionRun

__all__ = ["AssumedWindows", "CountedWindows", "RoundCost", "WindowAcceptance", "denoising_cost", "window_tokens"]

Floats = NDArray[np.float64]
RoundCost = Callable[[int], float]
"""Cost of a round of so many forwards: 1 for rounds, their number for forwards, or seconds."""


def window_tokens(acceptance: ArrayLike, window: int) -> float:
    """Tokens of a round whose window is not cut off by the end.

    Parameters
    ----------
    acceptance : (K,) in [0, 1], K >= 1
        Of each place of a window, given that those before it were kept; the last holds for all beyond.
    window : int, >= 1

    Examples
    --------
    >>> window_tokens([0.5], 3)
    1.75
    """
    return float(_filled(_chances(acceptance, window)) @ np.arange(1, window + 1))


def denoising_cost(acceptance: ArrayLike, masked: int, window: int, cost: RoundCost = lambda forwards: 1.0) -> Floats:
    """Expected cost of filling in `masked` tokens, in as many denoising steps as `acceptance` has rows.

    Step k of S begins with a binomial number of masked tokens: each is still masked with probability 1 - k / S. Its
    first round is one forward, which fills in the first masked place and drafts for the others; each later one verifies
    a window, cut off at the last masked place.

    Parameters
    ----------
    acceptance : (..., S, K) in [0, 1]
        By denoising step and place of a window; the last place holds for all beyond.
    masked, window : int, >= 1
    cost : callable
        Of a round; one each when left out.

    Returns
    -------
    (...) float64

    Examples
    --------
    >>> float(denoising_cost([[1.0]], masked=9, window=4))
    3.0
    """
    from scipy.stats import binom

    chances = _chances(acceptance, window)
    steps = chances.shape[-2]
    require(
        1 <= steps <= masked,
        "`steps` must be from 1 to the number of masked tokens",
        got=f"{steps} for {masked}",
        fix="Pass the acceptance of each denoising step.",
    )
    left = np.zeros((*chances.shape[:-1], masked + 1))
    for places in range(1, masked):
        size = min(window, places)
        after = left[..., places - np.arange(1, size + 1)]
        left[..., places] = cost(size) + (_filled(chances[..., :size]) * after).sum(-1)
    left[..., 1:] = cost(1) + left[..., :-1]
    left[..., 0] = 0.0
    distribution: Any = binom
    begun = distribution.pmf(np.arange(masked + 1), masked, 1 - np.arange(steps)[:, None] / steps)
    return np.asarray((left * begun).sum((-2, -1)))


class WindowAcceptance(ABC):
    """How often drafts of a window are kept, with what there is of an interval."""

    steps: int
    places: int | None
    """Places of a window that it knows; None for all."""

    @abstractmethod
    def cost(self, masked: int, window: int, cost: RoundCost) -> Estimate:
        """Predicted cost of filling in `masked` tokens; see `denoising_cost`."""


@dataclass(frozen=True, eq=False)
class AssumedWindows(WindowAcceptance):
    """One acceptance for all places and steps, with an interval that somebody gives."""

    acceptance: Estimate
    steps: int
    places: int | None = None

    def cost(self, masked: int, window: int, cost: RoundCost) -> Estimate:
        rates = as_probabilities("acceptance", [self.acceptance.value, self.acceptance.low, self.acceptance.high])
        found = denoising_cost(np.tile(rates[:, None, None], (1, self.steps, 1)), masked, window, cost)
        return Estimate(value=float(found[0]), low=float(found.min()), high=float(found.max()), origin="assumed")


class CountedWindows(WindowAcceptance):
    """What runs counted, by denoising step and place, intervals from resampling prompts.

    A place's acceptance is drawn towards that of its place over all steps, and that to the overall one, by the weight
    of one look each: late places of late steps are seldom reached.

    Parameters
    ----------
    examined, overlap : (P, S, K)
        Of each prompt, or of each document of several: how often a place was verified, and the sum of its acceptance
        probabilities, 1 - TV(p, q).
    """

    def __init__(self, examined: ArrayLike, overlap: ArrayLike) -> None:
        self.sums = np.stack((np.asarray(examined, dtype=np.float64), np.asarray(overlap, dtype=np.float64)), axis=1)
        require(
            self.sums.ndim == 4
            and self.sums[:, 0].sum() > 0
            and bool((self.sums[:, 1] <= self.sums[:, 0] + 1e-6).all()),
            "`examined` and `overlap` must be counts by prompt, denoising step and place, at least one in all",
            got=f"shape {self.sums.shape}, {self.sums[:, 0].sum():.0f} looks",
            fix="Run windows of 2 or more on texts of several masked tokens.",
        )
        self.steps, self.places = self.sums.shape[2:]

    @classmethod
    def of_run(cls, run: DiffusionRun) -> Self:
        """As the texts of a run counted them; texts of one source count together."""
        by_source: dict[str, list[DiffusedText]] = defaultdict(list)
        for text in run.texts:
            by_source[text.source or text.prompt].append(text)
        examined, overlap = (
            [np.sum([getattr(text, name) for text in texts], axis=0) for texts in by_source.values()]
            for name in ("examined", "overlap")
        )
        return cls(examined, overlap)

    def table(self) -> Floats:
        """(S, K) acceptance by denoising step and place."""
        return _shrunk(self.sums.sum(0))

    def cost(self, masked: int, window: int, cost: RoundCost) -> Estimate:
        shape = self.sums.shape[1:]

        def statistic(sums: Floats) -> Floats:
            return denoising_cost(_shrunk(sums.reshape(*sums.shape[:-1], *shape)), masked, window, cost)

        return bootstrap_prompts(self.sums.reshape(len(self.sums), -1), statistic, resamples=400).estimate()


def _shrunk(sums: Floats) -> Floats:
    """(..., S, K) acceptance from (..., 2, S, K) looks and overlaps."""
    looks, kept = sums[..., 0, :, :], sums[..., 1, :, :]
    overall = kept.sum((-2, -1)) / np.maximum(looks.sum((-2, -1)), 1e-9)
    place = (kept.sum(-2) + overall[..., None]) / (looks.sum(-2) + 1)
    return np.asarray(np.clip((kept + place[..., None, :]) / (looks + 1), 0.0, 1.0), dtype=np.float64)


def _filled(chances: Floats) -> Floats:
    """(..., w) probability that a round fills in exactly 1, 2, ..., w places."""
    reach = np.cumprod(np.concatenate((np.ones_like(chances[..., :1]), chances), axis=-1), axis=-1)
    filled = np.concatenate((reach[..., :-2] - reach[..., 1:-1], reach[..., -2:-1]), axis=-1)
    return np.asarray(filled, dtype=np.float64)


def _chances(acceptance: ArrayLike, window: int) -> Floats:
    """(..., window): the last place repeated."""
    chances = np.atleast_1d(as_probabilities("acceptance", acceptance))
    require(
        window >= 1,
        "`window` must be at least 1",
        got=repr(window),
        fix="A window of 1 is one token at a time.",
    )
    return chances[..., np.minimum(np.arange(window), chances.shape[-1] - 1)]
