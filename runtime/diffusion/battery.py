"""What a denoiser must keep, whoever wrote it: the law of its chain, exactly, through `step` and `fill` alone.

Laws of the tables here are random fractions that depend on the whole row and do not fit together, so that any other
order, a forgotten condition, a missing residual or a forward that verifies itself gives another law.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import cache
from itertools import pairwise, product
from typing import Any

import numpy as np

from reader_theory.rules.exact import Forks, outcome_law
from runtime.diffusion.denoiser import Denoiser
from runtime.diffusion.model import MaskedModel, MaskedTable
from runtime.diffusion.params import DRAFTS, DiffusionParams

__all__ = ["chain_law", "check_denoiser", "denoised_law", "random_table"]

Row = tuple[int, ...]
Law = dict[Row, Fraction]


def random_table(seed: int, tokens: int = 2, grid: int = 6) -> MaskedTable:
    """A model of `tokens` tokens and a mask whose laws are multiples of 1 / `grid`, another for each row and place.

    Those of its draft head are others again.
    """

    @cache
    def law(row: Row, place: int, *before: int) -> list[Fraction]:
        digest = hashlib.sha256(repr((seed, row, place, *before)).encode()).digest()
        cuts = sorted(byte % (grid + 1) for byte in digest[: tokens - 1])
        ends = [0, *cuts, grid]
        return [*(Fraction(high - low, grid) for low, high in pairwise(ends)), Fraction(0)]

    return MaskedTable(law, tokens + 1, law)


def chain_law(model: MaskedModel, row: Row, params: DiffusionParams) -> Law:
    """Exact law of the filled row: each step's clean tokens by the chain rule, its masks by the schedule; no drafts."""
    law: Law = {row: Fraction(1)}
    for step in range(params.steps):
        law = _spread(law, lambda held, left=params.steps - step: _one_step(model, held, params, left))
    return law


def denoised_law(denoiser: Denoiser, row: Row, params: DiffusionParams) -> Law:
    """Exact law of the row that `denoiser` gives, drafts and all, step by step through its public `step`."""
    law: Law = {row: Fraction(1)}
    for step in range(params.steps):

        def after(held: Row, step: int = step) -> Law:
            def run(forks: Forks) -> Row:
                found = denoiser.step(np.array(held), params, step, lambda _, count: forks.uniforms(count))
                return tuple(found.tolist())

            return outcome_law(run)

        law = _spread(law, after)
    return law


def check_denoiser(make: Callable[[MaskedModel], Denoiser]) -> None:
    """Hold a denoiser to the law that it says it keeps.

    Parameters
    ----------
    make : callable
        From a model to the denoiser of it.

    Raises
    ------
    AssertionError
        With the total variation, and the case that shows it.
    """
    for model, row, params in _cases():
        found, kept = denoised_law(make(model), row, params), chain_law(model, row, params)
        gap = sum(
            (abs(found.get(each, Fraction(0)) - kept.get(each, Fraction(0))) for each in found | kept), Fraction(0)
        )
        told = f"row {row}, window {params.window}, {params.steps} steps, drafts by {params.drafts}"
        assert not gap, f"a denoiser must keep the law of its chain: total variation {gap / 2} on {told}"


def _cases() -> Iterator[tuple[MaskedModel, Row, DiffusionParams]]:
    """From the quick to the slow, so that what is wrong is told soon; the last fills a window of four."""
    shapes = [(3, 6, (3, 1, 3, 3), 1), (2, 6, (2, 1, 2, 2), 2), (2, 6, (2, 2, 0, 2), 3), (2, 2, (0, 2, 2, 2, 2, 2), 1)]
    for seed, ((tokens, grid, row, steps), window, drafts) in enumerate(product(shapes, (1, 2, 4), DRAFTS)):
        yield random_table(seed, tokens, grid), row, DiffusionParams(steps=steps, window=window, drafts=drafts)


def _spread(law: Law, after: Callable[[Row], Law]) -> Law:
    whole: Law = {}
    for held, mass in law.items():
        for found, share in after(held).items():
            whole[found] = whole.get(found, Fraction(0)) + mass * share
    return {found: mass for found, mass in whole.items() if mass}


def _one_step(model: MaskedModel, row: Row, params: DiffusionParams, left: int) -> Law:
    masked = [place for place, token in enumerate(row) if token == model.mask_token]
    clean: dict[Row, Any] = {row: Fraction(1)}
    for place in masked:
        clean = _spread(clean, lambda held, place=place: _at(model, held, place, params))
    law: Law = {}
    for again in product((False, True), repeat=len(masked)):
        share = Fraction(left - 1, left) ** sum(again) * Fraction(1, left) ** (len(masked) - sum(again))
        for held, mass in clean.items():
            kept = list(held)
            for place, hidden in zip(masked, again, strict=True):
                kept[place] = model.mask_token if hidden else kept[place]
            law[tuple(kept)] = law.get(tuple(kept), Fraction(0)) + share * mass
    return law


def _at(model: MaskedModel, row: Row, place: int, params: DiffusionParams) -> Law:
    law = model.laws(np.array([row]), np.array([[place]]), params)[0, 0]
    return {(*row[:place], token, *row[place + 1 :]): mass for token, mass in enumerate(law.tolist()) if mass}
