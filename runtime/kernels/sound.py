"""Which rows of a step walked over logits that are no law's: NaN, plus infinity, or nothing above minus infinity."""

from __future__ import annotations

import numpy as np
import torch

from runtime.kernels._door import host
from runtime.kernels.cpu import sound as cpu
from runtime.kernels.verify import Walks

__all__ = ["unsound"]


def unsound(logits: torch.Tensor, walks: Walks) -> list[int]:
    """Rows whose path meets such logits; only the laws on the path are read, which the walk has just read.

    Parameters
    ----------
    logits : (B, Q, V) floats
    walks : Walks of NumPy arrays
        Rows that keep nothing are left out.
    """
    if logits.is_cuda:
        path = torch.from_numpy(walks.path).to(logits.device)
        fine = torch.isfinite(logits.amax(-1)).gather(1, path.clamp(min=0)) | (path < 0)
        return torch.nonzero(~fine.all(-1)).flatten().tolist()
    found = np.empty(len(walks.kept), dtype=np.bool_)
    if not cpu.unsound(host(logits), walks.path, walks.kept, found):
        return []
    return np.flatnonzero(found).tolist()
