"""What a drafter of any class costs a step, timed by itself: seconds a row of each of the forwards that it declares.

Models have tables of their own (`calibrate_cost`); this is for drafters whose insides nobody here knows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import perf_counter

import numpy as np

from reader_theory.documents import DrafterCost, Static
from reader_theory.estimate import Estimate
from reader_theory.trees import TokenTree
from runtime.drafters.base import Drafter
from runtime.drafters.offered import KnownRow
from runtime.measure.prompts import PromptLike

__all__ = ["price_drafter"]

CHAIN, ROUNDS = 4, 12
"""Levels that are asked for, and how often."""


def price_drafter(
    make: Callable[[], Drafter], name: str, prompts: Sequence[PromptLike], *, model: str | None, batches: Sequence[int]
) -> DrafterCost:
    """Seconds a row, medians over rounds and batches, as the drafter's term in a Cost reads them.

    Parameters
    ----------
    make : callable
        A new drafter, not opened.
    prompts : sequence of prompts
        Whose texts it drafts for; they are taken in turn where a batch has more rows.
    model : str, optional
        How documents call what it runs.
    """
    policy = Static.of(TokenTree.chain(CHAIN), name)
    seconds = [_seconds_a_row(make, policy, prompts, batch) for batch in sorted(set(batches))]
    maker = make()
    asked = len(maker.takes.sizes(policy.asked_widths))
    each = np.array([found for some in seconds for found in some]) / asked
    low, middle, high = np.quantile(each, [0.025, 0.5, 0.975]).tolist()
    row_s = Estimate(value=middle, low=low, high=high, origin="measured")
    return DrafterCost(term=maker.priced_by, model=model, row_s=row_s, forwards=maker.takes)


def _seconds_a_row(
    make: Callable[[], Drafter], policy: Static, prompts: Sequence[PromptLike], batch: int
) -> list[float]:
    texts = [prompts[row % len(prompts)].tokens for row in range(batch)]
    drafter = make()
    drafter.open(policy.drafter, batch, max(map(len, texts)) + ROUNDS + CHAIN + 2)
    rows = [KnownRow(text[:-1].tolist(), CHAIN + 1, text[-1:].tolist()) for text in texts]
    for row, text in enumerate(texts):
        drafter.join(row, text[:-1])
        drafter.extend(row, text[-1:].tolist())
    found: list[float] = []
    for turn in range(ROUNDS):
        start = perf_counter()
        drafter.propose(policy, rows, [CHAIN] * batch)
        found.append((perf_counter() - start) / batch)
        for row, text in zip(rows, texts, strict=True):
            row.output = [*row.output, int(text[turn % len(text)])]
        for number, row in enumerate(rows):
            drafter.extend(number, row.output[-1:])
    return found[2:]  # the first takes in the prompt, the second what it compiles
