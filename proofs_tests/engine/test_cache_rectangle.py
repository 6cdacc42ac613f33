"""The rectangular cache, holes and rearrangements and all, answers as the cache with a length a row does."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from proofs_tests.benchmarks.cache import measured
from proofs_tests.benchmarks.rectangle import RectangularCache, forward_rectangle
from proofs_tests.tiny import VOCABULARY, tiny_model
from reader_theory.memory import per_row_overhead, rectangular_bytes_per_step
from runtime.models.inputs import forward_trees
from runtime.models.load import wrap


@pytest.mark.parametrize("period", [1, 3, 100])
def test_a_rectangle_with_holes_gives_the_logits_of_a_row_cache(period: int) -> None:
    model, rng = wrap(tiny_model("llama")), np.random.default_rng(period)
    rows, rect = model.new_cache(3, 128), RectangularCache(2, 3, 128)
    parents = np.array([[-1, 0, 0, 1, 1, 2]] * 3)
    paths = [[0], [0, 1], [0, 2], [0, 1, 4], [0, 2, 5]]
    for step in range(10):
        tokens = rng.integers(0, VOCABULARY, parents.shape)
        ours = forward_trees(model, rows, tokens, parents, np.full(3, 6))
        theirs = forward_rectangle(model, rect, tokens, parents)
        torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=0)
        kept = [paths[i] for i in rng.integers(0, len(paths), 3)]
        most = max(map(len, kept))
        rows.commit(
            np.array([path + [-1] * (most - len(path)) for path in kept]), np.array([len(path) for path in kept])
        )
        rect.commit(kept)
        if step % period == period - 1:
            rect.rearrange()
            assert rect.columns == rect.lengths.max()
        assert rect.lengths.tolist() == rows.lengths[:3].tolist()


def test_bytes_moved_are_those_of_the_formulas() -> None:
    for batch in (1, 4):
        found = measured(batch, context=96, columns=8, steps=48, period=6, shape=(1, 1, 8))
        formula = rectangular_bytes_per_step(
            found["mean_context"], 8, found["mean_kept"], 6, batch=batch, kv_bytes=found["kv_bytes"]
        )
        assert found["rectangle_bytes"] == pytest.approx(formula, rel=0.15)
        most = per_row_overhead(found["mean_context"], found["mean_kept"]) * found["mean_context"]
        assert 0 < found["row_bytes"] <= most * batch * found["kv_bytes"]
