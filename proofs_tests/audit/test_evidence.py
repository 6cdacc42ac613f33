"""An audit finds planted bugs within its budget, and raises nothing on lossless engines beyond its rate."""

from __future__ import annotations

import math
import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
from numpy.random import Generator
from numpy.typing import NDArray
from scipy import stats

from reader_theory.audit.evidence import Evidence
from reader_theory.audit.suspects import SUSPECTS, Laws, Suspect
from reader_theory.errors import InvalidInputError

Floats = NDArray[np.float64]
V = 24
BUDGET = 8_000
"""Tokens within which every planted bug is found, at an error of 1 %."""


def softmax(logits: Floats, temperature: float = 1.0) -> Floats:
    weights = np.exp((logits - logits.max(axis=-1, keepdims=True)) / temperature)
    return weights / weights.sum(axis=-1, keepdims=True)


def top(law: Floats, count: int) -> Floats:
    border = np.sort(law, axis=-1)[..., -count : law.shape[-1] - count + 1]
    kept = np.where(law >= border, law, 0.0)
    return kept / kept.sum(axis=-1, keepdims=True)


class World:
    """A Markov chain over V tokens, a draft that is a noisy copy, temperature 0.8 and a top-k of 6."""

    def __init__(self, seed: int = 0) -> None:
        generator = np.random.default_rng(seed)
        logits = generator.normal(size=(V, V)) * 1.5
        noisy = logits + generator.normal(size=(V, V)) * 0.9
        self.raw, self.warm = softmax(logits), softmax(logits, 0.8)
        self.target = top(self.warm, 6)
        self.draft_warm = softmax(noisy, 0.8)
        self.draft = top(self.draft_warm, 6)

    def laws(self, text: list[int]) -> Laws:
        """Of each token of a text after its first."""
        at = np.array(text[:-1])
        return Laws(self.target[at], self.warm[at], self.raw[at], self.draft[at], self.draft_warm[at])


Step = Callable[[World, int, Generator], list[int]]


def draw(law: Floats, generator: Generator) -> int:
    below = np.cumsum(law)
    return int(np.searchsorted(below, generator.random() * below[-1], side="right"))


def chain(
    world: World,
    last: int,
    generator: Generator,
    *,
    offered: Floats | None = None,
    declared: Floats | None = None,
    target: Floats | None = None,
    residual: Callable[[Floats, Floats, int], Floats] = lambda p, q, _x: np.maximum(p - q, 0),
    slack: float = 1.0,
    shared: bool = False,
    bonus: Floats | None = None,
) -> list[int]:
    """One step of chain rejection with three drafts, right unless told otherwise."""
    offered = world.draft if offered is None else offered
    declared = offered if declared is None else declared
    target = world.target if target is None else target
    emitted: list[int] = []
    for _ in range(3):
        p, q = target[last], declared[last]
        x = draw(offered[last], generator)
        u = generator.random()
        if u * q[x] < slack * p[x]:
            emitted.append(x)
            last = x
            continue
        left = residual(p, q, x)
        left = p if left.sum() <= 0 else left
        again = np.random.default_rng(int(u * 2**53)).random() if shared else generator.random()
        again = u if shared else again
        emitted.append(int(np.searchsorted(np.cumsum(left) / left.sum(), again, side="right").clip(0, V - 1)))
        return emitted
    law = (target if bonus is None else bonus)[last]
    return [*emitted, draw(law, generator)]


def point_masses(law: Floats) -> Floats:
    return np.eye(V)[law.argmax(axis=-1)]


def without(p: Floats, _q: Floats, x: int) -> Floats:
    return np.where(np.arange(V) == x, 0.0, p)


BUGS: dict[str, Step] = {
    "temperature left out": lambda w, x, g: chain(w, x, g, target=top(w.raw, 6)),
    "filters left out": lambda w, x, g: chain(w, x, g, target=w.warm),
    "drafts unverified in one of two": lambda w, x, g: chain(w, x, g, slack=1.0 if g.random() < 0.5 else 1e9),
    "accepts a half too easily": lambda w, x, g: chain(w, x, g, slack=1.5),
    "target instead of residual": lambda w, x, g: chain(w, x, g, residual=lambda p, _q, _x: p),
    "residual zeroes the draft alone": lambda w, x, g: chain(w, x, g, residual=without),
    "residual of laws without filters": lambda w, x, g: chain(
        w, x, g, residual=lambda p, q, _x: np.maximum(w.warm[x] - w.draft_warm[x], 0) * (p > 0)
    ),
    "draft filtered, declared unfiltered": lambda w, x, g: chain(w, x, g, declared=w.draft_warm),
    "argmax drafts declared as drawn": lambda w, x, g: chain(w, x, g, offered=point_masses(w.draft), declared=w.draft),
    "accept and recovery share a number": lambda w, x, g: chain(w, x, g, shared=True),
    "the bonus token from the draft": lambda w, x, g: chain(w, x, g, bonus=w.draft),
    "greedy one time in ten": lambda w, x, g: (
        [int(w.target[x].argmax())] if g.random() < 0.1 else [draw(w.target[x], g)]
    ),
}  # fmt: skip


def text_of(step: Step, world: World, generator: Generator, tokens: int) -> list[int]:
    text = [int(generator.integers(V))]
    while len(text) <= tokens:
        text += step(world, text[-1], generator)
    return text[: tokens + 1]


def audited(step: Step, world: World, seed: int, tokens: int, **options: float) -> Evidence:
    generator = np.random.default_rng(seed)
    evidence = Evidence(seed=seed, **options)  # type: ignore[arg-type]
    while evidence.tokens < tokens and evidence.found_after is None:
        text = text_of(step, world, generator, 50)
        evidence.observe(world.laws(text), text[1:], text[:-1])
    return evidence


@pytest.mark.parametrize("bug", BUGS)
@pytest.mark.parametrize("seed", range(3))
def test_a_planted_bug_is_found_within_the_budget(bug: str, seed: int) -> None:
    finding = audited(BUGS[bug], World(seed), seed, BUDGET, error=0.01).finding()
    assert finding.found_after is not None, f"{bug}: {finding.evidence:.2f} after {finding.tokens} tokens"
    assert not finding.lossless


@pytest.mark.parametrize("step", [chain, lambda w, x, g: [draw(w.target[x], g)]], ids=["chain", "plain"])
def test_lossless_engines_are_found_guilty_no_oftener_than_said(step: Step) -> None:
    error, audits = 0.1, 60
    guilty = sum(not audited(step, World(i), 100 + i, 300, error=error).finding().lossless for i in range(audits))
    assert stats.binomtest(guilty, audits, error, alternative="greater").pvalue > 1e-3


@pytest.mark.slow
def test_200_audits_of_lossless_engines_at_one_percent() -> None:
    guilty = sum(not audited(chain, World(i), i, 1_000, error=0.01).finding().lossless for i in range(200))
    assert stats.binomtest(guilty, 200, 0.01, alternative="greater").pvalue > 1e-3


def test_every_bet_is_fair() -> None:
    """Under the law itself no bet grows on average: the mean factor of each, over all tokens, is at most 1."""
    world, every = World(3), list(range(V))
    for before in every:
        repeated = np.full(V, before)
        laws = Laws(*(law[repeated] for law in (world.target, world.warm, world.raw, world.draft, world.draft_warm)))
        most = 1.001 * laws.target + 0.001 * laws.warm
        bets = Evidence(tolerance=1e-3)._known(laws, most, np.array(every), most[every, every])
        assert {name for name, _ in bets} == {suspect.name for suspect in SUSPECTS}
        for name, factors in bets.items():
            assert 0.19 < float(world.target[before] @ factors) <= 1 + 1e-12, name


def test_a_token_that_the_law_excludes_is_shown_and_decides_in_exact_arithmetic() -> None:
    world = World()
    evidence = Evidence(tolerance=0.0)
    outside = int(world.target[0].argmin())
    evidence.observe(world.laws([0, outside]), [outside], ["start"])
    finding = evidence.finding()
    assert finding.impossible == (("start", outside),)
    assert not finding.lossless
    assert finding.worst_prefix == "start"


def test_rounding_within_the_tolerance_is_no_bug() -> None:
    world = World()
    generator = np.random.default_rng(0)
    noisy = world.target * np.exp(generator.uniform(-1, 1, world.target.shape) * 0.02)
    noisy /= noisy.sum(axis=-1, keepdims=True)
    evidence = audited(lambda _w, x, g: [draw(noisy[x], g)], world, 5, 4_000, tolerance=0.05)
    assert evidence.finding().lossless


@pytest.mark.parametrize("suspect", SUSPECTS, ids=lambda suspect: suspect.name)
def test_the_law_of_a_bug_takes_memory_by_the_vocabulary_and_not_by_its_square(suspect: Suspect) -> None:
    rows, size = 2, 50_000
    target, draft = np.random.default_rng(0).dirichlet(np.ones(size), (2, rows))
    laws = Laws(target, target, target, draft, draft)
    tracemalloc.start()
    law = suspect.law(laws)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert law.shape == (rows, size) and peak < 30 * law.nbytes
    np.testing.assert_allclose(law.sum(axis=-1), 1, atol=1e-9)


def test_the_bug_that_it_looks_like_is_named() -> None:
    told = audited(BUGS["temperature left out"], World(1), 1, BUDGET, error=1e-6).finding()
    assert told.likeliest in ("temperature left out", "flattened", "places in the order of the law")
    told = audited(lambda w, x, g: [int(w.target[x].argmax())], World(1), 1, BUDGET, error=1e-6).finding()
    assert told.likeliest == "the most likely token"


def test_powers_say_how_many_tokens_would_have_been_needed() -> None:
    world = World(2)
    evidence = audited(chain, world, 2, 1_000, error=0.01)
    powers = {power.name: power for power in evidence.powers()}
    assert set(powers) == {suspect.name for suspect in SUSPECTS}
    needed = powers["the most likely token"].tokens
    mostly = lambda w, x, g: [int(w.target[x].argmax()) if g.random() < 0.8 else draw(w.target[x], g)]  # noqa: E731
    found = [audited(mostly, world, 50 + i, 10_000, error=0.01).found_after for i in range(12)]
    assert all(each is not None for each in found)
    assert float(np.mean([each for each in found if each])) < 2 * needed
    assert powers["a top-k of 50 beside"].tokens == math.inf


@pytest.mark.parametrize(("error", "tolerance"), [(0.0, 0.1), (1.0, 0.1), (0.1, -1.0), (0.1, 1.0)])
def test_budgets_out_of_range_are_refused(error: float, tolerance: float) -> None:
    with pytest.raises(InvalidInputError, match="error"):
        Evidence(error=error, tolerance=tolerance)
