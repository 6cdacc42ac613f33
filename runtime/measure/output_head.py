"""What a draft head's output head takes of its forward: a term of its own, because its size is what one chooses.

It is timed in turn with the whole forward at the same rows, so that the machine's pace has no part in their ratio; the
table of forwards, measured alone and corrected in the engine, is then split by that ratio.
"""

from __future__ import annotations

from collections.abc import Mapping
from time import perf_counter

import numpy as np
import torch

from reader_theory.documents import Cost, CostTable, DrafterCost
from runtime.measure.bench import trial_of
from runtime.models.base import FeatureModel, LanguageModel

__all__ = ["with_output_heads"]

REPEATS = 9


def with_output_heads(cost: Cost, drafts: Mapping[str, LanguageModel], repeats: int = REPEATS) -> Cost:
    """The cost with the output head of every draft head apart."""
    drafters = {
        name: _split(each, draft, repeats) if isinstance(draft := drafts.get(name), FeatureModel) else each
        for name, each in cost.drafters.items()
    }
    return cost.model_copy(update={"drafters": drafters})


def output_head_s(draft: FeatureModel, rows: int) -> float:
    """Seconds of the output head alone over so many rows, now."""
    states = torch.randn((rows, draft.output.hidden), dtype=draft.dtype, device=draft.device)
    start = perf_counter()
    draft.logits_of(states)[0, 0].item()
    return perf_counter() - start


def _split(each: DrafterCost, draft: FeatureModel, repeats: int) -> DrafterCost:
    table = each.forward
    assert table is not None, "a model has a table of forwards"
    context = table.context[0]
    cache = draft.new_cache(table.batch[-1], context + table.tokens[-1] + 1)
    seconds = table.values.copy()
    for b, batch in enumerate(table.batch):
        for t, tokens in enumerate(table.tokens):
            whole, ratios = trial_of(draft, cache, (batch, tokens, context)), list[float]()
            for _ in range(repeats + 1):
                start = perf_counter()
                whole()
                ratios.append(output_head_s(draft, batch * tokens) / (perf_counter() - start))
            seconds[b, t] *= min(float(np.median(ratios[1:])), 1.0)
    return each.model_copy(
        update={
            "head": CostTable.model_validate(table.model_dump() | {"seconds": seconds.tolist()}),
            "output": draft.output,
        }
    )
