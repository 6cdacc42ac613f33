"""The schedule as a file: what vLLM takes for the context that is served most, and the same for every other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from reader_theory.documents.base import write_atomically
from runtime.live.watcher import Watcher

__all__ = ["write_schedule"]


def schedule_of(watcher: Watcher, max_batch: int) -> dict[str, Any]:
    """Ranges of batches with their lengths, and those of a trial, which ends by itself.

    ``num_speculative_tokens`` is the longest that the server must be able to.
    """
    menu, lengths = watcher.menu, watcher.schedule.lengths
    contexts = [
        {"context": context, "num_speculative_tokens_per_batch_size": menu.ranges(lengths, c, max_batch)}
        for c, context in enumerate(menu.contexts)
    ]
    place = watcher.context
    trial = None if watcher.trial is None else {
        "number": watcher.trials, "seconds": watcher.pace.trial_s,
        "num_speculative_tokens_per_batch_size": menu.ranges(watcher.trial, place, max_batch),
    }  # fmt: skip
    return {
        "num_speculative_tokens": menu.depth,
        "num_speculative_tokens_per_batch_size": menu.ranges(lengths, place, max_batch),
        "contexts": contexts,
        "trial": trial,
        "tokens_per_step": [round(float(each), 4) for each in watcher.accepting.tokens],
    }


def write_schedule(path: Path, watcher: Watcher, max_batch: int) -> dict[str, Any]:
    """Write it, whole or not at all."""
    told = schedule_of(watcher, max_batch)
    write_atomically(path, (json.dumps(told, indent=1) + "\n").encode())
    return told
