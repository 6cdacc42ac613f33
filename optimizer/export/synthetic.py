"""Synthetic acceptance: an engine accepts drafts by chance, at rates by depth, so that a plan's time can be measured.

The text is then nobody's. Prefer it before a drafter is trained: any model of its shape takes as long.
"""

from __future__ import annotations

import numpy as np

from optimizer.export.lengths import drafted_tokens
from optimizer.export.settle import Choice
from reader_theory.errors import require

__all__ = ["synthetic_note", "synthetic_rates"]

_DIGITS = 6


def synthetic_rates(choices: tuple[Choice, ...]) -> list[float]:
    """(K,) unconditional acceptance of the longest of `choices`, not increasing; 1 + their sum is its tokens a step.

    Engines take one list. At a batch where they draft fewer tokens, its first rates hold.

    Raises
    ------
    InvalidInputError
        If drafts are looked up, which no rate makes happen, or the plan does not hold acceptance by depth.
    """
    longest = _longest(choices)
    require(
        all(choice.policy.retrieved is None for choice in choices),
        "synthetic acceptance must be of drafts that every step has",
        got=f"look-ups: {', '.join(dict.fromkeys(c.policy.name for c in choices if c.policy.retrieved is not None))}",
        fix="Leave `--synthetic` out: look-ups need no training, and how often they find a draft is the text's doing.",
    )
    require(
        len(longest.accepted) >= drafted_tokens(longest.policy),
        "a plan must hold acceptance by depth of what is exported",
        got=f"{len(longest.accepted)} depths of {longest.policy.name} at batch {longest.entry.batch}",
        fix="Plan again with this version; with --nearest, pass --fit, --cost and --trace, which weigh what is near.",
    )
    told = np.asarray(longest.accepted[: drafted_tokens(longest.policy)])
    wanted = (longest.tokens_per_step or 1.0 + float(told.sum())) - 1.0
    rates = np.minimum.accumulate(np.clip(told * (wanted / max(float(told.sum()), 1e-12)), 0.0, 1.0))
    return [round(float(rate), _DIGITS) for rate in rates]


def synthetic_note(choices: tuple[Choice, ...], rates: list[float]) -> list[str]:
    """What is no longer the model's, and how far the one list is from the plan at other batches."""
    notes = ["acceptance is synthetic: what is written means nothing, time alone is measured"]
    for choice in choices:
        length = drafted_tokens(choice.policy)
        tokens = 1.0 + sum(rates[:length])
        if choice is not _longest(choices) and length and choice.tokens_per_step is not None:
            notes.append(
                f"at batch {choice.entry.batch} these rates give {tokens:.3f} tokens a step, the plan says "
                f"{choice.tokens_per_step:.3f}"
            )
    return notes


def _longest(choices: tuple[Choice, ...]) -> Choice:
    return max(choices, key=lambda choice: drafted_tokens(choice.policy))
