"""Held out: what a choice among many on some documents gives on the others."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Weights", "keeps_up", "optimism", "spreads"]

Floats = NDArray[np.float64]
FOLDS, DRAWS = 4, 8
"""Parts that documents fall in, and how often they are drawn."""


class Weights(NamedTuple):
    """What V policies did on P prompts.

    Attributes
    ----------
    tokens : (P,) float64
        Tokens of each prompt, whoever drafts.
    steps : (V, P) float64
    seconds : (V,) float64
        Of one step.
    documents : (P,) int
        Document of each prompt.
    """

    tokens: Floats
    steps: Floats
    seconds: Floats
    documents: NDArray[np.intp]

    def rates(self, among: NDArray[np.bool_] | None = None) -> Floats:
        """(V,) tokens a second on these prompts, or on all."""
        some = slice(None) if among is None else among
        return self.tokens[some].sum() / (self.steps[:, some].sum(axis=1) * self.seconds)

    def splits(self, seed: int, draws: int) -> Iterator[NDArray[np.bool_]]:
        """(P,) which prompts are held out: each document once a draw, all of its prompts together."""
        rng = np.random.default_rng(seed)
        for _ in range(draws):
            part = (rng.permutation(int(self.documents.max()) + 1) % FOLDS)[self.documents]
            for fold in range(FOLDS):
                if (out := part == fold).any() and not out.all():
                    yield out


def optimism(weights: Weights, seed: int) -> float:
    """Share by which the winner on some documents falls back on others; 0 at least."""
    whole = weights.rates()
    seen: list[float] = []
    unseen: list[float] = []
    for out in weights.splits(seed, 1):
        inside, outside = weights.rates(~out), weights.rates(out)
        winner = int(np.argmax(inside))
        usual = float(whole[winner] / whole.mean())
        seen.append(float(inside[winner] / inside.mean()) / usual)
        unseen.append(float(outside[winner] / outside.mean()) / usual)
    return max(0.0, 1.0 - float(np.mean(unseen)) / float(np.mean(seen))) if seen else 0.0


def keeps_up(weights: Weights, family: NDArray[np.bool_], seed: int) -> bool:
    """Whether the best of all on some documents is, on the others, no worse than the best of the `family` there.

    Parameters
    ----------
    weights : Weights
    family : (V,) bool
        Policies that nobody searched for; one at least.
    seed : int
        Draws the documents that are held out.
    """
    gains: list[float] = []
    for out in weights.splits(seed, DRAWS):
        inside, outside = weights.rates(~out), weights.rates(out)
        plain = int(np.argmax(np.where(family, inside, -np.inf)))
        gains.append(float(np.log(outside[int(np.argmax(inside))] / outside[plain])))
    return not gains or float(np.mean(gains)) >= 0.0


def spreads(weights: Weights) -> Floats:
    """(V,) standard error of each rate over the rate, by leaving out one document after the other."""
    count = int(weights.documents.max(initial=0)) + 1
    if count < 2:
        return np.zeros(len(weights.seconds))
    left = np.array([weights.rates(weights.documents != each) for each in range(count)])
    return np.sqrt((count - 1) * np.mean((left - left.mean(axis=0)) ** 2, axis=0)) / weights.rates()
