"""A cost that is held to an engine's steps: what the engine adds to steps with look-ups, and steps in between."""

from __future__ import annotations

import numpy as np
import pytest

from reader_theory.cost.step import RETRIEVAL
from reader_theory.cost.tabulated import MeasuredStep
from reader_theory.cost.terms import Forwards, StepConditions
from reader_theory.documents import Cost
from runtime.cli._predicted import Served, served_by

CONTEXT, LENGTH, BATCHES = 512, 8, (1, 8, 32)
SERVED = served_by("Qwen3-8B", "h100", draft="ngram")


def seconds(batch: int, tokens: float, added: float) -> float:
    """An engine a fifth slower than the sheet says, which adds some time to a step with look-ups."""
    asked = StepConditions(batch=batch, tokens=tokens, context=CONTEXT, drafting=tokens > 1)
    return 1.2 * float(SERVED.step.model.seconds(asked)) + (tokens > 1) * added


def held(served: Served, added: float) -> Cost:
    steps = [
        MeasuredStep(batch, CONTEXT, 1.0 + length, float(length > 0), seconds(batch, 1.0 + length, added))
        for batch in BATCHES
        for length in (0, LENGTH)
    ]
    return served.cost(steps, batches=BATCHES, contexts=[CONTEXT], max_nodes=LENGTH)


@pytest.mark.parametrize("added", [0.0, 3e-4, 1e-3])
def test_what_an_engine_adds_to_steps_with_look_ups_is_told_by_its_steps(added: float) -> None:
    cost = held(SERVED, added)
    for batch in BATCHES:
        for length in (0, 2, 4, LENGTH):
            asked = StepConditions(
                batch=batch, tokens=1.0 + length, context=CONTEXT, drafting=length > 0,
                forwards={"ngram": Forwards(1.0)} if length else {},
            )  # fmt: skip
            told = float(cost.model(("ngram",) if length else ()).seconds(asked))
            assert told == pytest.approx(seconds(batch, 1.0 + length, added), rel=0.06), (batch, length)
    assert cost.step_overhead_s.low <= added <= cost.step_overhead_s.high + 2e-4


def test_more_tokens_never_take_less() -> None:
    """Between two points above the sheet, what is left of them fades: a step was shorter than a plain one."""
    table = np.array(held(SERVED, 3e-3).target_forward.seconds)
    assert (np.diff(table, axis=1) >= 0).all()


def test_an_unmeasured_engine_adds_nothing() -> None:
    cost = SERVED.cost([], batches=BATCHES, contexts=[CONTEXT], max_nodes=LENGTH)
    assert cost.step_overhead_s.value == 0.0 and cost.drafters["ngram"].row_s is not None
    asked = StepConditions(batch=1, context=CONTEXT, forwards={RETRIEVAL: Forwards(1.0)}, drafting=True)
    assert float(SERVED.step.model.parts(asked)["drafting"]) == 0.0
