"""Evolution keeps its budget, finds what exact search finds, and spends its samples as it says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.random import Generator
from numpy.typing import ArrayLike, NDArray

from optimizer import TabulatedCost, TreeProblem, solve
from optimizer.solvers.evolve import Candidate, Evolution, LevelSpace, Stage, evolve
from reader_theory.acceptance.rank_table import RankTable
from reader_theory.errors import DocumentError, InvalidInputError, require

EXACT = (Stage(4, 1), Stage(1, 1))


@dataclass(frozen=True)
class TreeSpace:
    """Trees of a number of nodes: a leaf goes, a child comes.

    A candidate is the sorted codes of its nodes; the code of a node at a path of ranks is those ranks, each plus one,
    as the digits of a number to the base ``ranks + 1``.

    Parameters
    ----------
    nodes, depth, ranks : int
    """

    nodes: int
    depth: int
    ranks: int

    def __post_init__(self) -> None:
        room = sum(self.ranks**level for level in range(1, self.depth + 1))
        require(
            0 < self.nodes <= room,
            "`nodes` must be a number that a tree of this depth and these ranks can have",
            got=f"{self.nodes}, room for {room}",
            fix="Ask for fewer nodes, or allow more depth or ranks.",
        )

    def path(self, code: int) -> tuple[int, ...]:
        """Ranks from the root to the node of a code."""
        ranks: list[int] = []
        while code:
            code, digit = divmod(code, self.ranks + 1)
            ranks.append(digit - 1)
        return tuple(reversed(ranks))

    def start(self, generator: Generator) -> Candidate:
        held: set[int] = set()
        while len(held) < self.nodes:
            held.add(int(generator.choice(sorted(self._open(held)))))
        return tuple(sorted(held))

    def switched(self, candidate: Candidate, generator: Generator) -> Candidate:
        held = set(candidate)
        leaves = sorted(held - {code // (self.ranks + 1) for code in held})
        held.remove(int(generator.choice(leaves)))
        held.add(int(generator.choice(sorted(self._open(held)))))
        return tuple(sorted(held))

    def spent(self, candidate: Candidate) -> int:
        return len(candidate)

    def _open(self, held: set[int]) -> set[int]:
        """Codes of nodes that could be added."""
        base = self.ranks + 1
        above = {0} | {code for code in held if len(self.path(code)) < self.depth}
        return {code * base + digit for code in above for digit in range(1, base)} - held


class Linear:
    """A value a part, with noise of a sample that shrinks with its size."""

    def __init__(self, worth: ArrayLike, noise: float = 0.0) -> None:
        self.worth, self.noise = np.asarray(worth), noise
        self.asked: list[tuple[int, int, int]] = []

    def __call__(self, candidates: Sequence[Candidate], tokens: int, sample: int) -> list[float]:
        self.asked.append((len(candidates), tokens, sample))
        drift = np.random.default_rng(sample).normal(size=self.worth.size) * self.noise / np.sqrt(tokens)
        return [float((self.worth + drift) @ np.array(each)) for each in candidates]


def worths(seed: int, parts: int = 32) -> NDArray[np.float64]:
    return np.random.default_rng(seed).normal(size=parts)


@pytest.mark.parametrize("seed", range(5))
def test_a_linear_problem_of_32_parts_is_at_its_optimum_within_160_generations(seed: int) -> None:
    worth = worths(seed)
    found = evolve(LevelSpace(32, 2, 12), Linear(worth), generations=160, stages=EXACT, seed=seed)
    best = np.zeros(32, dtype=int)
    best[np.argsort(-worth)[:12]] = 1
    assert found.parent == tuple(best.tolist())


@given(
    parts=st.integers(2, 12), levels=st.integers(2, 5), share=st.floats(0, 1), seed=st.integers(0, 99),
    grouped=st.booleans(),
)  # fmt: skip
def test_the_budget_is_exact_in_every_generation(
    parts: int, levels: int, share: float, seed: int, grouped: bool
) -> None:
    total = round(share * parts * (levels - 1))
    groups = tuple(i % 2 for i in range(parts)) if grouped else ()
    space = LevelSpace(parts, levels, total, groups)
    seen: list[Candidate] = []

    def fitness(candidates: Sequence[Candidate], tokens: int, sample: int) -> list[float]:
        seen.extend(candidates)
        return [float(hash((each, sample)) % 97) for each in candidates]

    evolve(space, fitness, generations=6, offspring=4, stages=EXACT, seed=seed)
    assert {sum(each) for each in seen} == {total}
    assert all(0 <= level < levels for each in seen for level in each)
    if grouped:
        assert len({sum(each[::2]) for each in seen}) == 1


@pytest.mark.parametrize("seed", range(4))
def test_a_value_that_is_no_sum_is_maximised_where_the_additive_choice_is_not(seed: int) -> None:
    parts, kept = 14, 6
    generator = np.random.default_rng(seed)
    pairs = np.triu(generator.normal(size=(parts, parts)), 1)
    alone = 0.3 * generator.normal(size=parts)

    def value(candidate: Candidate) -> float:
        held = np.array(candidate, dtype=float)
        return float(held @ pairs @ held + alone @ held)

    def chosen(members: Sequence[int]) -> Candidate:
        return tuple(int(i in members) for i in range(parts))

    best = max(value(chosen(each)) for each in combinations(range(parts), kept))
    found = evolve(
        LevelSpace(parts, 2, kept), lambda several, _tokens, _sample: [value(each) for each in several],
        generations=160, offspring=32, stages=EXACT, seed=seed,
    )  # fmt: skip
    without = [value(tuple(int(i != j) for i in range(parts))) for j in range(parts)]
    additive = value(chosen(np.argsort(without)[:kept].tolist()))
    assert value(found.parent) == pytest.approx(best)
    assert additive < best - 1e-6


@pytest.mark.parametrize("nodes", [1, 5, 12])
def test_trees_reach_the_exact_program(nodes: int) -> None:
    law = RankTable.stationary([0.45, 0.2, 0.1], 5)
    space = TreeSpace(nodes, 5, 3)

    def tokens(candidate: Candidate) -> float:
        return 1 + sum(
            float(np.prod([law.conditionals[level, rank] for level, rank in enumerate(space.path(c))]))
            for c in candidate
        )

    found = evolve(
        space, lambda several, _tokens, _sample: [tokens(each) for each in several],
        generations=120, stages=EXACT,
    )  # fmt: skip
    only_whole = TabulatedCost(np.r_[np.full(nodes, 1e9), 1.0])
    assert tokens(found.parent) == pytest.approx(solve(TreeProblem(law, only_whole, nodes)).value)


def test_selection_in_stages_needs_a_third_of_the_tokens_for_a_winner_as_good() -> None:
    single, staged = (Stage(1, 1024),), (Stage(4, 128), Stage(1, 1024))
    spent, reached = {}, {}
    for name, stages in {"single": single, "staged": staged}.items():
        runs = []
        for seed in range(8):
            fitness = Linear(worths(seed), noise=4.0)
            runs.append(evolve(LevelSpace(32, 2, 12), fitness, generations=80, offspring=32, stages=stages, seed=seed))
        spent[name] = sum(run.tokens for run in runs)
        reached[name] = np.mean([worths(s) @ np.array(run.parent) for s, run in enumerate(runs)])
    ideal = np.mean([np.sort(worths(seed))[-12:].sum() for seed in range(8)])
    assert spent["staged"] <= 0.35 * spent["single"]
    assert reached["staged"] >= reached["single"] - 0.01 * ideal


def test_evolution_beats_random_search_at_equal_tokens() -> None:
    gains = []
    for seed in range(8):
        worth, space = worths(seed), LevelSpace(32, 2, 12)
        found = evolve(space, Linear(worth, noise=2.0), generations=40, seed=seed)
        generator = np.random.default_rng(seed)
        tried = [space.start(generator) for _ in range(found.tokens // 1024)]
        scores = Linear(worth, noise=2.0)(tried, 1024, 0)
        gains.append(worth @ np.array(found.parent) - worth @ np.array(tried[int(np.argmax(scores))]))
    assert min(gains) > 0


def test_every_stage_scores_on_a_sample_of_its_own_and_the_parent_joins_the_last() -> None:
    fitness = Linear(worths(0))
    found = evolve(LevelSpace(32, 2, 12), fitness, generations=3, offspring=8, stages=(Stage(3, 16), Stage(1, 64)))
    assert [sample for _, _, sample in fitness.asked] == list(range(6))
    assert [(count, tokens) for count, tokens, _ in fitness.asked] == [(8, 16), (4, 64)] * 3
    assert found.tokens == 3 * (8 * 16 + 4 * 64)


def test_a_parent_lives_by_the_new_sample_not_by_its_score_of_before() -> None:
    """The first sample flatters the start; a parent held by that score would never be left."""
    start: list[Candidate] = []

    def fitness(candidates: Sequence[Candidate], tokens: int, sample: int) -> list[float]:
        if sample == 0:
            return [float(each == start[0]) * 1e6 for each in candidates]
        return [float(np.dot(worths(1, 8), each)) for each in candidates]

    space = LevelSpace(8, 2, 3)
    start.append(space.start(np.random.default_rng(0)))
    found = evolve(space, fitness, generations=30, stages=(Stage(1, 1),))
    assert found.parent != start[0]


def test_a_search_that_is_interrupted_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    space, whole = LevelSpace(16, 3, 11), Linear(worths(3, 16), noise=1.0)
    at_once = evolve(space, whole, generations=12, seed=5)
    file = tmp_path / "search.json"

    def stop_at_five(state: Evolution) -> bool:
        state.save(file)
        return state.generation == 5

    evolve(space, whole, generations=12, seed=5, after=stop_at_five)
    assert Evolution.load(file).generation == 5
    assert evolve(space, whole, generations=12, seed=5, begun=Evolution.load(file)) == at_once


def test_values_that_are_no_numbers_never_win() -> None:
    def fitness(candidates: Sequence[Candidate], tokens: int, sample: int) -> list[float]:
        return [float("nan") if each[0] else float(np.dot(worths(2, 6), each)) for each in candidates]

    found = evolve(LevelSpace(6, 2, 3), fitness, generations=30, stages=EXACT)
    assert found.parent[0] == 0


def test_a_space_with_one_candidate_ends_with_it() -> None:
    assert evolve(LevelSpace(4, 2, 4), Linear(np.ones(4)), generations=2, stages=EXACT).parent == (1, 1, 1, 1)


@pytest.mark.parametrize(
    "stages", [(), (Stage(2, 1),), (Stage(4, 8), Stage(1, 4)), (Stage(2, 1), Stage(4, 1)), (Stage(1, 0),)]
)
def test_stages_that_do_not_narrow_are_refused(stages: tuple[Stage, ...]) -> None:
    with pytest.raises(InvalidInputError, match="stages"):
        evolve(LevelSpace(4, 2, 2), Linear(np.ones(4)), generations=1, stages=stages)


@pytest.mark.parametrize("broken", ["", "{}", "[1]", '{"parent": "x"}', '{"parent": [1], "other": 2}'])
def test_a_damaged_search_is_refused(tmp_path: Path, broken: str) -> None:
    file = tmp_path / "search.json"
    file.write_text(broken)
    with pytest.raises(DocumentError, match="search"):
        Evolution.load(file)


@pytest.mark.parametrize(("parts", "levels", "total"), [(4, 2, 5), (4, 2, -1), (0, 2, 0), (3, 1, 0)])
def test_a_budget_that_no_candidate_has_is_refused(parts: int, levels: int, total: int) -> None:
    with pytest.raises(InvalidInputError, match="total"):
        LevelSpace(parts, levels, total)
