"""Muon: momentum whose matrix is brought near an orthogonal one before each step. Prefer it for hidden matrices.

The same rule as ``torch.optim.Muon`` (Jordan and others 2024), in float32 and for all matrices of one shape at once:
torch's iterates in bfloat16, which a processor without such units multiplies ten times more slowly.
"""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5


def orthogonalised(matrices: torch.Tensor) -> torch.Tensor:
    """Near-orthogonal factor of each matrix of a stack, shape (matrices, rows, columns), by Newton-Schulz."""
    wide = matrices.shape[-2] <= matrices.shape[-1]
    x = matrices if wide else matrices.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    a, b, c = COEFFICIENTS
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x if wide else x.mT


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalised, with decoupled weight decay; parameters are matrices."""

    def __init__(
        self, matrices: Iterable[nn.Parameter], lr: float, weight_decay: float, momentum: float = 0.95
    ) -> None:
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        """Move every matrix that has a gradient; ``closure`` is not used."""
        for group in self.param_groups:
            same_shape: dict[torch.Size, list[nn.Parameter]] = defaultdict(list)
            for matrix in group["params"]:
                if matrix.grad is not None:
                    same_shape[matrix.shape].append(matrix)
            for shape, matrices in same_shape.items():
                directions = orthogonalised(torch.stack([self._momentum(p, group["momentum"]) for p in matrices]))
                rate = group["lr"] * max(1.0, shape[0] / shape[1]) ** 0.5
                for matrix, direction in zip(matrices, directions, strict=True):
                    matrix.mul_(1.0 - group["lr"] * group["weight_decay"]).add_(direction, alpha=-rate)

    def _momentum(self, matrix: nn.Parameter, momentum: float) -> torch.Tensor:
        gradient: Any = matrix.grad
        buffer = self.state[matrix].setdefault("momentum", torch.zeros_like(matrix))
        buffer.lerp_(gradient, 1.0 - momentum)
        return gradient.lerp(buffer, momentum)
