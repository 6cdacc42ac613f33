"""GPU twin of the merge, one block a row."""

from __future__ import annotations

from typing import Any

from runtime.kernels.gpu import _launch

__all__ = ["merge_candidates"]


def merge_candidates(
    tokens: Any,
    parents: Any,
    probability: Any,
    budgets: Any,
    price: float,
    place: Any,
    chance: Any,
    *out: Any,
) -> None:
    """As the door says, into the four arrays of `out`; `place` and `chance` are scratch."""
    given = (tokens, parents, probability, budgets, price, place, chance, tokens.shape[1], out[0].shape[1])
    _launch.launch("merge", "merge_candidates", (len(tokens),), (*given, *out))
