"""What an engine fills anew every step: a tree's levels, a forward's inputs, and doors that trust their caller."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from proofs_tests.kernels import kernel_cases as cases
from reader_theory.errors import InvalidInputError, NotATreeError
from runtime.kernels.commit import KVPool, commit
from runtime.kernels.top import draft_level
from runtime.kernels.tree_inputs import TreeInputs, fill_tree_inputs
from runtime.kernels.verify import verify_greedy

seeds = st.integers(0, 2**32 - 1)


@given(seeds, st.integers(1, 4), st.integers(1, 5), st.sampled_from([3, 130, 1000]), st.booleans())
@settings(max_examples=60)
def test_a_level_holds_the_likeliest_tokens(seed: int, batch: int, asked: int, vocabulary: int, tied: bool) -> None:
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(batch, asked, vocabulary)).astype(np.float32)
    logits = np.round(logits) if tied else logits
    width, level = int(rng.integers(1, min(vocabulary, 9) + 1)), int(rng.integers(1, 8))
    queries, ranks = rng.integers(0, asked, (batch, level)), rng.integers(0, width, level)
    nodes, tokens = rng.permutation(level + 2)[:level], np.full((batch, level + 2), -5)
    order = np.argsort(-logits, axis=-1, kind="stable")
    expected = tokens.copy()
    for b in range(batch):
        expected[b, nodes] = [order[b, queries[b, i], ranks[i]] for i in range(level)]
    for trusted in (False, True):
        found = tokens.copy()
        draft_level(logits, width, queries, ranks, nodes, found, trusted=trusted)
        assert np.array_equal(found, expected)
    rounded = torch.from_numpy(logits).bfloat16()
    found, again = torch.from_numpy(tokens.copy()), tokens.copy()
    there = [torch.from_numpy(x) for x in (queries, ranks, nodes)]
    draft_level(rounded, width, *there, found)
    draft_level(rounded.float().numpy(), width, queries, ranks, nodes, again)
    assert np.array_equal(found.numpy(), again)


@pytest.mark.parametrize(
    ("change", "rule"),
    [({"width": 9}, "width"), ({"queries": [[2]]}, "queries"), ({"ranks": [1]}, "ranks"), ({"nodes": [-1]}, "nodes")],
)
def test_a_level_that_lies_outside_is_refused(change: dict[str, int], rule: str) -> None:
    case = {"width": 1, "queries": [[0]], "ranks": [0], "nodes": [0]} | change
    arrays = {name: np.array(x) for name, x in case.items() if name != "width"}
    tokens = np.full((1, 2), -5)
    with pytest.raises(InvalidInputError, match=rule):
        draft_level(np.zeros((1, 2, 8), np.float32), int(case["width"]), tokens=tokens, **arrays)
    assert (tokens == -5).all(), "nothing is half written"


@given(seeds, st.integers(1, 4), st.integers(1, 6))
def test_buffers_are_filled_as_the_door_fills_them(seed: int, batch: int, queries: int) -> None:
    rng = np.random.default_rng(seed)
    inputs: TreeInputs | None = None
    for _ in range(3):  # what an earlier step left behind must not shine through
        case = cases.inputs(rng, batch, queries)
        width = int(case["width"])
        if inputs is None or inputs.room < width:
            inputs = TreeInputs(batch, queries, width + 3, torch.float32, -3e38)
        tree = [np.array(case[name]) for name in ("parents", "counts", "lengths", "scratch")]
        tokens = rng.integers(0, 9, (batch, queries))
        filled = inputs.fill(width, tokens, *tree)
        mask, positions = np.empty((batch, queries, width), np.float32), np.empty((batch, queries), np.int64)
        fill_tree_inputs(mask, positions, *tree, -3e38)
        assert np.array_equal(filled.squeeze(1).numpy(), mask)
        assert np.array_equal(inputs.positions.numpy(), positions)
        assert np.array_equal(inputs.tokens.numpy(), tokens)
        assert np.array_equal(inputs.slots.numpy(), (tree[2] + tree[3])[:, None] + np.arange(queries))


def test_buffers_refuse_what_the_door_refuses() -> None:
    inputs, ones = TreeInputs(1, 2, 8, torch.float32, -3e38), np.ones(1, np.int64)
    tokens = np.zeros((1, 2), np.int64)
    with pytest.raises(NotATreeError):
        inputs.fill(8, tokens, np.array([[0, 1]]), 2 * ones, 3 * ones, 0 * ones)
    with pytest.raises(InvalidInputError, match="must fit"):
        inputs.fill(8, tokens, np.array([[-1, 0]]), 2 * ones, 7 * ones, 0 * ones)


def test_a_trusted_commit_still_refuses_a_path_that_leaves_the_pool() -> None:
    keys = [torch.arange(24.0).reshape(1, 1, 6, 4).contiguous()]
    pool, lengths = KVPool.of(keys, [keys[0].clone()]), np.array([2])
    before = keys[0].clone()
    with pytest.raises(InvalidInputError, match="increase"):
        commit(pool, lengths, np.array([[0, 5]]), np.array([2]), trusted=True)
    assert torch.equal(keys[0], before) and lengths.tolist() == [2]
    commit(pool, lengths, np.array([[1, 3]]), np.array([2]), trusted=True)
    assert torch.equal(keys[0][0, 0, 2:4], before[0, 0, [3, 5]]) and lengths.tolist() == [4]


@given(seeds, st.integers(1, 4), st.integers(1, 7))
def test_trusted_greedy_walks_are_the_same(seed: int, batch: int, width: int) -> None:
    case = cases.sampling(np.random.default_rng(seed), batch, width, 33)
    tree = [np.array(case[name]) for name in ("tokens", "parents", "counts")]
    logits = torch.from_numpy(np.array(case["logits"]))
    for a, b in zip(verify_greedy(logits, *tree, trusted=True), verify_greedy(logits.numpy(), *tree), strict=True):
        assert np.array_equal(a, b)
    tree[1][0, 0] = 0
    with pytest.raises(NotATreeError):
        verify_greedy(logits, *tree, trusted=True)
