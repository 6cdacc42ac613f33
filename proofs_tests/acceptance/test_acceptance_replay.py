"""A replay is exact: it emits what a plain walk over the recorded tokens emits, for every tree and every cap."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from reader_theory.acceptance import replay, replay_many, simulated_trace
from reader_theory.documents import Chain, Grown, Off, Policy, Static, policy_of
from reader_theory.documents.trace import Trace
from reader_theory.errors import InvalidInputError
from reader_theory.trees import TokenTree

TRACE = simulated_trace(prompts=7, tokens=60, spread=0.5, stickiness=0.6, copying=0.08)


@st.composite
def policies(draw: st.DrawFn) -> Policy:
    paths = draw(st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=5), max_size=8))
    offset = draw(st.sampled_from([0.0, 1.5, -1.0]))
    chain = Chain(min_match=draw(st.integers(1, 3)), offset=offset, factor=draw(st.floats(0, 3)), max_tokens=12)
    skip = draw(st.sampled_from([None, 1, 4]))
    return policy_of(TokenTree.from_rank_paths(paths), draw(st.sampled_from([None, chain])), skip)


def slow_steps(trace: Trace, policy: Policy, first: int) -> list[tuple[int, int, int]]:
    """(prompt, accepted, nodes) of every step, by looking rank paths up in a set of paths."""
    paths, steps = set(policy.tree.rank_paths()[1:]), []
    for prompt in range(len(trace.prompts)):
        rows = np.flatnonzero(trace.columns["prompt"] == prompt)
        column = {name: values[rows] for name, values in trace.columns.items()}
        t = first
        while t < len(rows):
            m = int(column["retrieval_match"][t])
            skip = policy.skip_at_match if policy.kind == "union" else None
            drafts = bool(paths) and (skip is None or m < skip)
            ranks = tuple(column["draft_rank"][t:].tolist()) if drafts else ()
            neural = next((d for d in range(len(ranks) + 1) if ranks[: d + 1] not in paths or d == len(ranks)), 0)
            cap = policy.retrieved.cap(m) if policy.retrieved else 0
            chain = min(cap, int(column["retrieval_offered"][t]))
            copied = min(chain, int(column["retrieval_run"][t]))
            steps.append((prompt, max(neural, copied), len(paths) * drafts + chain - min(neural, copied)))
            t += max(neural, copied) + 1
    return steps


@settings(max_examples=60)
@given(policies(), st.integers(0, 2))
def test_replay_equals_a_plain_walk(policy: Policy, first: int) -> None:
    result = replay_many(TRACE, [policy], first_position=first)[0]
    steps = slow_steps(TRACE, policy, first)
    for place in range(len(TRACE.prompts)):
        mine = [(accepted, nodes) for prompt, accepted, nodes in steps if prompt == place]
        accepted, nodes = np.array(mine).T
        assert result.steps[place] == len(mine) and result.verified_nodes[place] == nodes.sum()
        assert np.array_equal(
            result.nodes_histogram[place], np.bincount(nodes, minlength=result.nodes_histogram.shape[1])
        )
        assert np.array_equal(
            result.accepted_histogram[place], np.bincount(accepted, minlength=result.accepted_histogram.shape[1])
        )


@settings(max_examples=60)
@given(policies())
def test_every_recorded_token_is_emitted_once(policy: Policy) -> None:
    assert replay_many(TRACE, [policy])[0].tokens.tolist() == [prompt.output_tokens for prompt in TRACE.prompts]


@settings(max_examples=40)
@given(policies())
def test_a_mean_over_nodes_is_the_mean_over_steps(policy: Policy) -> None:
    result = replay_many(TRACE, [policy])[0]
    table = np.sqrt(np.arange(40.0))
    steps = [table[nodes] for _, _, nodes in slow_steps(TRACE, policy, 0)]
    assert result.mean_over_nodes(table) == pytest.approx(np.mean(steps))
    assert result.mean_over_nodes(np.arange(40.0)) == pytest.approx(result.nodes_per_step)


def test_nothing_drafted_is_one_token_a_step() -> None:
    result = replay(TRACE, Off())
    assert result.tokens_per_step == 1 and result.nodes_per_step == 0 and result.accepted_by_depth.size == 0


def test_a_wider_tree_never_needs_more_steps_in_the_end() -> None:
    small, large = TokenTree.chain(2), TokenTree.from_rank_paths([(0, 0, 0), (1,), (2,), (3,)])
    assert replay(TRACE, Static.of(large)).tokens_per_step > replay(TRACE, Static.of(small)).tokens_per_step


def test_a_replay_that_forgets_the_bonus_token_is_caught() -> None:
    steps = slow_steps(TRACE, Static.of(TokenTree.chain(3)), 0)
    planted = sum(accepted for _, accepted, _ in steps)
    assert planted != replay(TRACE, Static.of(TokenTree.chain(3))).tokens.sum()


def test_a_rank_that_was_not_recorded_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="4 candidates"):
        replay(TRACE, Static.of(TokenTree([-1, 0], [0, 4])))


def test_an_unknown_workload_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="simulated"):
        replay(TRACE, Static.of(TokenTree.chain(1)), workload="chat")


@pytest.mark.parametrize("bad", [(0, 0.0, 1.0, 4), (1, float("nan"), 1.0, 4), (1, 0.0, float("inf"), 4), (1, 0, 1, -1)])
def test_a_cap_that_caps_nothing_is_refused(bad: tuple[int, float, float, int]) -> None:
    with pytest.raises(ValidationError):
        Chain(**dict(zip(("min_match", "offset", "factor", "max_tokens"), bad, strict=True)))  # type: ignore[arg-type]


def test_a_grown_policy_is_not_replayed() -> None:
    with pytest.raises(InvalidInputError, match="recorded_grown"):
        replay(TRACE, Grown(nodes=4))
