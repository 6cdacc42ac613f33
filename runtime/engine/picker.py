"""The target's own token after a path: its argmax, or one drawn from its law with the position's own uniform.

Each output position owns one uniform, so that for a given seed the text does not depend on what was drafted, on how
steps cut it up, or on who else is in the batch.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from reader_theory.rules.pick import pick_token
from runtime.engine.sampling import SamplingParams

__all__ = ["pick", "token_law"]


def token_law(logits: torch.Tensor, params: SamplingParams, prefix: list[int]) -> NDArray[np.float64]:
    """(V,) law of the next token after `prefix` under `params`, from (V,) logits."""
    if params.plain and not params.greedy:
        scores = logits.double().numpy(force=True) / params.temperature
        weights = np.exp(scores - scores.max())
        return weights / weights.sum()
    from runtime.engine.processors import target_law

    return target_law(logits.unsqueeze(0), params, [prefix])[0].numpy(force=True)


def pick(logits: torch.Tensor, params: SamplingParams, prefix: list[int], uniform: float) -> int:
    """Token after `prefix`, given (V,) logits and the position's uniform."""
    if params.greedy and params.repetition_penalty == 1.0:
        return int(logits.argmax())
    return pick_token(token_law(logits, params, prefix), uniform)
