"""What a forward computes when rows draw their nodes: the widest row's for all, or each row's own."""

from __future__ import annotations

import numpy as np
import pytest

from optimizer.forecast import _computed

HISTOGRAM = np.array([30, 5, 5, 0, 10, 0, 0, 0, 50])
"""Of 0 to 8 nodes."""


def _drawn(batch: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    return 1 + rng.choice(len(HISTOGRAM), p=HISTOGRAM / HISTOGRAM.sum(), size=(200_000, batch))


@pytest.mark.parametrize("batch", [1, 2, 4, 8])
@pytest.mark.parametrize("packed", [False, True])
def test_the_chance_of_each_number_of_tokens_is_that_of_drawn_rows(batch: int, packed: bool) -> None:
    rows = _drawn(batch)
    computed = rows.mean(axis=1) if packed else rows.max(axis=1)
    tokens, chances = _computed(HISTOGRAM, batch, packed=packed)
    assert chances.sum() == pytest.approx(1.0) and (chances > 0).all()
    assert tokens @ chances == pytest.approx(computed.mean(), rel=0.005)
    for each in np.unique(computed):
        assert chances[np.isclose(tokens, each)].sum() == pytest.approx((computed == each).mean(), abs=0.005)
