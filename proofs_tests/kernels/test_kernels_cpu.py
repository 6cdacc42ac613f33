"""The CPU twins do exactly what plain Python and the package's own rules do, on random batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from proofs_tests.kernels import kernel_cases as cases
from proofs_tests.kernels import kernel_references as truth
from reader_theory.errors import InvalidInputError, NotATreeError
from runtime.drafters.parts import TreeBuilder
from runtime.kernels.commit import KVPool, commit
from runtime.kernels.merge import merge_candidates
from runtime.kernels.tree_inputs import fill_tree_inputs
from runtime.kernels.verify import verify_greedy, verify_target_only

seeds = st.integers(0, 2**32 - 1)
sizes = st.integers(1, 9)


@given(seeds, sizes, sizes)
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_tree_inputs_show_context_and_ancestors(dtype: str, seed: int, batch: int, queries: int) -> None:
    case = cases.inputs(np.random.default_rng(seed), batch, queries)
    seen, positions = truth.tree_inputs(case, queries)
    mask = torch.full((batch, queries, int(case["width"])), 7.0, dtype=getattr(torch, dtype))
    found = torch.full((batch, queries), -9)
    hidden = float(torch.finfo(mask.dtype).min)
    rows = [torch.from_numpy(case[name]) for name in ("parents", "counts", "lengths", "scratch")]
    fill_tree_inputs(mask, found, *rows, hidden)
    wanted = torch.zeros_like(mask).masked_fill_(~torch.from_numpy(seen), hidden)
    assert torch.equal(mask, wanted)
    assert np.array_equal(found.numpy(), positions)


@given(seeds, sizes, sizes, st.sampled_from([4, 7, 40, 3000]), st.sampled_from(["float32", "float64"]))
@settings(max_examples=60)
def test_target_only_walks_as_the_engine_does(seed: int, batch: int, width: int, vocabulary: int, dtype: str) -> None:
    case = cases.sampling(np.random.default_rng(seed), batch, width, vocabulary, dtype)
    walks = verify_target_only(**case)
    assert [truth.walk_of(walks, b) for b in range(batch)] == [truth.target_only(case, b) for b in range(batch)]


@given(seeds, sizes, sizes, st.sampled_from([5, 2500]))
@settings(max_examples=30)
def test_greedy_follows_argmax_in_every_dtype(seed: int, batch: int, width: int, vocabulary: int) -> None:
    case = cases.sampling(np.random.default_rng(seed), batch, width, vocabulary)
    tree = [torch.from_numpy(case[name]) for name in ("tokens", "parents", "counts")]
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        logits = torch.from_numpy(case["logits"]).to(dtype)
        best = logits.argmax(-1)
        walks = verify_greedy(logits, *tree)
        for b in range(batch):
            expected = truth.tree_of(case, b).follow(lambda path, row=best[b]: int(row[path[-1]]))
            assert truth.walk_of(walks, b) == expected


@given(seeds, st.integers(1, 4), st.integers(1, 6), st.sampled_from([torch.float32, torch.bfloat16, torch.float64]))
@settings(max_examples=40)
def test_commit_moves_the_path_and_nothing_else(seed: int, batch: int, width: int, dtype: torch.dtype) -> None:
    rng = np.random.default_rng(seed)
    case, first = cases.paths(rng, batch, width), int(rng.integers(0, 3))
    stores = [torch.from_numpy(rng.normal(size=(batch + first, 2, 16, 6))).to(dtype) for _ in range(6)]
    expected = [truth.committed(store.double().numpy(), case, first) for store in stores]
    lengths = case["lengths"].copy()
    commit(KVPool.of(stores[::2], stores[1::2]), lengths, case["path"], case["kept"], first_row=first)
    assert np.array_equal(lengths, case["lengths"] + case["kept"])
    for store, wanted in zip(stores, expected, strict=True):
        assert np.array_equal(store.double().numpy(), wanted)


@given(seeds, sizes, st.integers(0, 25), st.integers(0, 20), st.sampled_from([0.0, 0.3, 0.95]))
@settings(max_examples=120)
def test_merge_keeps_the_likeliest_above_the_price(seed: int, batch: int, size: int, nodes: int, price: float) -> None:
    case = cases.candidates(np.random.default_rng(seed), batch, size)
    out = merge_candidates(**case, nodes=nodes, price=price)
    for b in range(batch):
        expected = truth.merged(case, b, nodes, price)
        count = int(out.counts[b])
        found = list(zip(*(x[b, 1:count].tolist() for x in out[:3]), strict=True))
        assert found == expected
        assert (out.tokens[b, 0], out.parents[b, 0], out.probability[b, 0]) == (case["tokens"][b, 0], -1, 1.0)
        assert not out.tokens[b, count:].any() and (out.parents[b, count:] == -1).all()


@given(seeds)
@settings(max_examples=30)
def test_merge_without_a_price_merges_equal_siblings(seed: int) -> None:
    rng = np.random.default_rng(seed)
    case = cases.candidates(rng, 1, 14)
    case["tokens"] = np.abs(case["tokens"])
    case["probability"], case["budgets"] = np.ones((1, 15)), np.array([14])
    root, *tokens = case["tokens"][0].tolist()
    trie = TreeBuilder(root)
    trie.add(tokens, case["parents"][0, 1:].tolist())
    out = merge_candidates(**case, nodes=14)
    count = int(out.counts[0])
    assert (out.tokens[0, :count].tolist(), out.parents[0, :count].tolist()) == (trie.tokens, trie.parents)


def bad_calls() -> dict[str, tuple[type[Exception], str, Callable[[], Any]]]:
    rng = np.random.default_rng(0)
    walk, merge = cases.sampling(rng, 2, 4, 5), cases.candidates(rng, 2, 5)
    kv = [torch.zeros(2, 1, 8, 4)]
    odd = torch.zeros(2, 1, 8, 1, dtype=torch.bfloat16)
    pool, path = KVPool.of(kv, kv), np.array([[0, 1], [0, 1]])
    two = np.array([2, 2])

    def tree(**other: Any) -> Callable[[], Any]:
        return lambda: verify_target_only(**(walk | other))

    return {
        "logits of another vocabulary": (InvalidInputError, "`uniforms`", tree(uniforms=walk["uniforms"][:, :3])),
        "float16 logits": (InvalidInputError, "`logits`", tree(logits=walk["logits"].astype(np.float16))),
        "a count of 0": (InvalidInputError, "`counts`", tree(counts=np.array([1, 0]))),
        "a parent after its node": (
            NotATreeError,
            "row 0",
            tree(parents=np.array([[-1, 2, 0, 0]] * 2), counts=two + 2),
        ),
        "logits with gaps": (InvalidInputError, "contiguous", tree(logits=np.zeros((2, 4, 10), np.float32)[..., ::2])),
        "a path that leaves the pool": (
            InvalidInputError,
            "row 1",
            lambda: commit(pool, np.array([0, 7]), path, two),
        ),
        "a path that turns back": (InvalidInputError, "row 0", lambda: commit(pool, two, path[:, ::-1].copy(), two)),
        "rows beyond the pool": (InvalidInputError, "rows", lambda: commit(pool, two, path, two, first_row=1)),
        "layers that differ": (InvalidInputError, "layer 1", lambda: KVPool.of(kv * 2, [*kv, kv[0].double()])),
        "entries of odd bytes": (InvalidInputError, "4 bytes", lambda: KVPool.of([odd], [odd])),
        "a negative price": (InvalidInputError, "`price`", lambda: merge_candidates(**merge, nodes=3, price=-1.0)),
        "a candidate before its parent": (
            NotATreeError,
            "row 0",
            lambda: merge_candidates(**(merge | {"parents": np.full((2, 6), 3)}), nodes=3),
        ),
        "a mask too narrow": (
            InvalidInputError,
            "row 1",
            lambda: fill_tree_inputs(
                np.zeros((2, 2, 4), np.float32),
                path.copy(),
                np.array([[-1, 0]] * 2),
                two,
                np.array([2, 3]),
                0 * two,
                -1.0,
            ),
        ),
        "a mask of a cycle": (
            NotATreeError,
            "row 0",
            lambda: fill_tree_inputs(
                np.zeros((2, 2, 9), np.float32), path.copy(), np.array([[1, 0]] * 2), two, two, 0 * two, -1.0
            ),
        ),
    }


@pytest.mark.parametrize("name", bad_calls())
def test_doors_refuse(name: str) -> None:
    error, words, call = bad_calls()[name]
    with pytest.raises(error, match=words):
        call()


def test_a_door_takes_views_and_never_copies() -> None:
    store = torch.zeros(1, 1, 8, 4)
    store[0, 0, 3] = 1
    commit(KVPool.of([store], [store.clone()]), torch.tensor([0]), torch.tensor([[0, 3]]), torch.tensor([2]))
    assert store[0, 0, 1].tolist() == [1, 1, 1, 1]
