"""The soak in its short form: whatever comes, no step raises, nothing is left, texts are those of requests alone."""

from __future__ import annotations

import pytest

from proofs_tests.engine.soak import house_pair, soaked


@pytest.mark.parametrize("seed", [0, 1])
def test_a_soaked_engine_holds(seed: int) -> None:
    soak = soaked(*house_pair(), seed, lambda soak: soak.steps < 60)
    assert soak.compared >= 4 and soak.refused >= 1
