"""A schedule file, followed: read again when it changes, kept as it was where it cannot be read."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["FollowedSchedule"]

_RANGES = "num_speculative_tokens_per_batch_size"
LONGEST_TRIAL_S = 600.0


class FollowedSchedule:
    """The ranges of batches in a file that `write_schedule` writes; those of its trial for as long as that lasts.

    Parameters
    ----------
    path : Path
        May not be there yet.
    look_s : float
        Seconds between two looks.
    """

    def __init__(self, path: Path, look_s: float) -> None:
        self.path, self.look_s = path, look_s
        self._looked_s, self._seen, self._trials = -math.inf, (0, 0, 0), 0
        self._after_trial: tuple[float, list[list[int]]] | None = None

    def changed(self, now_s: float) -> list[list[int]] | None:
        """The ranges where others hold since the last call: a new file's, a new trial's, or again the schedule's."""
        if now_s - self._looked_s >= self.look_s:
            self._looked_s = now_s
            if (told := self._read()) is not None:
                return self._begun(told, now_s)
        if self._after_trial is not None and now_s >= self._after_trial[0]:
            ranges, self._after_trial = self._after_trial[1], None
            return ranges
        return None

    def _read(self) -> dict[str, Any] | None:
        """What the file says, if it is another and sound."""
        try:
            told = self.path.stat()
            seen = (told.st_mtime_ns, told.st_size, told.st_ino)
            if seen == self._seen:
                return None
            read: Any = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        self._seen = seen
        return read if isinstance(read, dict) and _sound(read.get(_RANGES)) else None

    def _begun(self, told: dict[str, Any], now_s: float) -> list[list[int]]:
        ranges, trial = told[_RANGES], told.get("trial")
        self._after_trial = None
        if trial is None:
            self._trials = 0  # whoever writes may have begun anew, and counts its trials from 1
        if not isinstance(trial, dict) or not _sound(trial.get(_RANGES)):
            return ranges
        number, seconds = trial.get("number"), trial.get("seconds")
        if not isinstance(number, int) or not isinstance(seconds, int | float) or number == self._trials:
            return ranges
        if not 0 < seconds <= LONGEST_TRIAL_S:
            return ranges
        self._trials, self._after_trial = number, (now_s + seconds, ranges)
        return trial[_RANGES]


def _sound(ranges: Any) -> bool:
    """Whether these are ranges that begin at 1, in order, without overlap, with lengths of at least 0."""
    if not isinstance(ranges, Sequence) or not ranges:
        return False
    end = 0
    for each in ranges:
        whole = isinstance(each, Sequence) and len(each) == 3 and all(type(x) is int for x in each)
        if not whole or each[0] <= end or each[1] < each[0] or each[2] < 0:
            return False
        end = each[1]
    return ranges[0][0] == 1
