"""How a batch's keys and values lie in memory: a row of its own length each, pages, or one rectangle with holes.

Per row is the default: only accepted entries move. Paged wastes half a page a request. A rectangle appends every tree
column for every request and must close its holes; `rearrangement` says how often, and what that costs.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from reader_theory.documents.base import Frozen
from reader_theory.errors import require
from reader_theory.memory.rearrangement import best_period

__all__ = ["Layout", "reserved_tokens"]


class Layout(Frozen):
    """A layout of the KV cache.

    Parameters
    ----------
    kind : {"per row", "paged", "rectangular"}
        A row a request, pages of `page_tokens`, or a rectangle as wide as its longest request and its holes.
    page_tokens : int
        Tokens a page; used by "paged" only.
    period_steps : float, optional
        Steps between rearrangements of a rectangle; the best period when None.
    """

    kind: Literal["per row", "paged", "rectangular"] = "per row"
    page_tokens: int = 16
    period_steps: float | None = None


def reserved_tokens(
    layout: Layout, contexts: ArrayLike, *, tree_tokens: int = 1, tokens_per_step: float = 1.0, lookahead: int = 0
) -> float:
    """Token slots that `contexts` need at the fullest moment of a step.

    Parameters
    ----------
    contexts : (B,) tokens, >= 0
        Tokens cached for each request.
    tree_tokens : int
        Tokens written a step and request, root included.
    tokens_per_step : float
        Tokens kept of them on average.
    lookahead : int
        Slots an engine reserves beyond them (vLLM: the number of drafts; SGLang doubles its step's slots).
    """
    lengths: NDArray[np.float64] = np.atleast_1d(np.asarray(contexts, dtype=np.float64))
    require(
        lengths.ndim == 1 and bool((lengths >= 0).all()) and tree_tokens >= 1 and tokens_per_step >= 1,
        "`contexts` must be token counts >= 0, `tree_tokens` and `tokens_per_step` at least 1",
        got=(lengths[:4], tree_tokens, tokens_per_step),
        fix="Count the root among the tree's tokens.",
    )
    need = lengths + tree_tokens + lookahead
    if layout.kind == "paged":
        return float(np.sum(np.ceil(need / layout.page_tokens)) * layout.page_tokens)
    if layout.kind == "per row":
        return float(np.sum(need))
    holes = max(tree_tokens - tokens_per_step, 0.0)
    period = layout.period_steps or best_period(float(np.mean(lengths)), tree_tokens, tokens_per_step)
    wide = float(np.max(need, initial=0.0)) + holes * (period if np.isfinite(period) else 0.0)
    return wide * len(lengths)
