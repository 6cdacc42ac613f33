"""A race whose first finisher has a given law: what couples draft and target by shared noise."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["race"]


def race(law: NDArray[Any], noise: NDArray[np.float64], places: int = 1) -> list[int]:
    """Tokens in the order in which they finish a race: token i takes an exponential time of rate law[i].

    The first has exactly the law; the first `places` are draws without replacement.

    Parameters
    ----------
    law : (V,) float64
        Rates; tokens of rate 0 never finish.
    noise : (V,) float64 in [0, 1)
        Row of the coupling stream for this depth.
    places : int
        How many finishers to return; fewer where fewer have a positive rate.
    """
    rates = np.asarray(law, dtype=np.float64)
    runners = np.flatnonzero(rates > 0)
    times = -np.log1p(-np.asarray(noise, dtype=np.float64)[runners]) / rates[runners]
    return runners[np.argsort(times, kind="stable")[:places]].tolist()
