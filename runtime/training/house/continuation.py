"""Continuation: what a house model writes next, greedy or sampled, and whether that has fallen into a loop."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

# A continuation loops when its last LOOK_BACK tokens hold LEAST_LOOP in a row of one period, LONGEST_PERIOD at most.
LOOK_BACK, LEAST_LOOP, LONGEST_PERIOD = 64, 32, 16


def holds_loop(tokens: Sequence[int] | NDArray[np.int64]) -> bool:
    """Whether the end of ``tokens`` repeats itself, by the rule above."""
    end = np.asarray(tokens)[-LOOK_BACK:]
    periods = range(1, min(LONGEST_PERIOD, len(end) - 1) + 1)
    return any(_longest_run(end[p:] == end[:-p]) + p >= LEAST_LOOP for p in periods)


def _longest_run(same: NDArray[np.bool_]) -> int:
    breaks = np.flatnonzero(np.concatenate([[True], ~same, [True]]))
    return int(np.diff(breaks).max()) - 1


@torch.no_grad()
def continued(model: Any, tokens: torch.Tensor, new_tokens: int, heat: torch.Tensor) -> torch.Tensor:
    """Rows of ``tokens`` with ``new_tokens`` more, each row sampled at its own temperature.

    Parameters
    ----------
    tokens
        Shape (rows, prompt), int64, no padding.
    heat
        Temperatures, shape (rows, 1); 1e-4 is greedy for all purposes.
    """
    cache, new, pieces = None, tokens, [tokens]
    for _ in range(new_tokens):
        out = model(input_ids=new, past_key_values=cache, use_cache=True, logits_to_keep=1)
        cache = out.past_key_values
        new = torch.multinomial(torch.softmax(out.logits[:, -1].float() / heat, -1), 1)
        pieces.append(new)
    return torch.cat(pieces, dim=1)


@torch.no_grad()
def greedy_continuations(
    model: Any, tokenizer: Any, texts: Sequence[str], new_tokens: int, rows: int = 32
) -> list[list[int]]:
    """Greedy continuation of each text, exactly ``new_tokens`` long, in batches of similar length."""
    tokenizer.padding_side = "left"
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    found: list[list[int]] = [[] for _ in texts]
    for first in range(0, len(order), rows):
        chosen = order[first : first + rows]
        batch = tokenizer([texts[i] for i in chosen], return_tensors="pt", padding=True, return_token_type_ids=False)
        out = model.generate(**batch, do_sample=False, max_new_tokens=new_tokens, min_new_tokens=0, eos_token_id=None)
        for i, row in zip(chosen, out[:, batch["input_ids"].shape[1] :].tolist(), strict=True):
            found[i] = row
    return found
