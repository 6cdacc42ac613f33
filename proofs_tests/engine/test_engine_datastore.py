"""An engine takes a datastore of its own vocabulary, and no id beyond it reaches a step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from proofs_tests.tiny import random_prompts, tiny_model
from reader_theory.documents import Chain, Grown, Policy
from reader_theory.errors import InvalidInputError
from runtime.engine.engine import Engine
from runtime.engine.sampling import SamplingParams
from runtime.models.base import Output
from runtime.models.load import load_model, load_tokenizer, wrap
from runtime.models.transformers import TransformersModel
from runtime.models.vocabulary import fingerprint_of
from runtime.retrieval.datastore import Datastore

TARGET = Path(__file__).parents[2] / "runtime" / "models" / "house" / "target"


def test_a_datastore_that_the_model_cannot_read_is_refused_at_the_door() -> None:
    model, tokenizer = load_model(TARGET), load_tokenizer(TARGET)
    beyond = np.r_[np.arange(10, 20), np.full(30, 60_000)]
    learned = Datastore.build([])
    learned.add(beyond)
    for store in (Datastore.build([beyond] * 3), learned):
        with pytest.raises(InvalidInputError, match="datastore"):
            Engine(model, datastore=store)
    with pytest.raises(InvalidInputError, match="one tokenizer"):
        Engine(model, datastore=Datastore.build([[1, 2]], tokenizer="1234567812345678"), tokenizer=tokenizer)
    own = Datastore.build([[1, 2]], tokenizer=fingerprint_of(tokenizer))
    assert Engine(model, datastore=own, tokenizer=tokenizer).drafters.keys() == {"retrieval", "datastore"}
    with pytest.raises(InvalidInputError, match="below 4096"):
        own.add(beyond)


CHAIN = Chain(drafter="datastore", min_match=1, offset=8.0, factor=0.0, max_tokens=8)
PROMPTS = [prompt.tokens for prompt in random_prompts(3, workload="a", seed=3)]
PARAMS = SamplingParams(max_new_tokens=24)


def served(engine: Engine, tenants: list[str]) -> list[tuple[int, list[int]]]:
    """Steps and output of each prompt, all in one batch."""
    requests = [engine.add(prompt, PARAMS, tenant=tenant) for prompt, tenant in zip(PROMPTS, tenants, strict=True)]
    while engine.step():
        pass
    return [(request.steps, request.output) for request in requests]


@pytest.mark.parametrize("policy", [CHAIN, Grown(nodes=8, drafter=None, retrieval="datastore")], ids=lambda p: p.kind)
def test_outputs_join_their_tenants_datastore_and_no_others(policy: Policy) -> None:
    model = wrap(tiny_model("llama"))
    fresh = served(Engine(model, policy=policy, max_batch=3, max_context=128, learn=True), ["a", "b", "c"])
    engine = Engine(model, policy=policy, max_batch=3, max_context=128, learn=True)
    served(engine, ["a", "a", "a"])
    again = served(engine, ["a", "b", "c"])
    assert [output for _, output in again] == [output for _, output in fresh]
    assert again[0][0] < fresh[0][0], "its tenant has answered this before"
    assert [steps for steps, _ in again[1:]] == [steps for steps, _ in fresh[1:]], "no other tenant has"


def test_nothing_joins_unless_asked() -> None:
    model, store = wrap(tiny_model("llama")), Datastore.build([[1, 2, 3]])
    engine = Engine(model, policy=CHAIN, max_batch=3, max_context=128, datastore=store)
    assert served(engine, ["", "", ""]) == served(engine, ["", "", ""])
    assert store.compact().documents == 1


def test_what_is_cancelled_joins_nothing() -> None:
    engine = Engine(wrap(tiny_model("llama")), policy=CHAIN, max_batch=3, max_context=128, learn=True)
    request = engine.add(PROMPTS[0], PARAMS)
    engine.step()
    engine.cancel(request)
    fresh = Engine(wrap(tiny_model("llama")), policy=CHAIN, max_batch=3, max_context=128, learn=True)
    assert served(engine, ["", "", ""]) == served(fresh, ["", "", ""])


class _Sick(TransformersModel):
    """Gives no numbers for one row, once: in the forward of three rows that `after` counts down to."""

    after = 0

    def forward(self, tokens: Any, *args: Any, **options: Any) -> Output:
        out = super().forward(tokens, *args, **options)
        if tokens.shape[0] == 3 and self.after:
            self.after -= 1
            if not self.after:
                with torch.inference_mode():
                    out.logits[1] = float("nan")
        return out


@pytest.mark.parametrize("policy", [CHAIN, Grown(nodes=8, drafter=None, retrieval="datastore")], ids=lambda p: p.kind)
def test_a_row_that_is_tried_again_drafts_from_its_own_tenant_alone(policy: Policy) -> None:
    def run(learned: str, after: int) -> list[tuple[int, list[int]]]:
        target = _Sick(tiny_model("llama"))
        engine = Engine(target, policy=policy, max_batch=3, max_context=128, learn=True)
        served(engine, [learned] * 3)
        target.after = after
        found = served(engine, ["a", "b", "c"])
        assert not target.after, "the fault came"
        return found

    sick, well = ({learned: run(learned, after) for learned in ("nobody", "a", "b")} for after in (2, 0))
    for learned, found in sick.items():
        assert [output for _, output in found] == [output for _, output in well[learned]]
        assert (found[0], found[2]) == (well[learned][0], well[learned][2]), "its neighbours do not notice"
    assert sick["a"][1] == sick["nobody"][1], "what another tenant has said is no help to it"
    assert sick["b"][1][0] < sick["nobody"][1][0], "what its own tenant has said is"
