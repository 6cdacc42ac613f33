"""The window of a masked diffusion: how many places to verify in a round, by tokens a round against a round's cost.

A longer window fills in more places, (1 - a^w) / (1 - a) of them with acceptance a, and costs a forward for each of its
places: worth it where forwards of one batch share their cost, and never where each costs its own.
"""

from __future__ import annotations

from collections.abc import Sequence

from reader_theory.acceptance.windows import RoundCost, WindowAcceptance
from reader_theory.documents.diffusion import WindowCandidate
from reader_theory.errors import require

__all__ = ["LONGEST_WINDOW", "plan_windows", "weighed"]

LONGEST_WINDOW = 32
"""Longest window that is weighed where the acceptance knows all places."""


def weighed(acceptance: WindowAcceptance, masked: int, window: int, cost: RoundCost) -> WindowCandidate:
    """What one window is predicted to take for a text of `masked` tokens.

    Raises
    ------
    InvalidInputError
        When the window is longer than the places that the acceptance knows: it is a function of the place, and is not
        drawn out past the last that was seen.
    """
    require(
        acceptance.places is None or window <= acceptance.places,
        f"`window` must be at most the {acceptance.places} places whose acceptance was counted",
        got=window,
        fix=f"Count with `--window {window}`, or take a shorter one.",
    )
    whole, single = acceptance.cost(masked, window, cost), acceptance.cost(masked, 1, cost)
    return WindowCandidate(
        window=window,
        rounds=acceptance.cost(masked, window, lambda forwards: 1.0),
        forwards=acceptance.cost(masked, window, float),
        cost=whole,
        speed_up=whole.model_copy(
            update={
                "value": single.value / whole.value,
                "low": single.value / whole.high,
                "high": single.value / whole.low,
            }
        ),
    )


def plan_windows(
    acceptance: WindowAcceptance, masked: int, cost: RoundCost, windows: Sequence[int] = ()
) -> tuple[WindowCandidate, ...]:
    """Candidates, the chosen one first and the others by their cost.

    Chosen is the cheapest whose speed-up over one token at a time is above 1 at the low end of its interval. Where none
    is: a window of 1, whose cost does not depend on acceptance, or the cheapest, where 1 is not among `windows`.

    Parameters
    ----------
    acceptance : WindowAcceptance
    masked : int
        Tokens of a text.
    cost : callable
        Of a round of so many forwards.
    windows : sequence of int, optional
        Those to weigh; all that make sense when left out.
    """
    most = min(acceptance.places or LONGEST_WINDOW, LONGEST_WINDOW, max(masked - 1, 1))
    found = sorted(
        (weighed(acceptance, masked, window, cost) for window in windows or range(1, most + 1)),
        key=lambda each: (each.cost.value, each.window),
    )
    sure = (each for each in found if each.window == 1 or each.speed_up.low > 1)
    chosen = next(sure, found[0])
    return (chosen, *(each for each in found if each is not chosen))
