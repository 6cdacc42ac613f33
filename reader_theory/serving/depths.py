"""Which depth at which batch and context: the table that an engine looks up, and its two ends.

The depth that is best for one request is deeper than the one that is best for a full engine: drafts that are rejected
cost the others their turn, and a drafter's weights and KV cost batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from reader_theory.documents.base import Frozen
from reader_theory.errors import require

__all__ = ["DepthChoice", "DepthTable", "best_schedule"]


class DepthChoice(Frozen):
    """The best depth at one batch and context, and what it gives.

    Parameters
    ----------
    batch, context : float
        Requests wanted at once, and cached tokens of each.
    depth : int
        Drafts a step; zero is off.
    running : float
        Requests that fit.
    tokens_per_s, gain : float
        Tokens a second of all requests, and that over plain decoding's.
    """

    batch: float
    context: float
    depth: int
    running: float
    tokens_per_s: float
    gain: float


class DepthTable(Frozen):
    """Best depths over a grid of batches and contexts."""

    choices: tuple[DepthChoice, ...]

    def at(self, batch: float, context: float) -> DepthChoice:
        """The choice at the nearest context, and at the largest batch of the grid not above `batch`."""
        context_grid = min({c.context for c in self.choices}, key=lambda x: abs(x - context))
        row = sorted((c for c in self.choices if c.context == context_grid), key=lambda c: c.batch)
        below = [c for c in row if c.batch <= batch]
        return below[-1] if below else row[0]


def best_schedule(
    step_s: Callable[[float, float, int], float],
    tokens_per_step: Callable[[int], float],
    *,
    batches: Sequence[float],
    contexts: Sequence[float],
    depths: Sequence[int],
    largest_batch: Callable[[float, int], float] = lambda context, depth: float("inf"),
) -> DepthTable:
    """Choose a depth for every batch and context by scanning all of them: steps are staircases.

    Parameters
    ----------
    step_s : callable
        Seconds of a step: (requests, context, depth) -> seconds, prefill share included where there is one.
    tokens_per_step : callable
        Tokens a step and request at a depth; 1 at depth zero.
    depths : sequence of int
        Depths to try; zero, off, is always tried.
    largest_batch : callable
        Requests that fit: (context, depth) -> requests. Depth zero may have more, as no drafter is loaded.
    """
    tried = sorted({0, *depths})
    require(
        tried[0] == 0 and len(batches) > 0 and len(contexts) > 0 and min(batches) > 0,
        "`batches` and `contexts` must not be empty, batches positive and `depths` >= 0",
        got=(list(batches)[:4], list(contexts)[:4], tried[:4]),
        fix="Offer the batches that the engine may see.",
    )
    choices: list[DepthChoice] = []
    for context in contexts:
        for batch in batches:
            rates = {
                depth: (
                    fits := min(batch, largest_batch(context, depth)),
                    _rate(step_s, tokens_per_step, fits, context, depth),
                )
                for depth in tried
            }
            best = max(tried, key=lambda depth, r=rates: (r[depth][1], -depth))
            running, rate = rates[best]
            gain = rate / rates[0][1] if rates[0][1] > 0 else float("inf")
            choices.append(
                DepthChoice(batch=batch, context=context, depth=best, running=running, tokens_per_s=rate, gain=gain)
            )
    return DepthTable(choices=tuple(choices))


def _rate(
    step_s: Callable[[float, float, int], float],
    tokens_per_step: Callable[[int], float],
    batch: float,
    context: float,
    depth: int,
) -> float:
    return 0.0 if batch < 1 else batch * tokens_per_step(depth) / step_s(batch, context, depth)
