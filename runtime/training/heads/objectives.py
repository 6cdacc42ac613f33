"""What a head is trained to: how far its law is from the target's, by one of several measures, each with its gradient.

`alpha` is the probability that one drafted token survives verification, sum over tokens of min(target, draft).
``kl`` is forward Kullback-Leibler divergence; ``tv`` is 1 - alpha; ``hybrid`` weighs the two by exp(-3 alpha);
``nla`` is -log alpha.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

__all__ = ["OBJECTIVES", "PPOW", "acceptance", "divergence"]

PPOW = "ppow"
"""The one objective that is no loss of a position: the reward of rollouts, `runtime.training.heads.ppow`."""


def acceptance(target: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """Sum over tokens of min(target, draft), (...), of (..., V) laws of the target and logits of the draft."""
    return torch.minimum(target, logits.softmax(-1, dtype=torch.float32)).sum(-1)


def divergence(target: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """KL(target || draft) and the target's own entropy, (...), in nats; no draft changes the latter.

    The target's law is normed over the tokens that the draft can name.
    """
    logs = logits.log_softmax(-1, dtype=torch.float32)
    return -(target * logs).sum(-1) / target.sum(-1, dtype=torch.float32).clamp_min(1e-9)


def _hybrid(target: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    alpha = acceptance(target, logits)
    weight = torch.exp(-3.0 * alpha.detach())
    return weight * divergence(target, logits) + (1.0 - weight) * (1.0 - alpha)


OBJECTIVES: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "kl": divergence,
    "tv": lambda target, logits: 1.0 - acceptance(target, logits),
    "hybrid": _hybrid,
    "nla": lambda target, logits: -acceptance(target, logits).clamp_min(1e-9).log(),
}
"""Loss of each position, (...), of (..., V) laws of the target and (..., V) logits of the draft."""
