"""A denoising step has exactly the law of its chain: p(X0^i | X_t, X0^{<i}) at every masked place, then the schedule.

Laws are fractions that depend on the whole row and do not fit together; the denoiser is enumerated through its public
`step`, drafts, acceptance, residual and re-masking included, and nothing is rounded.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from reader_theory.rules import VerifyUniforms, WindowRejection
from reader_theory.rules.exact import Forks, outcome_law
from runtime.diffusion import denoiser as denoisers
from runtime.diffusion.battery import chain_law, check_denoiser, denoised_law, random_table
from runtime.diffusion.denoiser import Denoiser, Tally
from runtime.diffusion.params import DRAFTS, DiffusionParams

MASK = 2
Law = dict[tuple[int, ...], Fraction]


def distance(one: Law, other: Law) -> Fraction:
    return sum((abs(one.get(row, Fraction(0)) - other.get(row, Fraction(0))) for row in one | other), Fraction(0)) / 2


@pytest.mark.slow
def test_every_window_and_number_of_steps_has_the_law_of_the_chain_exactly() -> None:
    """Windows of 1, 2 and 4, one to three denoising steps with re-masking, every way to draft."""
    check_denoiser(Denoiser)


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
def test_the_law_of_the_text_is_the_same_for_every_window(seed: int) -> None:
    row, model = (MASK, 1, MASK, MASK), random_table(100 + seed)
    laws = [
        denoised_law(Denoiser(model), row, DiffusionParams(steps=2, window=window, drafts=drafts))
        for window in (1, 2, 3, 4, 7)
        for drafts in DRAFTS
    ]
    assert all(law == laws[0] for law in laws) and sum(laws[0].values()) == 1


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_drawing_all_places_independently_is_another_law(steps: int) -> None:
    row, gaps = (0, MASK, MASK, MASK), []
    for seed in range(5):
        model = random_table(seed)
        params = DiffusionParams(steps=steps, window=1)
        lossy = DiffusionParams(steps=steps, sampling="parallel_lossy")
        gaps.append(distance(denoised_law(Denoiser(model), row, lossy), chain_law(model, row, params)))
    assert not lossy.lossless and min(gaps) > 0


class SelfVerifying(Denoiser):
    """A planted bug: the forward that drafted "verifies" its own drafts, so that p = q and nothing is verified."""

    def _look(self, rows: Any, places: Any, params: Any, count: Any) -> Any:
        if len(rows) > 1:
            rows = np.tile(rows[:1], (len(rows), 1))
        return super()._look(rows, places, params, count)


class Resampling(WindowRejection):
    """A planted bug: a rejected draft is replaced by a draw from the target itself instead of the residual."""

    def verify(self, tokens: Any, draft: Any, target: Any, uniforms: VerifyUniforms) -> Any:
        found = super().verify(tokens, draft, target, uniforms)
        if len(found.accepted) == len(found.emitted):
            return found
        place = len(found.accepted)
        again = denoisers.pick_token(np.asarray(target)[place], uniforms.recovery[place])
        return type(found)(found.accepted, (*found.emitted[:-1], again))


class WithBonus(WindowRejection):
    """A planted bug: a window kept whole is followed by a token that the last draft's law gives."""

    def verify(self, tokens: Any, draft: Any, target: Any, uniforms: VerifyUniforms) -> Any:
        found = super().verify(tokens, draft, target, uniforms)
        if len(found.accepted) < len(tokens):
            return found
        last = denoisers.pick_token(np.asarray(draft)[-1], uniforms.recovery[-1])
        return type(found)(found.accepted, (*found.emitted[:-1], last))


class KeepsMasks(Denoiser):
    """A planted bug: how many masks come back depends on what was drawn."""

    def step(self, row: Any, params: Any, step: int, uniforms: Any, tally: Tally | None = None) -> Any:
        found = super().step(row, params, step, uniforms, tally)
        unsure = (row == self.model.mask_token) & (found == 0) & (step + 1 < params.steps)
        return np.where(unsure, self.model.mask_token, found)


@pytest.mark.parametrize("toy", [SelfVerifying, KeepsMasks])
def test_a_denoiser_that_breaks_the_law_is_caught(toy: type[Denoiser]) -> None:
    with pytest.raises(AssertionError, match="total variation"):
        check_denoiser(toy)


@pytest.mark.parametrize("rule", [Resampling, WithBonus])
def test_a_rule_that_breaks_the_law_is_caught(rule: type[WindowRejection], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(denoisers, "RULE", rule())
    with pytest.raises(AssertionError, match="total variation"):
        check_denoiser(Denoiser)


@pytest.mark.parametrize("window", [2, 4])
def test_the_self_verifying_toy_is_told_by_its_total_variation(window: int) -> None:
    """The toy accepts everything, which is what makes it tempting: acceptance 1, at a law that is not the model's."""
    gaps, params = [], DiffusionParams(steps=1, window=window)
    for seed in range(8):
        model, row = random_table(seed), (0, MASK, MASK, MASK, MASK)
        gaps.append(distance(denoised_law(SelfVerifying(model), row, params), chain_law(model, row, params)))
    assert max(gaps) > Fraction(1, 20)


def test_acceptance_at_each_place_is_one_minus_total_variation() -> None:
    """Through `verify`, enumerated: drafts drawn from q are kept with 1 - TV(p_i, q_i), in fractions and to 1e-12."""
    rng, rule = np.random.default_rng(0), WindowRejection()
    for _ in range(8):
        target, draft = rng.dirichlet(np.ones(4), (2, 3))
        for p, q in ((target, draft), tuple(_fractions(law) for law in (target, draft))):
            kept = [Fraction(0)] * 3
            reached = [Fraction(0)] * 3
            for outcome, mass in outcome_law(lambda forks, p=p, q=q: _kept(rule, p, q, forks)).items():
                for place in range(min(outcome + 1, 3)):
                    reached[place] += mass
                    kept[place] += mass * (outcome > place)
            for place in range(3):
                share = 1 - sum(abs(p[place] - q[place])) / 2
                assert abs(float(kept[place] / reached[place] - Fraction(share))) < 1e-12
                assert abs(float(rule.acceptance(p[place], q[place])[0] - share)) < 1e-12


def _fractions(laws: Any) -> Any:
    """Laws near these whose entries are fractions that sum to 1 exactly."""
    parts = [[int(x * 60) + 1 for x in law] for law in laws]
    return np.array([[Fraction(part, sum(row)) for part in row] for row in parts])


def _kept(rule: WindowRejection, target: Any, draft: Any, forks: Forks) -> int:
    tokens = [denoisers.pick_token(law, number) for law, number in zip(draft, forks.uniforms(3), strict=True)]
    numbers = VerifyUniforms(forks.uniforms(4), np.full(4, 0.5))
    return len(rule.verify(tokens, draft, target, numbers).accepted)


def test_a_place_is_examined_as_often_as_the_drafts_before_it_are_kept() -> None:
    """Acceptance of the first draft of a window, counted in runs, is the mean of 1 - TV(p, q) by hand."""
    model, row = random_table(4, tokens=3), (0, 3, 3, 3)
    params = DiffusionParams(steps=1, window=2)

    def run(forks: Forks) -> int:
        tally = Tally.of(params)
        Denoiser(model).step(np.array(row), params, 0, lambda _, count: forks.uniforms(count), tally)
        return int(tally.examined[0, 1])

    counted = sum(mass * looks for looks, mass in outcome_law(run).items())
    by_hand, before = Fraction(0), model.laws(np.array([row]), np.array([[1, 2]]), params)[0]
    for token, mass in enumerate(before[0]):
        if mass:
            after = model.laws(np.array([[0, token, 3, 3]]), np.array([[2]]), params)[0, 0]
            by_hand += mass * (1 - abs(after - before[1]).sum() / 2)
    assert 0 < counted < 1 and counted == by_hand


def test_rounds_and_forwards_are_counted_apart() -> None:
    model = random_table(0)
    tally = Denoiser(model).fill([0, *[MASK] * 9], DiffusionParams(steps=1, window=4)).tally
    single = Denoiser(model).fill([0, *[MASK] * 9], DiffusionParams(steps=1, window=1)).tally
    assert single.rounds.tolist() == single.forwards.tolist() == single.drawn.tolist() == [9]
    assert tally.drawn.tolist() == [9] and tally.rounds[0] < 9 <= tally.forwards[0] <= 1 + 4 * (tally.rounds[0] - 1)
    lossy = Denoiser(model).fill([0, *[MASK] * 9], DiffusionParams(steps=3, sampling="parallel_lossy")).tally
    assert lossy.rounds.tolist() == lossy.forwards.tolist() == [1, 1, 1]
