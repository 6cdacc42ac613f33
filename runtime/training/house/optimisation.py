"""Optimisation: Muon for the matrices, AdamW for embeddings and norms, warm-up and a linear decay to zero.

The decay follows the steps done or the time used, whichever
is further on, so that a run stopped by its time limit still ends at rate zero.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from runtime.training.house.muon import Muon

MUON_RATE, ADAMW_RATE, WEIGHT_DECAY = 0.02, 3e-3, 0.1
WARM_UP = 0.02
SHORT_UNTIL = 0.5


@dataclass(frozen=True)
class Budget:
    """How long to train: ``steps`` optimiser steps, or ``minutes`` minutes if those end first."""

    steps: int
    minutes: float

    def progress(self, started: float) -> Iterator[tuple[int, float]]:
        """Pairs of step and share done, until the budget is used."""
        for step in range(self.steps):
            done = max(step / self.steps, (time.monotonic() - started) / (60.0 * self.minutes))
            if done >= 1.0:
                return
            yield step, done


class Optimisers:
    """Both optimisers behind one step; ``scale`` multiplies the rates of a shape of another size."""

    def __init__(self, model: nn.Module, scale: float = 1.0) -> None:
        named = list(model.named_parameters())
        matrices = [p for name, p in named if p.ndim == 2 and "embed" not in name and "lm_head" not in name]
        chosen = {id(p) for p in matrices}
        rest = [p for _, p in named if id(p) not in chosen]
        self._all: list[tuple[torch.optim.Optimizer, float]] = []
        if matrices:
            muon = Muon(matrices, lr=MUON_RATE * scale, weight_decay=WEIGHT_DECAY)
            self._all.append((muon, MUON_RATE * scale))
        if rest:
            adamw = torch.optim.AdamW(rest, lr=ADAMW_RATE * scale, betas=(0.9, 0.95), weight_decay=0.01)
            self._all.append((adamw, ADAMW_RATE * scale))
        self._parameters = [p for _, p in named]

    def step(self, loss: torch.Tensor, done: float) -> None:
        """One step down the gradient of ``loss`` at the rate that belongs to the share ``done`` of the budget."""
        factor = min(1.0, (done + 1e-3) / WARM_UP) * (1.0 - done)
        for optimiser, rate in self._all:
            optimiser.zero_grad(set_to_none=True)
            for group in optimiser.param_groups:
                group["lr"] = rate * factor
        loss.backward()
        nn.utils.clip_grad_norm_(self._parameters, 1.0)
        for optimiser, _ in self._all:
            optimiser.step()

    def state(self) -> list[Any]:
        """What a run that goes on later needs to know."""
        return [optimiser.state_dict() for optimiser, _ in self._all]

    def restore(self, state: list[Any]) -> None:
        """Go on from what `state` gave."""
        for (optimiser, _), held in zip(self._all, state, strict=True):
            optimiser.load_state_dict(held)


def add_dropout(model: Any, share: float) -> None:
    """Drop a ``share`` of what every attention and MLP block adds, while the model is in training mode."""

    def drop(module: nn.Module, _: Any, output: Any) -> Any:
        return nn.functional.dropout(output, share, training=module.training)

    for layer in model.model.layers:
        layer.self_attn.o_proj.register_forward_hook(drop)
        layer.mlp.down_proj.register_forward_hook(drop)


def batch_shape(rng: np.random.Generator, batch_tokens: int, done: float) -> tuple[int, int]:
    """Rows and length of the next batch: short windows first, because attention is then cheap, longer ones later."""
    shares = [0.75, 0.25, 0.0] if done < SHORT_UNTIL else [0.0, 0.75, 0.25]
    length = int(rng.choice([256, 512, 1024], p=shares))
    return max(1, batch_tokens // length), length


def cast_for(device: str, everywhere: bool = False) -> torch.autocast:
    """bfloat16 autocast on a GPU; on a CPU nothing, unless it is asked for everywhere: few have units for it."""
    return torch.autocast(device.split(":")[0], dtype=torch.bfloat16, enabled=everywhere or device != "cpu")
