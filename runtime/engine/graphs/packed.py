"""Packed: all numbers that a step takes from the host, or gives to it, in one buffer and one copy."""

from __future__ import annotations

from math import prod

import torch

__all__ = ["Packed"]


class Packed:
    """Named tensors of 64-bit numbers that cross between host and device together.

    Parameters
    ----------
    shapes : dict from name to shape
    device : torch.device
    floats : sequence of str
        Names that are float64; the others are int64.

    Attributes
    ----------
    host, device : dict from name to tensor
        The same tensors where the device is the CPU; otherwise the host's are pinned.
    arrays : dict from name to array
        The host's as NumPy sees them: to write a number through torch takes ten times as long.
    """

    def __init__(self, shapes: dict[str, tuple[int, ...]], device: torch.device, floats: tuple[str, ...] = ()) -> None:
        total = sum(prod(shape) for shape in shapes.values())
        here = torch.zeros(total, dtype=torch.int64, pin_memory=device.type == "cuda")
        there = here if device.type == "cpu" else torch.zeros(total, dtype=torch.int64, device=device)
        self._flat = here, there
        self.host, self.device = ({}, {})
        for flat, views in ((here, self.host), (there, self.device)):
            start = 0
            for name, shape in shapes.items():
                part = flat[start : start + prod(shape)]
                views[name] = (part.view(torch.float64) if name in floats else part).view(shape)
                start += prod(shape)
        self.arrays = {name: tensor.numpy() for name, tensor in self.host.items()}

    def upload(self) -> None:
        """Queue the copy to the device."""
        here, there = self._flat
        if here is not there:
            there.copy_(here, non_blocking=True)

    def download(self) -> None:
        """Queue the copy to the host; read it after the stream has been waited for."""
        here, there = self._flat
        if here is not there:
            here.copy_(there, non_blocking=True)
