"""A plan is as strong as the replay under it: what it chooses loses little to the best that any search finds."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray

from optimizer.held_out import Weights, keeps_up, optimism, spreads
from optimizer.plan import make_plan
from optimizer.search import Scorer, Space, climb
from proofs_tests.benchmarks.search import regrets
from proofs_tests.plans.plan_examples import cost, fit
from proofs_tests.plans.scenarios import drawn, step_cost, trace_of
from reader_theory.acceptance import fit_acceptance, simulated_trace
from reader_theory.acceptance.paths import RankPaths
from reader_theory.acceptance.statistics import rows_of
from reader_theory.documents import Chain, Off, Policy, Static, Union
from reader_theory.trees import TokenTree


@pytest.mark.parametrize("seed", [3, 7])
def test_a_plan_loses_little_to_the_best_policy_known_of_a_scenario(seed: int) -> None:
    found = regrets(drawn(seed), seed, "staircase", held=240)
    assert found["regret"]["plan"] <= 0.03
    assert found["regret"]["plan"] <= found["regret"]["family"] + 0.005


def test_cheap_deep_drafts_pass_the_first_limits_and_say_where_they_stop() -> None:
    recorded = simulated_trace(ranks=(0.95, 0.01), prompts=12, tokens=96, seed=1)
    cheap = cost(draft_s=1e-5)
    (entry,) = make_plan(fit(recorded), cheap, recorded, batches=(1,), resamples=100).entries
    (asked,) = make_plan(fit(recorded), cheap, recorded, batches=(1,), max_depth=8, resamples=100).entries
    assert entry.policy.tree.depth > 12, "the fit told 6 depths apart, and the search begins with 8"
    assert asked.policy.tree.depth == 8 and "max_depth" in asked.binding
    assert entry.prediction.tokens_per_s.value > 1.1 * asked.prediction.tokens_per_s.value
    sure = simulated_trace(ranks=(0.9999,), prompts=8, tokens=1 + 7 * 33, seed=1)
    (ended,) = make_plan(fit(sure), cheap, sure, batches=(1,), resamples=100).entries
    assert "tokens measured in the cost" in ended.binding


def test_search_changes_every_part_that_a_policy_has() -> None:
    chain = Chain(min_match=4, offset=2, factor=1.5, max_tokens=10)
    wanted = Union(static=Static.of(TokenTree.chain(3)), chain=chain, skip_at_match=6)

    def behaviour(policy: Policy) -> NDArray[np.float64]:
        caps = [policy.retrieved.cap(m) if policy.retrieved else 0 for m in range(33)]
        skip = policy.skip_at_match if policy.kind == "union" else None
        return np.array([policy.tree.nodes, skip or 0, *caps], dtype=np.float64)

    def closeness(policies: Sequence[Policy]) -> list[float]:
        return [1000 - float(np.abs(behaviour(p) - behaviour(wanted)).sum()) for p in policies]

    trees = [Static.of(TokenTree.chain(k)) for k in range(1, 6)]
    space = Space(trees, [Chain(min_match=1, factor=1, max_tokens=8)], 24)
    scorer = Scorer(closeness, 10_000)
    found = climb([Off()], space, scorer)
    assert scorer.known[found] == 1000 and (behaviour(found) == behaviour(wanted)).all()
    early = Scorer(closeness, 12)
    climb([Off()], space, early)
    assert early.spent and len(early.known) == 12


def test_paths_are_counted_and_taken_best_first() -> None:
    recorded = trace_of(drawn(0), 24, 5)
    rows = rows_of(recorded, "w")
    paths = RankPaths(rows, "draft", recorded.candidates)
    starts = np.arange(len(rows.rows))
    tree = paths.best_first(starts, 16, 4)
    assert tree.nodes == 16 and tree.depth <= 4
    rank = np.asarray(rows.column("draft_rank"))

    def share(node: int) -> float:
        path: list[int] = []
        while node > 0:
            path, node = [int(tree.ranks[node]), *path], int(tree.parents[node])
        fits = paths.left >= len(path)
        for depth, wanted in enumerate(path):
            fits &= np.roll(rank, -depth) == wanted
        return fits.sum() / len(rank)

    shares = [share(node) for node in range(1, len(tree))]
    assert all(later <= earlier * 1.1 + 0.01 for earlier, later in pairwise(shares))


def test_what_a_search_found_in_noise_does_not_hold_up_on_held_out_documents() -> None:
    g = np.random.default_rng(0)
    tokens, seconds, sources = np.full(24, 100.0), np.ones(200), np.arange(24) // 2
    noise = 100 / np.exp(0.2 * g.standard_normal((200, 24)))
    family = np.arange(200) < 1
    noise[0] = 95.0
    assert not keeps_up(Weights(tokens, noise, seconds, sources), family, 0)
    assert optimism(Weights(tokens, noise, seconds, sources), 0) > 0.02
    better = noise.copy()
    better[7] = 60.0
    assert keeps_up(Weights(tokens, better, seconds, sources), family, 0)
    told = spreads(Weights(tokens, better, seconds, sources))
    assert told[7] == pytest.approx(0) and 0.02 < told[8] < 0.1


def test_candidates_tell_their_spread_from_document_to_document() -> None:
    scenario = drawn(3)
    recorded = trace_of(scenario, 24, 9)
    (entry,) = make_plan(
        fit_acceptance(recorded, resamples=100),
        step_cost(scenario),
        recorded,
        batches=(1,),
        resamples=100,
        evaluations=300,
    ).entries
    spread = {candidate.policy: candidate.spread for candidate in entry.candidates}
    assert spread.pop(Off()) == pytest.approx(0)
    assert all(0.001 < each < 0.3 for each in spread.values())
