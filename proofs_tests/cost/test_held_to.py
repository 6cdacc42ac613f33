"""A cost that is held to an engine's steps: what the engine adds to steps with drafts, and steps in between."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from reader_theory.cost.device import find_device
from reader_theory.cost.step import DRAFT, RETRIEVAL
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


def test_engines_pack_their_rows() -> None:
    assert held(SERVED, 0.0).packed and SERVED.cost([], batches=BATCHES, contexts=[CONTEXT], max_nodes=LENGTH).packed


def unfitted(drafter: str, bandwidth: float = 1.0, flops: float = 1.0) -> Served:
    """A small model on a machine that nobody fitted, whose sheet says so many times 30 GB/s and 100 GFLOP/s."""
    sheet = find_device("h100")
    card = sheet.model_copy(
        update={
            "name": "of one's own", "aliases": (),
            "bandwidth_bytes_per_s": sheet.bandwidth_bytes_per_s.model_copy(update={"value": 3e10 * bandwidth}),
            "bf16_flops_per_s": sheet.bf16_flops_per_s.model_copy(update={"value": 1e11 * flops}),
        }
    )  # fmt: skip
    served = served_by("Qwen3-0.6B", "h100", draft="Qwen3-0.6B" if drafter == DRAFT else "ngram")
    return replace(served, step=replace(served.step, device=card))


def test_what_drafting_adds_is_no_wider_than_steps_leave_it() -> None:
    """A step of this engine is known; what of it is a draft's forward, and what a token of the target, is not."""
    steps = [
        MeasuredStep(batch, CONTEXT, 1.0 + drafts, float(drafts), 0.02 + 0.01 * batch * (1 + drafts))
        for batch in (1, 4) for drafts in (0, 2, 6)
    ]  # fmt: skip
    cost = unfitted(DRAFT).cost(steps, batches=(1, 4), contexts=[CONTEXT], max_nodes=6)
    forward = cost.drafters[DRAFT].forward
    assert forward is not None and cost.target_forward.relative_spread <= forward.relative_spread < 0.6


def worst(served: Served, drafter: str, engine: Callable[[int, int], float]) -> tuple[float, float]:
    """Largest relative error at the steps that a cost is held to, and at those between them."""
    name = DRAFT if drafter == DRAFT else "ngram"

    def asked(batch: int, drafts: int) -> StepConditions:
        forwards = {name: Forwards(1.0, float(drafts) if drafter == DRAFT else 1.0)} if drafts else {}
        return StepConditions(batch, CONTEXT, 1.0 + drafts, forwards=forwards, drafting=drafts > 0)

    cells = [(batch, drafts) for batch in (1, 4) for drafts in range(7)]
    held = [(batch, drafts) for batch, drafts in cells if drafts in (0, 2, 6)]
    forwards = [float(np.sum(asked(*cell).forwards[name].times)) if cell[1] else 0.0 for cell in held]
    steps = [MeasuredStep(b, CONTEXT, 1.0 + n, f, engine(b, n)) for (b, n), f in zip(held, forwards, strict=True)]
    cost = served.cost(steps, batches=(1, 4), contexts=[CONTEXT], max_nodes=6)
    error = {
        (b, n): abs(float(cost.model((name,) if n else ()).seconds(asked(b, n))) / engine(b, n) - 1) for b, n in cells
    }
    return max(error[cell] for cell in held), max(error[cell] for cell in cells if cell not in held)


@pytest.mark.parametrize("drafter", [DRAFT, RETRIEVAL])
@pytest.mark.parametrize(("bandwidth", "flops"), [(0.2, 0.2), (1.0, 1.0), (5.0, 5.0), (5.0, 0.2), (0.2, 5.0)])
@pytest.mark.parametrize(("step_s", "token_s", "added_s"), [(0.05, 0.002, 0.0), (0.02, 0.01, 0.0), (0.02, 0.01, 0.02)])
def test_a_sheet_that_is_wrong_does_not_matter_between_measured_steps(
    drafter: str, bandwidth: float, flops: float, step_s: float, token_s: float, added_s: float
) -> None:
    """A machine that nobody fitted, and an engine that takes so much a step, a token, and more where it drafts."""

    def engine(batch: int, drafts: int) -> float:
        return step_s + token_s * batch * (1 + drafts) + (drafts > 0) * added_s

    at_steps, between = worst(unfitted(drafter, bandwidth, flops), drafter, engine)
    assert at_steps <= 0.03 and between <= 0.08


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_drafts_that_an_engine_computes_row_by_row_are_told_by_its_steps(share: float) -> None:
    served = served_by("Qwen3-8B", "h100", draft="Qwen3-0.6B")
    alone, together = (
        float(served.step.model.seconds(StepConditions(b, CONTEXT, forwards={DRAFT: Forwards(1.0)})))
        - float(served.step.model.seconds(StepConditions(b, CONTEXT)))
        for b in (1, 4)
    )

    def engine(batch: int, drafts: int) -> float:
        forward = alone if batch == 1 else (1 - share) * together + share * 4 * alone
        return float(served.step.model.seconds(StepConditions(batch, CONTEXT, 1.0 + drafts))) + drafts * forward

    at_steps, between = worst(served, DRAFT, engine)
    assert at_steps <= 0.03 and between <= 0.05
