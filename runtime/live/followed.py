"""A schedule file, followed: read again when it changes, kept as it was where it cannot be read."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["FollowedSchedule"]


class FollowedSchedule:
    """The ranges of batches in a file that `write_schedule` writes.

    Parameters
    ----------
    path : Path
        May not be there yet.
    look_s : float
        Seconds between two looks.
    """

    def __init__(self, path: Path, look_s: float) -> None:
        self.path, self.look_s = path, look_s
        self._looked_s, self._seen = -math.inf, (0, 0, 0)

    def changed(self, now_s: float) -> list[list[int]] | None:
        """The ranges where the file changed since the last call and holds some; None otherwise."""
        if now_s - self._looked_s < self.look_s:
            return None
        self._looked_s = now_s
        try:
            told = self.path.stat()
            seen = (told.st_mtime_ns, told.st_size, told.st_ino)
            if seen == self._seen:
                return None
            read: Any = json.loads(self.path.read_text(encoding="utf-8"))
            ranges = read["num_speculative_tokens_per_batch_size"]
        except (OSError, ValueError, TypeError, KeyError):
            return None
        self._seen = seen
        return ranges if _sound(ranges) else None


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
