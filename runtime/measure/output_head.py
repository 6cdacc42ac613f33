"""What a draft head's output head takes of its forward: a term of its own, because its size is what one chooses.

It is timed in turn with the whole forward at the same rows, so that the machine's pace has no part in their ratio, and
as a chain runs it: some forwards in a row, behind one of the target, whose weights have passed through the caches. The
table of forwards, measured alone and corrected in the engine, is then split by that ratio.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from time import perf_counter

import numpy as np
import torch

from reader_theory.documents import Cost, CostTable, DrafterCost
from runtime.measure.bench import trial_of
from runtime.models.base import FeatureModel, LanguageModel

__all__ = ["chain_s", "with_output_heads"]

REPEATS, IN_A_ROW = 5, 4


def with_output_heads(
    cost: Cost, drafts: Mapping[str, LanguageModel], target: LanguageModel, repeats: int = REPEATS
) -> Cost:
    """The cost with the output head of every draft head apart."""
    drafters = {
        name: _split(each, draft, target, repeats) if isinstance(draft := drafts.get(name), FeatureModel) else each
        for name, each in cost.drafters.items()
    }
    return cost.model_copy(update={"drafters": drafters})


def chain_s(run: Callable[[], object], before: Callable[[], object], in_a_row: int = IN_A_ROW) -> float:
    """Seconds of one of some runs in a row, behind what stands before them in a step."""
    before()
    start = perf_counter()
    for _ in range(in_a_row):
        run()
    return (perf_counter() - start) / in_a_row


def _split(each: DrafterCost, draft: FeatureModel, target: LanguageModel, repeats: int) -> DrafterCost:
    table = each.forward
    assert table is not None, "a model has a table of forwards"
    context = table.context[0]
    cache = draft.new_cache(table.batch[-1], context + table.tokens[-1] + 1)
    before = trial_of(target, target.new_cache(1, context + 2), (1, 1, context))
    seconds = table.values.copy()
    for b, batch in enumerate(table.batch):
        for t, tokens in enumerate(table.tokens):
            whole = trial_of(draft, cache, (batch, tokens, context))
            states = torch.randn((batch * tokens, draft.output.hidden), dtype=draft.dtype, device=draft.device)
            head = partial(_output, draft, states)
            ratios = [chain_s(head, before) / chain_s(whole, before) for _ in range(repeats + 1)]
            seconds[b, t] *= min(float(np.median(ratios[1:])), 1.0)
    return each.model_copy(
        update={
            "head": CostTable.model_validate(table.model_dump() | {"seconds": seconds.tolist()}),
            "output": draft.output,
        }
    )


def _output(draft: FeatureModel, states: torch.Tensor) -> None:
    """The output head alone; something is read back, so that the device is done."""
    draft.logits_of(states)[0, 0].item()
