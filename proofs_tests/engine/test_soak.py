"""The soak in its short form: whatever comes, no step raises, nothing is left, texts are those of requests alone."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest

from proofs_tests.engine.soak import house_pair, soaked, tensor_bytes
from reader_theory.documents import Static
from reader_theory.rules.draft_law import DraftLaw
from reader_theory.trees import TokenTree
from runtime.engine.engine import Engine
from runtime.engine.sampling import SamplingParams
from runtime.models.table import TableModel


@pytest.mark.parametrize("seed", [0, 1])
def test_a_soaked_engine_holds(seed: int) -> None:
    soak = soaked(*house_pair(), seed, lambda soak: soak.steps < 60)
    assert soak.compared >= 4 and soak.refused >= 1


def test_an_engine_that_is_gone_leaves_no_tensor_behind() -> None:
    pair, held = house_pair(), list[int]()
    for seed in (3, 4, 5):
        soak = soaked(*pair, seed, lambda soak: soak.steps < 12)
        engine = weakref.ref(soak.engine)
        del soak
        gc.collect()
        assert engine() is None
        held.append(tensor_bytes())
    assert held[1] == held[2], held


def test_a_running_engine_keeps_nothing_as_wide_as_the_vocabulary() -> None:
    laws = np.full((5, 5), 0.2)
    engine = Engine(TableModel(laws), TableModel(laws), policy=Static.of(TokenTree.chain(3)), max_batch=2)
    params = SamplingParams(temperature=1.0, max_new_tokens=60, verification="chain")
    requests = [engine.add([1, 2], params), engine.add([3], params)]
    for _ in range(12):
        engine.step()
    gc.collect()
    kept = [each for each in gc.get_objects() if type(each) is DraftLaw]
    assert not any(request.done for request in requests) and not kept
