"""On its real stream keys: two draws of an engine that share a key share a number, and their law shows it.

Every number comes out of the counter-based generator by its key (seed, request, step; stream) and place. Here each such
place holds a forking uniform of its own, handed out again whenever the place is read again, so that the exact law of
the text is the law under the keys that the engine really uses.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from proofs_tests.engine.test_engine_rules import DRAFT, DRAWN, LENGTH, PROMPT, Text, _engine, _exact, _gap
from reader_theory.documents import policy_of
from reader_theory.rules import streams
from reader_theory.rules.exact import Forks, outcome_law
from reader_theory.trees import TokenTree
from runtime.engine.engine import Engine
from runtime.engine.sampling import SamplingParams
from runtime.models.table import TableModel

SEED = 7


class _Keyed:
    """A generator at each key that hands out forking uniforms, the same ones whenever the key comes again."""

    def __init__(self, forks: Forks) -> None:
        self.forks, self.held = forks, dict[Any, NDArray[Any]]()

    def at(self, keys: tuple[int, int, int], place: int) -> _Keyed:
        self.key = keys, place
        return self

    def random(self, count: int) -> NDArray[Any]:
        held = self.held.get(self.key, np.empty(0, dtype=object))
        if len(held) < count:
            held = self.held[self.key] = np.concatenate([held, self.forks.uniforms(count - len(held))])
        return held[:count].copy()


def _law(rule: str, monkeypatch: pytest.MonkeyPatch, confuse: Any = None) -> dict[Text, float]:
    engine = _engine(TokenTree.chain(2) if rule in ("chain", "block") else TokenTree.from_rank_paths([(0,), (1,)]))
    params = SamplingParams(temperature=1.0, max_new_tokens=LENGTH, verification=rule, seed=SEED)
    own = partial(confuse, streams.stream_uniforms) if confuse else None

    def run(forks: Forks) -> Text:
        monkeypatch.setattr(streams, "_generator_at", _Keyed(forks).at)
        request = engine.add(PROMPT, params, number=0, streams=own)
        while engine.step():
            pass
        return tuple(request.output)

    return {text: float(share) for text, share in outcome_law(run).items() if share}


@pytest.mark.parametrize("rule", ["chain", *(pytest.param(rule, marks=pytest.mark.slow) for rule in DRAWN[1:])])
def test_text_has_the_target_law_on_the_real_keys(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert _gap(_law(rule, monkeypatch), _exact()) < 1e-12


def _steps_from_zero(uniforms: Any, stream: Any, at: int, count: int) -> NDArray[Any]:
    """Step 1's recovery reads the key of the number that drew the first token."""
    return uniforms(SEED, 0, at - 1, stream, count)


def _one_stream(uniforms: Any, stream: Any, at: int, count: int) -> NDArray[Any]:
    """Acceptance reads, node by node, the key of drafting."""
    if stream == "acceptance":
        return np.append(np.zeros(1), uniforms(SEED, 0, at, "drafting", count - 1))
    return uniforms(SEED, 0, at, stream, count)


def _one_step(uniforms: Any, stream: Any, at: int, count: int) -> NDArray[Any]:
    """Every step reads the numbers of the first."""
    return uniforms(SEED, 0, 1, stream, count)


@pytest.mark.parametrize("confuse", [_steps_from_zero, _one_stream, _one_step])
def test_two_draws_that_share_a_key_are_caught(confuse: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert _gap(_law("chain", monkeypatch, confuse), _exact()) > 1e-3


def test_a_coupled_draft_that_agrees_with_its_target_is_always_kept() -> None:
    """Draft and target run one race on one row of noise: whatever its rows, they finish alike."""
    policy = policy_of(TokenTree.chain(3))
    engine = Engine(TableModel(DRAFT), TableModel(DRAFT), policy=policy, max_batch=3, max_context=128)
    params = SamplingParams(temperature=1.0, max_new_tokens=41, verification="gumbel", seed=1)
    done = engine.generate([PROMPT, [0], [3, 3]], params)
    assert [(each.steps, each.accepted) for each in done] == [(10, 30)] * 3


def test_a_shifted_noise_is_caught_by_its_acceptance(monkeypatch: pytest.MonkeyPatch) -> None:
    """The drafter reads the row of the position after the one it drafts for; the text keeps its law, drafts do not."""
    from runtime.drafters import sampled

    class Shifted(sampled.Ask):
        @classmethod
        def of(cls, *given: Any) -> sampled.Ask:
            right = sampled.Ask.of(*given)
            return replace(right, noise=lambda depth: right.noise(depth + 1))

    monkeypatch.setattr("runtime.drafters.neural.Ask", Shifted)
    with pytest.raises(AssertionError):
        test_a_coupled_draft_that_agrees_with_its_target_is_always_kept()
