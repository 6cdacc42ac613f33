"""The loss of a draft step, summed over positions, without the logits of all of them at once.

On a CPU the output head is run for a few positions at a time, whose logits stay near the processor; each part's
gradients are taken before the next begins. Positions that count nothing are left out. Elsewhere torch does it at once.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.func import functional_call

from runtime.kernels.divergences import TYPES, divergences
from runtime.training.heads.objectives import OBJECTIVES

__all__ = ["summed"]

ROWS = 128
"""Positions of a part."""


def summed(
    head: torch.nn.Module, out: torch.Tensor, law: torch.Tensor, weights: torch.Tensor, objective: str
) -> torch.Tensor:
    """Weighted sum of an objective, with its gradient by `out` and by the output head's parameters.

    Parameters
    ----------
    head : module
        From states to logits; run in the type of the autocast that is on.
    out : (B, T, width)
    law : (B, T, V)
        The target's.
    weights : (B, T)
    objective : str
        One of `OBJECTIVES`.
    """
    if out.device.type == "cpu" and out.dtype in TYPES and divergences() is not None:
        number = list(OBJECTIVES).index(objective)
        return _InParts.apply(head, out, law, weights, number, *head.parameters())
    return (OBJECTIVES[objective](law, head(out)) * weights).sum()


class _InParts(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, head: torch.nn.Module, out: torch.Tensor, law: torch.Tensor, weights: torch.Tensor, objective: int,
        *parameters: torch.Tensor,
    ) -> torch.Tensor:  # fmt: skip
        measured = divergences()
        assert measured is not None, "asked by `summed`"
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else out.dtype
        names = [name for name, _ in head.named_parameters()]
        held = [each.detach().to(dtype).requires_grad_() for each in parameters]
        gradients = [torch.zeros_like(each) for each in parameters]
        states, laws, counted = out.detach().flatten(0, 1), law.flatten(0, 1), weights.flatten()
        by_state, total = torch.zeros_like(states), torch.zeros((), dtype=torch.float64)
        for rows in torch.nonzero(counted)[:, 0].split(ROWS):
            own = states[rows].to(dtype).requires_grad_()
            with torch.enable_grad(), torch.autocast("cpu", enabled=False):
                logits = functional_call(head, dict(zip(names, held, strict=True)), (own,))
            gradient = logits.detach().clone(memory_format=torch.contiguous_format)
            lost = measured(gradient, laws[rows].to(dtype), counted[rows].float(), objective)
            total += lost.sum(dtype=torch.float64)
            first, *rest = torch.autograd.grad(logits, [own, *held], gradient)
            by_state[rows] = first.to(by_state.dtype)
            for sum_, part in zip(gradients, rest, strict=True):
                sum_ += part
        ctx.save_for_backward(by_state.view_as(out), *gradients)
        return total.float()

    @staticmethod
    def backward(ctx: Any, *by: torch.Tensor) -> Any:
        by_state, *gradients = ctx.saved_tensors
        return None, by_state * by[0], None, None, None, *(each * by[0] for each in gradients)
