"""Door: how far drafts' laws are from the target's, and the gradient by the drafts' logits. On a CPU, compiled."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
from numba.core.errors import NumbaError

from runtime.kernels.cpu.threads import pool

__all__ = ["TYPES", "Divergences", "divergences"]

TYPES = (torch.float32, torch.bfloat16)
Divergences = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, int], torch.Tensor]


@lru_cache
def divergences() -> Divergences | None:
    """A function of logits and laws (n, V), both in float32 or bfloat16, float32 weights (n,) and the number of an
    objective: each row's weighted loss (n,); the logits become the gradient of their sum.

    None where nothing is compiled: see `pool`.
    """
    from runtime.kernels.cpu import divergences as twin

    run = pool()
    if run is None:
        return None
    try:
        address = twin.share_of_divergences.address
    except NumbaError:
        return None

    def told(logits: torch.Tensor, laws: torch.Tensor, weights: torch.Tensor, objective: int) -> torch.Tensor:
        assert logits.dtype == laws.dtype in TYPES and weights.dtype == torch.float32, "operands are the caller's"
        assert logits.shape == laws.shape == (len(weights), laws.shape[-1])
        assert all(each.is_contiguous() and each.device.type == "cpu" for each in (logits, laws, weights))
        losses, room = torch.empty_like(weights), torch.empty((torch.get_num_threads(), laws.shape[-1]))
        addresses = (each.data_ptr() for each in (logits, laws, weights, losses, room))
        run(address, (laws.element_size(), *addresses, *logits.shape, objective))
        return losses

    return told
