"""Pick a token by the inverse of its law: never a token of probability zero, never past the vocabulary."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["pick_token"]


def pick_token(law: Any, uniform: Any) -> int:
    """The first token whose cumulative probability exceeds ``uniform * total``.

    The law is scaled by its own sum, so that rounding in the sum biases no token and the last one is not favoured.

    Parameters
    ----------
    law : (V,) float64, or object array of fractions; entries >= 0, sum > 0
    uniform : of the same kind, in [0, 1)

    Examples
    --------
    >>> [pick_token(np.array([0.0, 0.5, 0.5, 0.0]), uniform) for uniform in (0.0, 0.5, 1 - 2**-53)]
    [1, 2, 2]
    """
    cumulative: Any = np.cumsum(law)
    token = int(cumulative.searchsorted(uniform * cumulative[-1], side="right"))
    return token if token < len(law) else int(np.flatnonzero(law)[-1])
