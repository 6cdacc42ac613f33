"""Sampled output of the engine has the target's law.

On the table model laws are known exactly, and each output position reads one uniform. Laws that are multiples of 1/4
make the text constant on each cell of a grid of 4 intervals a position, so that the midpoints of the cells enumerate
the law of the text through the public interface, without sampling error.
"""

from __future__ import annotations

from collections import Counter
from itertools import product
from typing import Any

import numpy as np
import pytest

from reader_theory.documents import Chain, Off, Policy, policy_of
from reader_theory.trees import TokenTree
from runtime.engine.engine import Engine
from runtime.engine.sampling import SamplingParams
from runtime.engine.step import Eager
from runtime.models.table import TableModel

GRID, LENGTH = 4, 4
_ROWS = np.array([[0, 1, 2, 1], [1, 1, 0, 2], [2, 0, 1, 1], [0, 0, 4, 0]]) / GRID
TARGET = np.stack([np.roll(_ROWS, shift, axis=1) for shift in range(4)])
DRAFT = np.array([[1, 1, 1, 1], [2, 1, 1, 0], [0, 2, 1, 1], [1, 1, 1, 1]]) / GRID
PROMPTS = [[1, 2, 1], [0], [2, 3, 2, 1, 2]]
POLICIES = {
    "chain": policy_of(TokenTree.chain(2)),
    "tree": policy_of(TokenTree.from_rank_paths([(0,), (1,), (0, 0), (0, 1), (1, 0)])),
    "both": policy_of(
        TokenTree.from_rank_paths([(0,), (1,), (0, 0)]), Chain(min_match=1, offset=2, factor=0, max_tokens=3)
    ),
}


def _exact_law(prompt: list[int]) -> dict[tuple[int, ...], int]:
    """Texts and their probabilities in units of GRID ** -LENGTH."""
    law: Counter[tuple[int, ...]] = Counter()
    for text in product(range(4), repeat=LENGTH):
        weight, before, last = 1, *[0, 0, *prompt][-2:]
        for token in text:
            weight *= round(TARGET[before, last, token] * GRID)
            before, last = last, token
        if weight:
            law[text] = weight
    return dict(law)


def _engine_law(policy: Policy, batch: int, backend: Any = "eager") -> list[dict[tuple[int, ...], int]]:
    served = Engine(
        TableModel(TARGET), TableModel(DRAFT), policy=policy, max_batch=batch, max_context=32, backend=backend
    )
    params = SamplingParams(temperature=1.0, max_new_tokens=LENGTH)
    laws: list[Counter[tuple[int, ...]]] = [Counter() for _ in PROMPTS]
    cells = (np.array(list(product(range(GRID), repeat=LENGTH))) + 0.5) / GRID
    requests = [[served.add(prompt, params, uniforms=u) for prompt in PROMPTS] for u in cells]
    while served.step():
        pass
    for row in requests:
        for law, request in zip(laws, row, strict=True):
            law[tuple(request.output)] += 1
    return [dict(law) for law in laws]


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("policy", POLICIES)
def test_sampled_output_has_the_target_law_exactly(policy: str, batch: int) -> None:
    assert _engine_law(POLICIES[policy], batch) == [_exact_law(prompt) for prompt in PROMPTS]


class _SharesUniforms(Eager):
    """A planted bug: every token of a step reads the uniform of the step's first position."""

    def verify(self, rows, proposal):  # type: ignore[no-untyped-def]
        for request in rows:
            start = len(request.output)
            request.uniforms = np.concatenate(
                [request.uniforms[: start + 1], np.full(LENGTH - start, request.uniforms[min(start, LENGTH - 1)])]
            )[:LENGTH]
        return super().verify(rows, proposal)


class _KeepsWrongEntries(Eager):
    """A planted bug: committing keeps the first scratch entries, whichever path was accepted."""

    def commit(self, walks):  # type: ignore[no-untyped-def]
        return super().commit(walks._replace(path=np.where(walks.path < 0, -1, np.arange(walks.path.shape[1]))))


@pytest.mark.parametrize("mutant", [_SharesUniforms, _KeepsWrongEntries])
def test_a_planted_bug_changes_the_law(mutant: type[Eager]) -> None:
    assert _engine_law(POLICIES["tree"], 3, mutant) != [_exact_law(prompt) for prompt in PROMPTS]


def test_text_depends_on_the_seed_and_not_on_drafts_or_batch() -> None:
    params = SamplingParams(temperature=1.0, max_new_tokens=20, seed=7)
    texts = []
    for policy, batch in ((Off(), 1), (POLICIES["both"], 1), (POLICIES["tree"], 3)):
        engine = Engine(TableModel(TARGET), TableModel(DRAFT), policy=policy, max_batch=batch, max_context=64)
        texts.append([done.tokens for done in engine.generate(PROMPTS, params)])
    assert texts[0] == texts[1] == texts[2]
    other = Engine(TableModel(TARGET), max_batch=1, max_context=64)
    changed = SamplingParams(temperature=1.0, max_new_tokens=20, seed=8)
    assert [done.tokens for done in other.generate(PROMPTS, changed)] != texts[0]
