"""One water level at run time: a batch keeps its likeliest nodes, as the optimizer's allocation would choose them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimizer.solvers.allocation import allocate
from proofs_tests.benchmarks.water_level import laws_of, tokens_at
from reader_theory.documents import Grown
from runtime.drafters.grown import GrownDrafter
from runtime.drafters.water import level_sizes
from runtime.retrieval.index import RetrievalIndex

COPYING, PLAIN = [*range(40)] * 3, [int(x) for x in np.random.default_rng(0).integers(0, 9, 60)]


def grown_sizes(policy: Grown, budgets: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Sizes and chances of the trees of two rows that copy and two that do not."""
    texts = [RetrievalIndex(np.array(tokens, np.int32)) for tokens in (COPYING, PLAIN, COPYING[:100], PLAIN[:40])]
    grown, _ = GrownDrafter(None).grow(policy, texts, np.array(budgets))
    return grown.sizes, grown.chances


@pytest.mark.parametrize("share", [0.5, 3, 6.25, 12])
def test_a_batch_keeps_what_the_allocation_chooses(share: float) -> None:
    alone, chances = grown_sizes(Grown(drafter=None, nodes=24), [24] * 4)
    shared, _ = grown_sizes(Grown(drafter=None, nodes=24, share=share), [24] * 4)
    total = int(share * 4)
    flat = np.where(np.arange(chances.shape[1]) < alone[:, None], chances, 0.0)
    found = allocate(flat, np.append(np.full(total, 1.0), 1.0), 4)
    assert found is not None and found.nodes == min(total, int(alone.sum())) == shared.sum()
    assert flat[np.arange(flat.shape[1]) < shared[:, None]].sum() == pytest.approx(found.tokens - 4, rel=1e-6)


def test_rows_that_copy_get_the_nodes_that_others_do_not_use() -> None:
    shared, _ = grown_sizes(Grown(drafter=None, nodes=24, share=8), [24] * 4)
    assert shared.sum() == 32 and min(shared[0], shared[2]) > 8 > max(shared[1], shared[3])


def test_a_row_without_room_gets_nothing_and_gives_no_share() -> None:
    shared, _ = grown_sizes(Grown(drafter=None, nodes=24, share=5), [24, 24, 0, 24])
    assert shared[2] == 0 and shared.sum() == 15


@given(st.lists(st.lists(st.floats(0.01, 1), min_size=3, max_size=3), min_size=1, max_size=6), st.integers(0, 20))
def test_no_node_that_is_left_out_is_likelier_than_one_that_is_kept(rows: list[list[float]], total: int) -> None:
    chances = -np.sort(-np.array(rows), axis=1)
    sizes = np.arange(len(rows)) % 4
    kept = level_sizes(chances, sizes, total)
    assert (kept <= sizes).all() and kept.sum() == min(total, sizes.sum())
    place = np.arange(3)
    inside = chances[place < kept[:, None]]
    outside = chances[(place >= kept[:, None]) & (place < sizes[:, None])]
    assert not inside.size or not outside.size or inside.min() >= outside.max()


@pytest.mark.parametrize("batch", [8, 16, 32, 64])
def test_one_level_gives_a_seventh_more_than_the_best_uniform_budget(batch: int) -> None:
    """A quarter of rows copies; nodes are chosen by estimates that err, and valued by the truth."""
    ratios = []
    for seed in range(20):
        found = tokens_at(*laws_of(batch, seed))
        ratios.append(found["level"] / found["uniform"])
    assert np.mean(ratios) >= 1.15 and min(ratios) >= 1.0
