"""In situ: what forwards cost inside the engine, where draft and target take turns in the processor's caches.

A forward timed alone, again and again, is not the forward of a step: the other model's weights have just passed through
the caches, shapes change from step to step, and candidates must be read back. So the engine runs trees of known
sizes, in a shuffled order, and the tables that were measured alone are corrected to what its clocks say.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls
from scipy.stats import theilslopes

from reader_theory.documents import Chain, CostTable, Off, Policy, Static
from reader_theory.estimate import Estimate
from reader_theory.trees import TokenTree
from runtime.measure.bench import SeenStep

__all__ = ["corrected_draft", "corrected_target", "growing_term", "linear_term", "probe_policies"]

Floats = NDArray[np.float64]

ENOUGH = 0.25
"""Steps of a policy that a number of tokens must have been seen in, over those of the number that it had most."""


def probe_policies(tokens: Sequence[int], *, drafted: bool) -> list[Policy]:
    """A policy for every number of verified tokens: bushy trees three deep, or off and retrieved chains."""
    sizes = sorted({n - 1 for n in tokens if n > 1})
    if drafted:
        return [Static.of(_bush(n)) for n in sizes]
    return [Off(), *(Chain(min_match=1, offset=float(n), factor=0.0, max_tokens=n) for n in sizes)]


def _bush(nodes: int) -> TokenTree:
    """A chain of three with the rest of the nodes below the root and the first child."""
    parents = [-1, 0, 1, 2][: nodes + 1]
    for extra in range(nodes - 3):
        parents.append(0 if extra % 2 == 0 else 1)
    return TokenTree(parents).by_level()


def corrected_target(table: CostTable, seen: Sequence[SeenStep]) -> CostTable:
    """The table times, for each batch, what seen seconds are over tabulated ones: of one token, and along a line.

    A tree's stretches are few, and a plan would choose the number of tokens that they flatter most; so the factors of
    more than one token are a robust line in their logarithm. A number that few steps of a policy had, where a request
    was near its end, does not count; numbers are rounded, as rows of a step may have some in the mean. How often a
    policy was seen beside others does not matter: plain decoding is seen between all.
    """
    seconds = table.values.copy()
    for i, batch in enumerate(table.batch):
        mine = _usual([s for s in seen if s.timing.rows == batch])
        if not mine:
            continue
        widths = np.array([round(s.timing.width) for s in mine])
        ratios = np.array([s.timing.target_s / float(table.at(batch, s.timing.width, s.context)) for s in mine])
        at = np.unique(widths)
        factors = np.array([np.median(ratios[widths == w]) for w in at])
        seconds[i] *= _along(np.array(table.tokens), at, factors)[:, None]
    return _with(table, seconds)


def _along(tokens: NDArray[np.int64], at: NDArray[np.int64], factors: Floats) -> Floats:
    """(T,) the factor of one token, and of more along the Theil-Sen line through those that were seen."""
    found = np.interp(np.log(tokens), np.log(at), factors)
    many = at > 1
    if many.sum() > 1:
        slope, level = theilslopes(np.log(factors[many]), np.log(at[many]))[:2]
        asked = np.clip(np.log(tokens), *np.log(at[many])[[0, -1]])
        found = np.where(tokens > 1, np.exp(level + slope * asked), found)
    return found


def _usual(seen: Sequence[SeenStep]) -> list[SeenStep]:
    """Steps of as many tokens as their policy usually has."""
    counts = Counter((s.policy, round(s.timing.width)) for s in seen)
    most: dict[Policy, int] = {}
    for (policy, _), count in counts.items():
        most[policy] = max(most.get(policy, 0), count)
    return [s for s in seen if counts[s.policy, round(s.timing.width)] >= ENOUGH * most[s.policy]]


def corrected_draft(table: CostTable, seen: Sequence[SeenStep]) -> CostTable:
    """The table plus, for each batch, the median of what a forward took beyond it.

    What the engine does around a forward of the draft, reading candidates back and placing them, is in it.
    """
    seconds = table.values.copy()
    for i, batch in enumerate(table.batch):
        mine = [s for s in seen if s.timing.rows == batch and s.timing.drafted]
        if not mine:
            continue
        beyond = [s.timing.draft_s - float(table.at(batch, s.forwards, s.context).sum()) for s in mine]
        each = float(np.median(np.array(beyond) / [len(s.forwards) for s in mine]))
        seconds[i] = np.maximum(seconds[i] + each, seconds[i] / 4)
    return _with(table, seconds)


def growing_term(table: CostTable | None, seen: Sequence[SeenStep]) -> tuple[Estimate, float]:
    """Seconds a row and seconds a step of growing a tree once.

    It is grown once, and once more after each forward of the draft, of which `table` says what they take.
    """
    beyond = [
        s.timing.draft_s - (0.0 if table is None else float(table.at(s.timing.rows, s.forwards, s.context).sum()))
        for s in seen
    ]
    each = np.maximum(np.array(beyond) / [1 + len(s.forwards) for s in seen], 1e-6)
    return linear_term(np.array([float(s.timing.rows) for s in seen]), each)


def linear_term(rows: Floats, seconds: Floats) -> tuple[Estimate, float]:
    """Seconds a row, and seconds a step: the line, nowhere below 0, through the medians at each number of rows."""
    batches = np.unique(rows)
    medians = np.array([np.median(seconds[rows == b]) for b in batches])
    design = np.stack([batches, np.ones(len(batches))], axis=1)
    if len(batches) == 1:
        return Estimate.exact(float(medians[0] / batches[0]), "measured"), 0.0
    # Weighted by 1 / median: small batches count as much as large ones.
    (slope, fixed), _ = nnls(design / medians[:, None], np.ones(len(batches)))
    spread = [float(np.quantile(seconds[rows == b], q)) for b, q in ((batches[-1], 0.25), (batches[-1], 0.75))]
    low, high = (max((s - fixed) / float(batches[-1]), 0.0) for s in spread)
    value = float(slope)
    return Estimate(value=value, low=min(low, value), high=max(high, value), origin="measured"), float(fixed)


def _with(table: CostTable, seconds: Floats) -> CostTable:
    grid = tuple(tuple(tuple(float(s) for s in row) for row in plane) for plane in seconds)
    return CostTable.model_validate(table.model_dump() | {"seconds": grid})
