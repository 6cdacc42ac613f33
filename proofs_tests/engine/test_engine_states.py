"""Any order of joining, leaving, cancelling and stepping, whatever is drafted and accepted, keeps the engine right.

A state machine drives the engine at random. Drafts are planted: a path of any length that the target will accept, with
siblings that it will not, in any order; or none. After every step each row's cache equals a fresh prefill of its text,
rows and slots are all accounted for, and what a request emits is what it emits alone.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from proofs_tests.tiny import VOCABULARY, generated, random_prompts, tiny_model
from reader_theory.documents import policy_of
from reader_theory.trees import TokenTree
from runtime.cache.rows import RowCache
from runtime.drafters.base import NoDrafter, Proposal, gathered
from runtime.engine.engine import Engine
from runtime.engine.request import Request
from runtime.engine.sampling import SamplingParams
from runtime.models.inputs import prefill
from runtime.models.load import wrap

ROWS, CONTEXT, LONGEST, PROMPTS = 3, 80, 24, 5
SLOTS = 2 * 60


@cache
def _target() -> Any:
    return wrap(tiny_model("llama"))


@cache
def _alone(prompt: int) -> tuple[int, ...]:
    """What the target says after a prompt, by transformers' own generate."""
    return tuple(generated(tiny_model("llama"), random_prompts(PROMPTS)[prompt].tokens, LONGEST + 8))


class _Planted(NoDrafter):
    """Offers, to each row, a path of the target's own next tokens and wrong siblings along it."""

    name = "planted"

    def __init__(self) -> None:
        self.accept: list[int] = []
        self.wrong: list[list[tuple[int, int]]] = []
        self.truth: dict[str, tuple[int, ...]] = {}

    def propose(self, policy: Any, rows: Any, spare: Any) -> Proposal:
        tokens: list[list[int]] = []
        parents: list[list[int]] = []
        for row, request in enumerate(rows):
            following = self.truth[request.id][len(request.output) :]
            deep = min(self.accept[row % len(self.accept)], request.room - 1, spare[row])
            node, nodes = 0, dict[tuple[int, int], int]()
            for depth in range(max(deep, 0)):
                for place, token in self.wrong[row % len(self.wrong)]:
                    if place == depth and token != following[depth] and 1 + len(nodes) < spare[row] - deep:
                        nodes.setdefault((node, token), 1 + len(nodes))
                node = nodes.setdefault((node, following[depth]), 1 + len(nodes))
            tokens.append([token for _, token in nodes])
            parents.append([parent for parent, _ in nodes])
        return Proposal(gathered(rows, tokens, parents))


class EngineStates(RuleBasedStateMachine):
    """The rules, and what must hold after each."""

    def __init__(self) -> None:
        super().__init__()
        self.planted = _Planted()
        self.engine = Engine(
            _target(),
            drafters={"draft": self.planted},
            policy=policy_of(TokenTree.chain(11)),
            max_batch=ROWS,
            max_context=CONTEXT,
            kv_tokens=SLOTS,
        )
        self.all: list[tuple[Request, int]] = []

    @rule(prompt=st.integers(0, PROMPTS - 1), length=st.integers(1, LONGEST))
    def join(self, prompt: int, length: int) -> None:
        name = f"{len(self.all)}"
        self.planted.truth[name] = _alone(prompt)
        params = SamplingParams(max_new_tokens=length)
        self.all.append((self.engine.add(random_prompts(PROMPTS)[prompt].tokens, params, id=name), prompt))

    @rule(bad=st.sampled_from([[VOCABULARY], [], [0] * CONTEXT]))
    def join_in_vain(self, bad: list[int]) -> None:
        before = len(self.engine.waiting)
        assert (self.engine.add(bad, SamplingParams(max_new_tokens=2)).finish or "").startswith("error")
        assert len(self.engine.waiting) == before

    @precondition(lambda self: self.all)
    @rule(which=st.integers(0, 10**6))
    def cancel(self, which: int) -> None:
        self.engine.cancel(self.all[which % len(self.all)][0])

    @rule(
        accept=st.lists(st.integers(0, 6), min_size=1, max_size=ROWS),
        wrong=st.lists(
            st.lists(st.tuples(st.integers(0, 5), st.integers(0, VOCABULARY - 1)), max_size=6),
            min_size=1,
            max_size=ROWS,
        ),
    )
    def step(self, accept: list[int], wrong: list[list[tuple[int, int]]]) -> None:
        self.planted.accept, self.planted.wrong = accept, wrong
        before = [(request, len(request.output), request.room) for request in self.engine.rows]
        self.engine.step()
        for row, (request, had, room) in enumerate(before):
            if len(request.output) > had:
                assert len(request.output) - had >= min(accept[row % len(accept)] + 1, room, 1)

    @invariant()
    def outputs_are_those_of_single_runs(self) -> None:
        for request, prompt in self.all:
            assert tuple(request.output) == _alone(prompt)[: len(request.output)]
            if request.finish == "length":
                assert len(request.output) == request.params.max_new_tokens

    @invariant()
    def no_slot_is_lost_or_leaked(self) -> None:
        engine = self.engine
        alive = [request for request, _ in self.all if not request.done]
        assert sorted(map(id, alive)) == sorted(map(id, [*engine.rows, *engine.waiting]))
        assert len(engine.rows) <= ROWS and not any(request.done for request in engine.rows)
        assert engine.cache.held_rows * engine.cache.held_slots <= max(SLOTS, engine.cache.slots)
        ended = sum(engine.scheduler.finished.values())
        assert ended == engine._numbers - len(alive)

    @invariant()
    def cache_equals_a_fresh_prefill(self) -> None:
        engine = self.engine
        for row, request in enumerate(engine.rows):
            text = np.array(request.text[:-1], dtype=np.int64)
            assert engine.cache.lengths[row] == len(text)
            fresh = engine.target.new_cache(1, CONTEXT)
            prefill(engine.target, fresh, text, 0)
            for ours, theirs in zip(engine.cache.stores, fresh.stores, strict=True):
                for one, other in ((ours.keys, theirs.keys), (ours.values, theirs.values)):
                    assert one is not None and other is not None
                    torch.testing.assert_close(one[row, :, : len(text)], other[0, :, : len(text)], atol=1e-4, rtol=0)


def _run(examples: int, steps: int) -> None:
    phases = [Phase.generate]  # the first failure will do: shrinking one takes longer than finding it
    chosen = settings(max_examples=examples, stateful_step_count=steps, deadline=None, phases=phases)
    run_state_machine_as_test(EngineStates, settings=chosen)


def test_any_order_of_events_keeps_the_engine_right() -> None:
    _run(examples=8, steps=40)


@pytest.mark.slow
def test_ten_thousand_events_keep_the_engine_right() -> None:
    _run(examples=100, steps=100)


def test_a_cache_that_keeps_the_wrong_entries_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    _target()  # loaded with the right one: the check at load would refuse it
    right = RowCache.commit
    wrong = lambda self, path, kept: right(self, np.tile(np.arange(path.shape[1]), (len(path), 1)), kept)  # noqa: E731
    monkeypatch.setattr(RowCache, "commit", wrong)
    with pytest.raises(AssertionError):
        _run(examples=30, steps=40)
