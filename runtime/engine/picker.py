"""What a rule that follows the target reads after a path: the law of the next token, or logits for the most likely one.

Each output position owns its numbers, so that for a given seed the text does not depend on what was drafted, on how
steps cut it up, or on who else is in the batch.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from runtime.engine.sampling import SamplingParams

__all__ = ["token_scores"]


def token_scores(logits: torch.Tensor, params: SamplingParams, prefix: list[int]) -> Any:
    """(V,) law of the next token after `prefix`, from (V,) logits; the logits themselves where decoding is greedy."""
    if params.greedy and params.repetition_penalty == 1.0:
        return logits
    if params.plain and not params.greedy:
        scores = logits.double().numpy(force=True) / params.temperature
        weights = np.exp(scores - scores.max())
        return weights / weights.sum()
    from runtime.engine.processors import target_law

    return target_law(logits.unsqueeze(0), params, [prefix])[0].numpy(force=True)
