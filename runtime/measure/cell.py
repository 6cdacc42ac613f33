"""What one run of a cell gave, as measured and as a journal keeps it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Self

import numpy as np

from reader_theory.cost.pace import Pace
from runtime.engine.counters import StepTiming
from runtime.engine.request import Request

__all__ = ["Answer", "CellRun"]


@dataclass(frozen=True)
class Answer:
    """What became of one request."""

    id: str
    prompt: list[int]
    output: list[int]
    steps: int
    accepted: int
    finish: str

    @classmethod
    def of(cls, request: Request) -> Self:
        done = request.completion()
        return cls(done.id, request.prompt.tolist(), done.tokens, done.steps, done.accepted, done.finish)


@dataclass(frozen=True)
class CellRun:
    """What one run of a task gave.

    Parameters
    ----------
    segments : list of (int, float)
        Index of a reading of the fixed step, and seconds of decoding from there to the next reading.
    readings : list of float
        Those of the fixed step while it ran; the first has index `first`.
    """

    segments: list[tuple[int, float]]
    prefill_s: float
    steps: list[StepTiming]
    requests: list[Answer]
    offered: Counter[str]
    accepted: Counter[str]
    readings: tuple[float, ...] = ()
    first: int = 0

    @property
    def decode_s(self) -> float:
        """Seconds of decoding, as they passed."""
        return sum(seconds for _, seconds in self.segments)

    def at_pace_s(self, pace: Pace) -> float:
        """The same with the pace of the machine divided out."""
        return sum(seconds / float(pace.at(reading)) for reading, seconds in self.segments)

    def after(self, readings: int) -> CellRun:
        """The same with so many readings before its own."""
        moved = [(at - self.first + readings, seconds) for at, seconds in self.segments]
        return replace(self, segments=moved, first=readings)

    def kept(self) -> dict[str, Any]:
        """Itself in JSON's own types."""
        told = {each.name: getattr(self, each.name) for each in fields(self)}
        return _plain(told | {name: list(map(asdict, told[name])) for name in ("steps", "requests")})

    @classmethod
    def taken_up(cls, kept: Mapping[str, Any]) -> CellRun:
        """The run that `kept` gave."""
        told: dict[str, Any] = {**kept, "readings": tuple(kept["readings"])}
        told["segments"] = [(at, seconds) for at, seconds in told["segments"]]
        told["steps"] = [StepTiming(**each) for each in told["steps"]]
        told["requests"] = [Answer(**each) for each in told["requests"]]
        told |= {name: Counter(told[name]) for name in ("offered", "accepted")}
        return cls(**told)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value.item() if isinstance(value, np.generic) else value
