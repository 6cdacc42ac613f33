"""Seconds of each step by term, kept as the columns of a RunRecord."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["KEPT", "StepTiming", "columns_of"]

KEPT = 1 << 16
"""Latest steps whose timings an engine keeps; its counters have the sums of all."""


@dataclass(slots=True)
class StepTiming:
    """What one decoding step did and where its time went."""

    rows: int
    emitted: int
    nodes: int
    width: int
    drafted: bool
    step_s: float
    draft_s: float
    retrieval_s: float
    target_s: float
    verify_s: float
    commit_s: float


def columns_of(steps: Iterable[StepTiming]) -> dict[str, NDArray[Any]]:
    """One array a field, in step order."""
    steps = list(steps)
    return {
        f.name: np.array(
            [getattr(s, f.name) for s in steps], dtype=np.int32 if f.type in ("int", "bool") else np.float64
        )
        for f in fields(StepTiming)
    }
