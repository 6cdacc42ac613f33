"""Retrieved trees are trees, priced and budgeted, and every node is looked up anew.

A node of the tree carries P = product of p along its path. Grown best first, the tree of a larger budget starts with
the tree of a smaller one, P never grows along a path or in the order of growth, and no two siblings share a token.
"""

from __future__ import annotations

import gc
import weakref
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit, types

from reader_theory.errors import InvalidInputError
from reader_theory.trees import TokenTree
from runtime.retrieval.bodies import candidates, growth
from runtime.retrieval.bodies import context_tree as tree
from runtime.retrieval.bodies.memory import lean
from runtime.retrieval.datastore import Datastore
from runtime.retrieval.growing import growing
from runtime.retrieval.index import Evidence, GrowthArrays, RetrievalIndex

TEXTS = st.lists(st.integers(0, 5), min_size=1, max_size=80)


def row_of(grown: GrowthArrays, row: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tokens, parents and path probabilities of one row's nodes."""
    size = int(grown.sizes[row])
    return grown.tokens[row, :size], grown.parents[row, :size], grown.chances[row, :size]


def check_tree(grown: GrowthArrays, budget: int, price: float) -> None:
    tokens, parents, chances = row_of(grown)
    assert tokens.size <= budget
    assert (parents < np.arange(parents.size)).all() and (parents >= -1).all()
    before = np.where(parents >= 0, chances[parents], 1.0)
    assert (chances <= before).all() and (chances > price).all()
    assert (np.diff(chances) <= 1e-12).all()
    assert len(set(zip(parents.tolist(), tokens.tolist(), strict=True))) == tokens.size


@given(text=TEXTS, documents=st.lists(TEXTS, max_size=3), budget=st.integers(1, 40), price=st.floats(0, 0.5))
@settings(max_examples=100, deadline=None)
def test_every_draft_is_a_tree_within_budget_and_price(
    text: list[int], documents: list[list[int]], budget: int, price: float
) -> None:
    index = RetrievalIndex(text, Datastore.build(documents))
    for single in (False, True):
        check_tree(index.grow(budget, price, single=single), budget, price)
    chain = index.grow(budget, price, single=True).trees([text[-1]])[0]
    assert chain.is_chain and chain.tokens is not None and chain.tokens[0] == text[-1]


@given(text=TEXTS)
@settings(max_examples=60, deadline=None)
def test_children_of_a_node_never_have_more_than_its_probability_together(text: list[int]) -> None:
    _, parents, chances = row_of(RetrievalIndex(text).grow(60))
    for node in range(-1, parents.size):
        mass = chances[node] if node >= 0 else 1.0
        assert chances[parents == node].sum() <= mass + 1e-12


def test_a_node_is_looked_up_anew_where_its_occurrence_runs_out() -> None:
    index = RetrievalIndex([1, 2, 3, 9, 3, 4, 5, 8, 1, 2])
    drafted = index.tree(24)
    paths = {tuple(path_to(drafted, node)) for node in range(len(drafted))}
    assert (3, 9) in paths
    assert (3, 4) in paths, "after 2 3 only 9 followed; 4 follows the shorter context 3"


def path_to(drafted: TokenTree, node: int) -> list[int]:
    assert drafted.tokens is not None
    return drafted.tokens[drafted.path(node)[1:]].tolist()


def test_a_context_never_meets_itself() -> None:
    assert RetrievalIndex([1, 2, 3, 4]).tree(8).nodes == 0
    assert RetrievalIndex([5]).tree(8).nodes == 0
    assert RetrievalIndex([]).tree(8).nodes == 0
    alone = RetrievalIndex([1, 2, 1])
    assert alone.match_count == 1 and alone.grow(1).tokens[0].tolist() == [2]


def test_a_draft_depends_on_the_prefix_only() -> None:
    text = np.random.default_rng(6).integers(0, 6, 300)
    whole, pieces = RetrievalIndex(text), RetrievalIndex(text[:50])
    for low in range(50, 300, 3):
        pieces.extend(text[low : low + 3])
    for one, other in zip(whole.grow(30), pieces.grow(30), strict=True):
        assert one.tolist() == other.tolist()


def test_copying_goes_on_after_an_insertion_and_after_a_replacement() -> None:
    source = list(range(100, 140))
    inserted = RetrievalIndex([*source, 1, *source[:12], 50])
    offered = dict(zip(*(column.tolist() for column in inserted.offers()[:2]), strict=True))
    assert offered[source[12]] > 0.05
    inserted.extend([source[12]])
    assert inserted.grow(3).tokens[0].tolist() == source[13:16]
    replaced = RetrievalIndex([*source, 1, *source[:12], 50])
    replaced.extend([source[13]])
    assert replaced.grow(3).tokens[0].tolist() == source[14:17]


def test_a_long_copy_is_trusted_again_sooner_after_an_edit_than_a_short_one() -> None:
    def sure(length: int) -> float:
        source = list(range(100, 140))
        text = [*source, 1, *source[20 - length : 20], 50]
        index = RetrievalIndex(text)
        index.extend(source[21:22])
        tokens, _, chances = row_of(index.grow(3, single=True))
        assert tokens.tolist() == source[22:25]
        return float(chances[0])

    assert sure(18) > 1.05 * sure(5)


def test_a_systematic_replacement_is_offered_where_the_old_token_stood() -> None:
    old = [10, 11, 7, 12, 13, 14, 15, 16, 7, 17, 18, 19, 20, 21, 7, 22, 23]
    text = [*old, 99, *[8 if token == 7 else token for token in old[:14]]]
    drafted = RetrievalIndex(text).tree(64)
    assert drafted.tokens is not None and {7, 8} <= set(drafted.tokens[drafted.children()].tolist())


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_a_batch_equals_its_single_calls(threads: int) -> None:
    generator = np.random.default_rng(7)
    store = Datastore.build([generator.integers(0, 9, 500) for _ in range(4)])
    store.add(generator.integers(0, 9, 100))
    indices = [RetrievalIndex(generator.integers(0, 9, 10 * n), store) for n in range(1, 12)]
    budgets = generator.integers(1, 40, 11)
    together = growing(indices, budgets, 0.01, threads=threads)()
    for row, (index, budget) in enumerate(zip(indices, budgets.tolist(), strict=True)):
        for one, other in zip(row_of(index.grow(budget, 0.01)), row_of(together, row), strict=True):
            assert one.tolist() == other.tolist()


@given(text=TEXTS, documents=st.lists(TEXTS, min_size=1, max_size=4))
@settings(max_examples=60, deadline=None)
def test_a_likely_node_stands_in_the_datastore_where_its_context_does(
    text: list[int], documents: list[list[int]]
) -> None:
    """A child's share of a node's probability is its score at the root of text and path: rows are carried exactly."""
    alone = Evidence.smooth(own=(0, 1), delta=(0, 1), copy=(0, 1), corrected=0, inserted=0, replaced=0)
    store = Datastore.build(documents)
    index = RetrievalIndex(text, store, evidence=alone)
    drafted, chances = index.tree(40), [1.0, *index.grow(40).chances[0].tolist()]
    for node in range(1, len(drafted)):
        above = int(drafted.parents[node])
        if chances[above] > growth.WIDE:
            there = RetrievalIndex([*text, *path_to(drafted, above)], store, evidence=alone)
            scores = dict(zip(*(column.tolist() for column in there.offers()[:2]), strict=True))
            assert chances[node] == pytest.approx(chances[above] * scores[path_to(drafted, node)[-1]])


def test_a_draft_below_tokens_that_nobody_stored_is_still_a_draft() -> None:
    store = Datastore.build([[1, 2, 3, 4], [2, 3, 5]])
    text = [7, 8, 9, 7, 8, 9, 7, 8, 1, 2, 9, 7]
    drafted = RetrievalIndex(text, store).grow(64)
    assert (drafted.chances < growth.SOUGHT).any()
    check_tree(drafted, 64, 0.0)


@lean()
def drained(scratch, chances, order, budget):  # type: ignore[no-untyped-def]
    pool = candidates.pool_at(scratch.ctypes.data, chances.size)
    for chance in chances:
        candidates.put(pool, chance, candidates.class_of(chance), budget)
    for rank in range(budget):
        order[rank] = candidates.take(pool)


def ordered(chances: np.ndarray, budget: int) -> np.ndarray:
    order = np.empty(budget, np.int64)
    drained(np.empty(16 * chances.size + 128, np.int64), chances, order, budget)
    return order


@given(
    chances=st.lists(st.sampled_from([0.9, 0.5, 0.5 - 1e-9, 0.3, 0.1, 1e-3, 1e-9]), min_size=1, max_size=50),
    budget=st.integers(1, 60),
)
@settings(max_examples=60, deadline=None)
def test_candidates_are_taken_best_first_and_equals_in_order(chances: list[float], budget: int) -> None:
    order = ordered(np.array(chances), budget)
    best = sorted(range(len(chances)), key=lambda at: (-chances[at], at))[:budget]
    assert order.tolist() == best + [-1] * (budget - len(best))


@pytest.mark.parametrize("body", [tree.extend, tree.chain], ids=["extend", "chain"])
def test_bodies_that_own_no_memory_count_no_references(body: Any) -> None:
    index = RetrievalIndex([1, 2, 1])
    index.extend(np.array([2], np.int32))
    index.chain(4)
    kept = {name: body.targetoptions[name] for name in ("nogil", "_nrt", "error_model")}
    fresh = njit(**kept)(body.py_func)  # what was read from numba's cache has no assembly to look at
    fresh.compile(body.signatures[0])
    assert not any("NRT_incref" in text for text in fresh.inspect_asm().values())


def test_the_word_that_is_looked_for_is_right() -> None:
    counted = njit(nogil=True)(tree.extend.py_func)
    counted.compile((types.int64[::1], types.int32[::1]))
    assert any("NRT_incref" in text for text in counted.inspect_asm().values())


def test_rows_of_several_datastores_grow_in_one_batch_as_alone() -> None:
    """A store a tenant: what one learned is drafted for its own rows only, wherever they stand in the batch."""
    generator = np.random.default_rng(8)
    common = Datastore.build([generator.integers(0, 9, 300)])
    tenants = [common.for_tenant() for _ in range(3)]
    for number, store in enumerate(tenants):
        store.add([20, 21, 22, 30 + number])
    doubtful = Evidence.smooth(own=(0.1, 1.0))
    indices = [
        RetrievalIndex([*generator.integers(0, 9, 5 * n), 20, 21, 22], store, evidence=evidence)
        for n, (store, evidence) in enumerate([(s, e) for e in (None, doubtful) for s in (*tenants, common, None)])
    ]
    together = growing(indices, 12, 0.01, threads=2)()
    for number, index in enumerate(indices):
        learned = {int(token) - 30 for token in row_of(together, number)[0] if token >= 30}
        assert learned == ({number % 5} if number % 5 < 3 else set())
        for one, other in zip(row_of(index.grow(12, 0.01)), row_of(together, number), strict=True):
            assert one.tolist() == other.tolist()


def test_what_grows_again_and_again_keeps_its_indices() -> None:
    """The bodies read buffers by their addresses: nobody else may hold them any more."""
    index = RetrievalIndex([1, 2, 1])
    seen, grow = weakref.ref(index), growing([index], 2)
    del index
    gc.collect()
    assert seen() is not None and grow().trees([1])[0].tokens.tolist() == [1, 2, 1]  # type: ignore[union-attr]


@pytest.mark.parametrize(("budget", "price"), [(0, 0.0), (-1, 0.0), (4, -0.1), (4, float("nan"))])
def test_a_senseless_budget_or_price_is_refused(budget: int, price: float) -> None:
    with pytest.raises(InvalidInputError, match=r"budget|price"):
        RetrievalIndex([1, 2, 1]).tree(budget, price)
    with pytest.raises(InvalidInputError, match=r"budget|price"):
        growing([RetrievalIndex([1, 2, 1])], budget, price)


def test_fitted_evidence_replaces_the_default() -> None:
    shy = Evidence.smooth(own=(1e-3, 0.0), copy=(0.0, 1.0))
    text = [1, 2, 3, 1, 2]
    assert RetrievalIndex(text, evidence=shy).tree(4, 0.05).nodes == 0
    assert RetrievalIndex(text).tree(4, 0.05).nodes > 0
    with pytest.raises(InvalidInputError, match="odds"):
        Evidence(np.ones((3, 33)))
    with pytest.raises(InvalidInputError, match="odds"):
        Evidence(np.full((4, 33), np.nan))
    with pytest.raises(InvalidInputError, match="escape"):
        Evidence.smooth(escape=0.0)


def test_a_request_without_its_datastore_alive_is_still_safe() -> None:
    index = RetrievalIndex([1, 2], Datastore.build([[1, 2, 3, 4]]))
    assert index.grow(4).tokens[0].tolist() == [3, 4]
