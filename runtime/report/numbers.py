"""Numbers as people read them: three figures, no exponents where none are needed."""

from __future__ import annotations

import math

from reader_theory.estimate import Estimate

__all__ = ["interval", "number"]


def number(value: float, figures: int = 3) -> str:
    """`value` with `figures` significant figures; whole, with commas, from a thousand on.

    Examples
    --------
    >>> number(0.12345), number(1234.5), number(2.0), number(1.2e-5)
    ('0.123', '1,234', '2', '1.2e-05')
    """
    if not math.isfinite(value):
        return "-"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.{figures}g}"


def interval(estimate: Estimate) -> str:
    """Value, then the interval in brackets.

    Examples
    --------
    >>> interval(Estimate(value=2.0, low=1.9, high=2.1, origin="predicted"))
    '2 [1.9, 2.1]'
    """
    return f"{number(estimate.value)} [{number(estimate.low)}, {number(estimate.high)}]"
