"""Capture: a body of fixed shapes, recorded once as a CUDA graph and replayed; without a GPU called as it is."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch

__all__ = ["Captured"]

WARM_UPS = 2
"""Runs before the recording: libraries choose their algorithms and kernels are compiled there."""


@lru_cache
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    """Where all graphs of a device are warmed up and recorded: the allocator keeps memory for each stream apart."""
    return torch.cuda.Stream(device)


class Captured:
    """A callable without arguments whose inputs and outputs stay at their addresses.

    Parameters
    ----------
    body : callable
        Reads tensors that the caller fills before each call, and returns tensors; running it twice must be harmless.
    device : torch.device
        Captured on a CUDA device only.
    pool : optional
        Memory pool that graphs share; graphs that share one must not run at once, nor keep outputs for one another.
    """

    def __init__(self, body: Callable[[], Any], device: torch.device, pool: Any = None) -> None:
        self.body, self.device, self.pool = body, device, pool
        self.graph: torch.cuda.CUDAGraph | None = None
        self.output: Any = None

    def __call__(self) -> Any:
        """Outputs of the body; on a GPU they are overwritten by the next call."""
        if self.device.type != "cuda":
            return self.body()
        if self.graph is None:
            self.graph = self._record()
        self.graph.replay()
        return self.output

    def _record(self) -> torch.cuda.CUDAGraph:
        side, here = _side_stream(self.device), torch.cuda.current_stream(self.device)
        side.wait_stream(here)
        with torch.cuda.stream(side):
            for _ in range(WARM_UPS):
                self.body()
        here.wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self.pool, stream=side, capture_error_mode="thread_local"):
            self.output = self.body()
        return graph
