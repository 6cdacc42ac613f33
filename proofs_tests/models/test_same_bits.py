"""Where products are streamed and attention is compiled, a tree's logits are those of plain steps, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from runtime.kernels.attention import CompiledAttention, attention
from runtime.models import linear
from runtime.models.base import LanguageModel
from runtime.models.house import house_folder
from runtime.models.inputs import prefill, run_trees
from runtime.models.lean import LeanModel
from runtime.models.load import DTYPES, load_model
from runtime.models.products import ROW_BUCKETS, STREAMED, Choice, row_products

LENGTHS = (7, 40, 66)


def _after(model: LanguageModel, prompt: np.ndarray, path: np.ndarray) -> torch.Tensor:
    """(V,) logits after a prompt and a path, decoded token by token."""
    cache = model.new_cache(1, 128)
    logits = prefill(model, cache, prompt, 0)
    for token in path:
        logits = run_trees(model, cache, np.array([[token]]), np.array([[-1]]), np.array([1])).logits[0, 0]
        cache.lengths[0] += 1
    return logits


@pytest.mark.parametrize("nodes", [9, 42])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_nodes_of_ragged_trees_are_plain_steps_bit_for_bit(
    dtype: str, nodes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Up to about `EVEN_ROWS` tokens in one step."""
    made = attention(None, 1, 1, 1.0, dtype=DTYPES[dtype], device=torch.device("cpu"))
    if STREAMED not in row_products() or not isinstance(made, CompiledAttention):
        pytest.skip("torch's threads are not GNU's here")
    monkeypatch.setattr(linear, "choose", lambda *a, **k: Choice((STREAMED,) * len(ROW_BUCKETS)))
    model = load_model(house_folder("target"), dtype=dtype)
    assert isinstance(model, LeanModel)
    drawn = np.random.default_rng(0)
    prompts = [drawn.integers(3, model.vocabulary, length) for length in LENGTHS]
    cache = model.new_cache(len(LENGTHS), 128)
    for row, prompt in enumerate(prompts):
        prefill(model, cache, prompt, row)
    parents = np.array([[-1, *(drawn.integers(0, node) for node in range(1, nodes))] for _ in LENGTHS])
    tokens = drawn.integers(3, model.vocabulary, parents.shape)
    logits = run_trees(model, cache, tokens, parents, np.full(len(LENGTHS), nodes)).logits
    for row, prompt in enumerate(prompts):
        for node in range(nodes):
            path, above = [tokens[row, node]], parents[row, node]
            while above >= 0:
                path, above = [tokens[row, above], *path], parents[row, above]
            assert torch.equal(_after(model, prompt, np.array(path)), logits[row, node])
