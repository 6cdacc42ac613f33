"""A head's forward in one call is the one whose operations are called one by one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from proofs_tests.drafters.heads import KINDS, network_for
from proofs_tests.models.compiled import only_compiled
from runtime.drafters.head import whole
from runtime.drafters.head.cache import HeadCache
from runtime.drafters.head.model import HeadModel
from runtime.models.inputs import run_trees

SIZES: dict[str, Any] = {
    "hidden_size": 96, "intermediate_size": 160, "num_hidden_layers": 2, "num_attention_heads": 6,
    "num_key_value_heads": 2, "head_dim": 32, "vocab_size": 320, "max_position_embeddings": 256,
}  # fmt: skip
WIDTHS = {"thin": {"width": 64, "heads": 2, "kv_heads": 1, "own_embedding": True}}
"""Of `KINDS`, those whose sizes fit this target and what is compiled."""
LENGTHS, QUERIES = (5, 33, 66), 7


@pytest.fixture(autouse=True)
def compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    only_compiled(monkeypatch)


def _head(kind: str, dtype: torch.dtype = torch.float32) -> HeadModel:
    target: Any = LlamaForCausalLM(LlamaConfig(**SIZES))
    network = network_for(target, **WIDTHS.get(kind, KINDS[kind]))
    return HeadModel(network, target.get_input_embeddings().weight, dtype=dtype)


def _forwards(head: HeadModel, counts: tuple[int, ...]) -> tuple[torch.Tensor, ...]:
    """Logits of ragged trees in two forwards, one below the other, and all states; padding counts for nothing."""
    drawn, rows = np.random.default_rng(1), len(counts)
    cache = head.new_cache(rows, 128)
    assert isinstance(cache, HeadCache)
    for row, length in enumerate(LENGTHS[:rows]):
        hidden = torch.from_numpy(drawn.normal(size=(length + 1, len(head.features), 96))).float()
        head.give(cache, row, 0, hidden)
        cache.lengths[row] = length - 2
    held = np.array(counts)
    parents = np.array([[-1, *(drawn.integers(0, node) for node in range(1, 2 * QUERIES))] for _ in range(rows)])
    parents[:, QUERIES] = 0
    found: list[torch.Tensor] = []
    for tokens, written in ((drawn.integers(3, 320, (rows, QUERIES)), None), (parents[:, :2] + 5, held)):
        here = held if written is None else np.minimum(held, 2)
        logits = run_trees(head, cache, tokens, parents, here, written).logits
        found += [logits[row, :count] for row, count in enumerate(here)]
    ends = cache.lengths + held + np.minimum(held, 2)
    found += [cache.states[row, : end + 1] for row, end in enumerate(ends.tolist())]
    return tuple(found)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("counts", [(7,), (1, 7, 3), (7, 7, 7)])
def test_it_is_the_forward_of_its_operations(
    kind: str, counts: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    head, ran = _head(kind), list[int]()
    run = whole._Forward.__call__
    monkeypatch.setattr(whole._Forward, "__call__", lambda self, *a: ran.append(1) or run(self, *a))
    found = _forwards(head, counts)
    assert len(ran) == 2, "it was not run"
    monkeypatch.setattr(head, "_whole", None)
    expected = _forwards(head, counts)
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape and torch.equal(one.isinf(), other.isinf())
        one, other = (each.masked_fill(each.isinf(), 0) for each in (one, other))
        assert (one - other).abs().max() <= 2e-5 * other.abs().max()


def test_a_row_has_the_same_bits_in_any_company() -> None:
    head = _head("low rank")
    few, many = _forwards(head, (7, 2, 1)), _forwards(head, (7, 7, 7))
    assert torch.equal(few[0], many[0]) and torch.equal(few[1], many[1][:2]) and torch.equal(few[2], many[2][:1])
